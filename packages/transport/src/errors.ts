import { GuestDmaError } from '@guestdma/memory'

/**
 * A device that cannot be reached or brought up. Codes: `TRANSPORT_MAGIC`, `TRANSPORT_VERSION`, `TRANSPORT_QUEUE`,
 * `TRANSPORT_QUEUE_SIZE`, `TRANSPORT_QUEUE_BUSY`, `TRANSPORT_CONFIG_UNSTABLE`, `TRANSPORT_LEGACY`,
 * `TRANSPORT_DEVICE_TYPE`.
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
