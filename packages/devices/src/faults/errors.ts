import { GuestDmaError } from '@guestdma/memory'

/**
 * Misuse of a device model by the code that composes the machine: a bad option, a state that does not fit, a store of
 * an odd size. What a *guest* does wrong never throws: it goes to a fault log.
 */
export class DeviceError extends GuestDmaError<keyof typeof DEVICE_CODES> {}

export const DEVICE_CODES = {
  DEVICE_BUSY: {
    meaning: 'The state of a device was to be saved while requests are in flight.',
    advice: 'Let the device finish first, then save.',
  },
  DEVICE_FEATURE: {
    meaning: 'The feature bits that a device is to offer or require do not fit together.',
    advice: 'Offer what is required, and only bits that the device model knows.',
  },
  DEVICE_OPTION: {
    meaning: 'An option of a device model is not usable.',
    advice: 'Take a value within the bounds that the message names.',
  },
  DEVICE_QUEUE_SIZE: {
    meaning: 'The largest size of a queue is no power of two from 1 to 32768.',
    advice: 'Choose such a size.',
  },
  DEVICE_STATE: {
    meaning: 'A saved state does not fit the device, or is damaged.',
    advice: 'Restore into a device with the options of the saved one.',
  },
  LINK_ANSWER: {
    meaning: "A link's `transmit` returned a number of frames that it cannot have taken.",
    advice: 'Return how many frames of the batch were taken, from 0 to `count`.',
  },
  LINK_ATTACHED: {
    meaning: 'A device was plugged into a link or port that has one already.',
    advice: 'Use a further link or port.',
  },
  LINK_OPTION: {
    meaning: 'An option of a link or switch is out of its bounds.',
    advice: 'Take a value within the bounds that the message names.',
  },
  PAGE_SPAN: {
    meaning: 'What is to be shared or taken back is not whole pages.',
    advice: 'Align the address and the length to the page size.',
  },
  STORE_CAPACITY: {
    meaning: 'A block store is empty, or is not a whole number of sectors of 512 bytes.',
    advice: 'Pad the file or the buffer.',
  },
  STORE_FILE: {
    meaning: 'The file behind a block store ended, or took no more bytes, in the middle of a request.',
    advice: 'Do not shorten the file while it is in use, and leave room on the disk.',
  },
  WINDOW_ACCESS: {
    meaning: 'The access of a window is neither read, nor write, nor both.',
    advice: 'Pass ACCESS_READ, ACCESS_WRITE or their sum.',
  },
  WINDOW_OUTSIDE: {
    meaning: 'A window does not lie within its region.',
    advice: 'Check the offset and the length against the region.',
  },
  WINDOW_OVERLAP: {
    meaning: 'Two windows of a port share bus addresses.',
    advice: 'Move or shorten one of the two.',
  },
  WORKER_DEADLINE: {
    meaning:
      'A worker with a device did not answer, did not start, did not end or did not let go of memory within its deadline.',
    advice: 'Restart the worker and reset the device; raise deadlineMs where a store blocks its thread for longer.',
  },
  WORKER_ENDED: {
    meaning: 'The worker with the device has ended.',
    advice: 'Restart the worker and reset the device.',
  },
  WORKER_FAILED: {
    meaning: 'The worker with the device threw, or could not make its device.',
    advice: 'Read the message: it is what the worker threw. Then restart the worker and reset the device.',
  },
  WORKER_MEMORY: {
    meaning: 'A window of a worker lies in memory that threads cannot share.',
    advice: 'Put guest memory, or the pool, on a SharedArrayBuffer.',
  },
  WORKER_OPTION: {
    meaning: 'An option of a worker with a device is not usable.',
    advice: 'Take a value as the message describes it.',
  },
} as const
