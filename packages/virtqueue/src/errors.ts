import { GuestDmaError } from '@guestdma/memory'

/**
 * A virtqueue that cannot be made or a call that breaks its contract (thrown), or what broke a queue (`queue.broken`).
 */
export class VirtqueueError extends GuestDmaError<keyof typeof VIRTQUEUE_CODES> {}

/**
 * The longest chain of a driver does not fit the queue that the device allows: a chain may not be longer than the queue
 * (virtio 1.4 §2.7.5.3.1).
 */
export class QueueTooSmallError extends VirtqueueError {
  constructor(queue: string, size: number, needed: number) {
    super(
      'VIRTQUEUE_TOO_SMALL',
      queue,
      `a queue of ${size} descriptors cannot hold a chain of ${needed}; the device must allow at least ${needed}`,
      { size, needed },
    )
  }
}

export const VIRTQUEUE_CODES = {
  VIRTQUEUE_BACKEND: {
    meaning: 'The DMA backend of a queue threw, or answered with what is no status; the queue is broken.',
    advice: 'Mend the backend, then reset the device; the conformance suites find such answers.',
  },
  VIRTQUEUE_CELLS: {
    meaning: 'More areas of cells were asked for than a queue can have.',
    advice: 'Reserve areas once, when the queue is made.',
  },
  VIRTQUEUE_COMMIT: {
    meaning: 'The backend could not revoke mappings, so the device may still reach that memory; the queue is broken.',
    advice: 'Reset the device, which revokes what it reaches.',
  },
  VIRTQUEUE_DISPOSED: {
    meaning: 'The queue was disposed.',
    advice: 'Make another queue after the device was reset.',
  },
  VIRTQUEUE_PREPARE: {
    meaning: 'A chain cannot be prepared, or a chain is published as prepared that is not.',
    advice: 'Read the reason in the message; prepare chains of allocated memory only, and not with IN_ORDER.',
  },
  VIRTQUEUE_SEGMENT: {
    meaning: 'A segment of a chain is empty, or a chain has no segment.',
    advice: 'Give each chain at least one segment of at least one byte.',
  },
  VIRTQUEUE_SIZE: {
    meaning: 'The size of a queue is no power of two from 1 to 32768.',
    advice: 'Choose a size that the device allows.',
  },
  VIRTQUEUE_TOO_SMALL: {
    meaning: 'The longest chain of the driver does not fit the queue that the device allows.',
    advice: 'Let the device offer a larger queue, or INDIRECT_DESC.',
  },
  VIRTQUEUE_USED_ID: {
    meaning: 'The device used an id that is outside the queue; the queue is broken.',
    advice: 'Mend the device; reset it to go on.',
  },
  VIRTQUEUE_USED_INDEX: {
    meaning: 'The device moved the used index further than there are outstanding chains; the queue is broken.',
    advice: 'Mend the device; reset it to go on.',
  },
  VIRTQUEUE_USED_ORDER: {
    meaning: 'The device skipped chains with IN_ORDER that it had not used; the queue is broken.',
    advice: 'Mend the device, or do not offer IN_ORDER; reset it to go on.',
  },
  VIRTQUEUE_USED_TWICE: {
    meaning: 'The device used an id that is not the head of an outstanding chain; the queue is broken.',
    advice: 'Mend the device; reset it to go on.',
  },
} as const
