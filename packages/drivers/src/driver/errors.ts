import { type ErrorRecord, GuestDmaError, observe } from '@guestdma/memory'

/** Misuse of a driver, or a request that did not succeed. */
export class DriverError extends GuestDmaError<keyof typeof DRIVER_CODES> {}

/**
 * The device broke the rules of a queue, set DEVICE_NEEDS_RESET, or was closed: everything in flight failed with this
 * reason.
 */
export class DeviceBrokenError extends DriverError {
  constructor(device: string, why: string, details: Readonly<Record<string, unknown>> = {}, options?: ErrorOptions) {
    super('DRIVER_DEVICE_BROKEN', device, `${why}; reset the device to go on`, details, options)
  }
}

/**
 * What a device says that makes no sense and that its driver can do without, or what will not work beside what does, or
 * what had to be made good when the device was closed.
 */
export interface DriverWarning extends ErrorRecord {
  readonly code: keyof typeof DRIVER_CODES
}

/** The part of an observer that is told of warnings. */
export interface WarningObserver {
  /**
   * Called while the driver is made: the driver goes on without what the device said. Called when the device is closed:
   * it was cut off from memory in another way than by its backend, and nothing is missing.
   */
  warning?(warning: DriverWarning): void
}

/** Tells an observer of a warning. */
export function warn(observer: WarningObserver, warning: DriverWarning): void {
  observe(() => observer.warning?.(warning), undefined)
}

export const DRIVER_CODES = {
  BLK_ALIGNMENT: {
    meaning: 'A request does not begin or end on a block of the device.',
    advice: 'Align the sector and the length to the block size.',
  },
  BLK_BLOCK_SIZE: {
    meaning: 'Warning: the block size of the device is not usable, so that blocks are sectors of 512 bytes.',
    advice: 'Mend blk_size in the configuration of the device.',
  },
  BLK_CAPACITY: {
    meaning: 'The device has more sectors than byte offsets can address.',
    advice: 'Give the device a smaller disk.',
  },
  BLK_CORRUPT: {
    meaning: 'The DMA backend could not take the data of a read back intact; none of it was delivered.',
    advice: 'Read again; if it goes on, look for a device that writes outside its buffers.',
  },
  BLK_DMA: {
    meaning: 'The data of a request could not be lent to the device.',
    advice:
      'Check that the address and the length lie in guest memory, and that the pool of the scheme is large enough.',
  },
  BLK_IOERR: {
    meaning: 'The device reports an I/O error.',
    advice: 'Look at what is behind the device.',
  },
  BLK_LENGTH: {
    meaning: 'The length of a request is no positive multiple of 512 bytes.',
    advice: 'Read and write whole sectors.',
  },
  BLK_NO_STATUS: {
    meaning: 'The device completed a request without writing its status.',
    advice: 'Mend the device; the data is not to be trusted.',
  },
  BLK_RANGE: {
    meaning: 'A request does not lie within the capacity.',
    advice: 'Check the sector and the length against the capacity.',
  },
  BLK_READ_ONLY: {
    meaning: 'The device is read-only.',
    advice: 'Do not write, or give the device a store that can be written.',
  },
  BLK_RESET: {
    meaning: 'The request queue was reset while the request was in flight. The device has executed it, or will not.',
    advice: 'Ask again: reading or writing the same sectors twice does no harm.',
  },
  BLK_SHORT: {
    meaning: 'The device claims success but delivered fewer bytes than were asked for.',
    advice: 'Mend the device; the data is not to be trusted.',
  },
  BLK_SIZE_MAX: {
    meaning:
      'The longest segment of the device is unusable: a block does not fit (thrown), or the value is ignored (warning).',
    advice: 'Mend size_max in the configuration of the device.',
  },
  BLK_STATUS: {
    meaning: 'The device wrote a status that the specification does not know.',
    advice: 'Mend the device.',
  },
  BLK_TIMEOUT: {
    meaning: 'A request was not answered within requestDeadlineMs.',
    advice: 'Reset the device; raise the deadline for a slow one.',
  },
  BLK_UNSUPPORTED: {
    meaning: 'The device does not support this type of request.',
    advice: 'Do not send it to this device.',
  },
  DRIVER_CLOSED: {
    meaning: 'The driver was closed, or its device was reset while the request was in flight.',
    advice: 'Make another driver, or send the request again after the reset.',
  },
  DRIVER_CUT_OFF: {
    meaning:
      'Warning: the backend could not take all away from a device that was closed before the platform had cut the device off.',
    advice: 'Look at the cause: an IOMMU refuses what it must not. Nothing is missing, and all memory went back.',
  },
  DRIVER_DEVICE_BROKEN: {
    meaning: 'The device broke a rule, needs a reset, or cannot be reached; all that was in flight failed.',
    advice: 'Look at the message and the cause, then reset the device.',
  },
  DRIVER_DEVICE_TYPE: {
    meaning: 'The device is not of the type that this driver is for.',
    advice: 'Use the driver for the device ID in details.found.',
  },
  DRIVER_NO_QUEUE: {
    meaning: 'The device lacks a queue that the driver needs.',
    advice: 'Mend the device: its type prescribes which queues there are.',
  },
  DRIVER_NO_RING_RESET: {
    meaning: 'A queue was to be reset alone, and RING_RESET was not agreed.',
    advice: 'Reset the device instead, or use one that offers RING_RESET.',
  },
  DRIVER_NO_SUSPEND: {
    meaning: 'The device was to be suspended, and SUSPEND was not agreed.',
    advice: 'Use a device that offers SUSPEND, or close the device and make it anew.',
  },
  DRIVER_OPTION: {
    meaning: 'An option of a driver is out of its bounds.',
    advice: 'Take a value within the bounds that the message names.',
  },
  DRIVER_SUSPENDED: {
    meaning: 'The device is suspended, or was to be resumed and is not suspended.',
    advice: 'Resume the device before anything else is asked of it, and only once.',
  },
  NET_BUFFER_LENT: {
    meaning: 'A buffer was given back while the device has it.',
    advice: 'Leave it: it goes back by itself once it was sent.',
  },
  NET_FRAME_LENGTH: {
    meaning: 'A frame is shorter or longer than can be sent.',
    advice: 'Keep frames within details.maxFrame bytes, and not empty.',
  },
  NET_FRAME_PLACE: {
    meaning: 'A frame is not where this way of sending takes it from.',
    advice: "Use buffers of the driver's pool where it has one, and do not mix them with others.",
  },
  NET_MAC: {
    meaning: 'Warning: the address of the device is none that a station can have; it is ignored.',
    advice: 'Give the device a unicast address.',
  },
  NET_MTU: {
    meaning: 'The MTU of the device is below the minimum.',
    advice: 'Raise the MTU of the device to 68 at least.',
  },
  NET_NO_RECEIVE: {
    meaning: 'Warning: the scheme can never lend a whole receive buffer, so that nothing will be received.',
    advice: 'Give the scheme more memory, or lower the MTU of the device.',
  },
} as const
