import { GuestDmaError } from '@guestdma/memory'

/**
 * A device that cannot be reached or brought up. Codes: `TRANSPORT_MAGIC`, `TRANSPORT_VERSION`, `TRANSPORT_QUEUE`,
 * `TRANSPORT_QUEUE_SIZE`, `TRANSPORT_QUEUE_BUSY`, `TRANSPORT_CONFIG_UNSTABLE`, `TRANSPORT_CONFIG_RANGE`,
 * `TRANSPORT_LEGACY`, `TRANSPORT_DEVICE_TYPE`, `TRANSPORT_FEATURES`, `TRANSPORT_WAIT`, `TRANSPORT_LOST`; over PCI
 * `TRANSPORT_PCI_CAPABILITY`, `TRANSPORT_PCI_HEADER`, `TRANSPORT_PCI_BAR`, `TRANSPORT_PCI_NOTIFY`,
 * `TRANSPORT_MSIX_VECTOR`; for devicetrees `TRANSPORT_FDT_…`, see `readDevicetree` and the questions to it.
 */
export class TransportError extends GuestDmaError {}

/**
 * The other end of a transport is gone: a process that ended, a socket that closed. Code `TRANSPORT_LOST`; `cause` is
 * what the access failed with. A driver treats it as a device that needs a reset, which it can no longer have.
 */
export class TransportLostError extends TransportError {
  constructor(device: string, cause: unknown) {
    super('TRANSPORT_LOST', device, `the connection to the device is lost: ${textOf(cause)}`)
    this.cause = cause
  }
}

/**
 * A device did not confirm a reset: in time, or at all, since an access to it failed (`cause`). `details.quarantined`:
 * its memory stays out of use, since nothing can revoke it.
 */
export class DeviceStuckError extends TransportError {
  constructor(device: string, waitedMs: number, quarantined: boolean, cause?: unknown) {
    const what =
      cause === undefined
        ? `the device did not answer a reset within ${waitedMs} ms`
        : `the device could not be reset: ${textOf(cause)}`
    const memory = quarantined ? 'its memory stays out of use' : 'it was detached from memory'
    super('TRANSPORT_DEVICE_STUCK', device, `${what}; ${memory}`, { waitedMs, quarantined })
    if (cause !== undefined) this.cause = cause
  }
}

function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}
