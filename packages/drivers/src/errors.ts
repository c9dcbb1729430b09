import { GuestDmaError } from '@guestdma/memory'

/** Misuse of a driver, or a request that did not succeed. Codes start with `NET_`, `BLK_` or `DRIVER_`. */
export class DriverError extends GuestDmaError {}

/**
 * The device broke the rules of a queue, set DEVICE_NEEDS_RESET, or was closed: everything in flight failed with this
 * reason.
 */
export class DeviceBrokenError extends DriverError {
  constructor(device: string, why: string, details: Readonly<Record<string, unknown>> = {}) {
    super('DRIVER_DEVICE_BROKEN', device, `${why}; reset the device to go on`, details)
  }
}
