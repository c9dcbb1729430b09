import { GuestDmaError } from '@guestdma/memory'

/**
 * A device that cannot be reached or brought up. Codes: `TRANSPORT_MAGIC`, `TRANSPORT_VERSION`, `TRANSPORT_QUEUE`,
 * `TRANSPORT_QUEUE_SIZE`, `TRANSPORT_QUEUE_BUSY`, `TRANSPORT_CONFIG_UNSTABLE`, `TRANSPORT_CONFIG_RANGE`,
 * `TRANSPORT_LEGACY`, `TRANSPORT_DEVICE_TYPE`; over PCI `TRANSPORT_PCI_CAPABILITY`, `TRANSPORT_PCI_HEADER`,
 * `TRANSPORT_PCI_BAR`, `TRANSPORT_PCI_NOTIFY`, `TRANSPORT_MSIX_VECTOR`; for devicetrees `TRANSPORT_FDT_…`, see
 * `readDevicetree` and the questions to it.
 */
export class TransportError extends GuestDmaError {}

/**
 * A device did not finish a reset in time. `details.quarantined`: its memory stays out of use, since nothing can revoke
 * it.
 */
export class DeviceStuckError extends TransportError {
  constructor(device: string, waitedMs: number, quarantined: boolean) {
    super(
      'TRANSPORT_DEVICE_STUCK',
      device,
      `the device did not answer a reset within ${waitedMs} ms; ${quarantined ? 'its memory stays out of use' : 'it was detached from memory'}`,
      { waitedMs, quarantined },
    )
  }
}
