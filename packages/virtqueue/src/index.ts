/**
 * The driver's half of a virtqueue, over a split or a packed ring.
 *
 * @packageDocumentation
 */

export { ChainAccount } from './account.ts'
export { DriverQueue } from './driver-queue.ts'
export {
  type DescriptorList,
  type DriverRing,
  type DriverRingSetup,
  LISTED_FLAGS,
  type RingFormat,
} from './driver-ring.ts'
export { QueueTooSmallError, VIRTQUEUE_CODES, VirtqueueError } from './errors.ts'
export { crosses } from './event-index.ts'
export { packedFormat } from './packed.ts'
export { splitFormat } from './split.ts'
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
