/**
 * The driver's half of a virtqueue, over a split or a packed ring.
 *
 * @packageDocumentation
 */

export { DriverQueue } from './driver-queue.ts'
export type { RingFormat } from './driver-ring.ts'
export { QueueTooSmallError, VIRTQUEUE_CODES, VirtqueueError } from './errors.ts'
export { crosses } from './event-index.ts'
export {
  type CellArea,
  Completions,
  QUEUE_BROKEN,
  QUEUE_FULL,
  SEGMENT_CELL,
  SEGMENT_DEVICE,
  SEGMENT_GUEST,
  Segments,
  type Virtqueue,
  type VirtqueueCounters,
  type VirtqueueOptions,
} from './virtqueue.ts'
