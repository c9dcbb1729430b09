import { type ErrorRecord, GuestDmaError, observe } from '@guestdma/memory'

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

/**
 * What a device says that makes no sense and that its driver can do without: `NET_MAC`, `BLK_SIZE_MAX`,
 * `BLK_BLOCK_SIZE`; or what will not work beside what does: `NET_MTU`, no receive buffer can ever be lent.
 */
export type DriverWarning = ErrorRecord

/** The part of an observer that is told of warnings. */
export interface WarningObserver {
  /** Called while the driver is made: the driver goes on without what the device said. */
  warning?(warning: DriverWarning): void
}

/** Tells an observer of a warning. */
export function warn(observer: WarningObserver, warning: DriverWarning): void {
  observe(() => observer.warning?.(warning), undefined)
}
