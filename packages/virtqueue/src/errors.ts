import { GuestDmaError } from '@guestdma/memory'

/**
 * A virtqueue that cannot be made, a call that breaks its contract, or what broke a queue. Codes: `VIRTQUEUE_SIZE`,
 * `VIRTQUEUE_TOO_SMALL`, `VIRTQUEUE_SEGMENT`, `VIRTQUEUE_CELLS` (misuse, thrown);
 * `VIRTQUEUE_USED_INDEX`, `VIRTQUEUE_USED_ID`, `VIRTQUEUE_USED_TWICE`, `VIRTQUEUE_USED_ORDER`, `VIRTQUEUE_COMMIT`,
 * `VIRTQUEUE_BACKEND` (the queue is broken).
 */
export class VirtqueueError extends GuestDmaError {}

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
