/**
 * The shared driver-side virtqueue core.
 *
 * @packageDocumentation
 */
export { QueueTooSmallError, VIRTQUEUE_CODES, VirtqueueError } from './errors.ts'
export { crosses } from './event-index.ts'
export { SplitVirtqueue } from './split-virtqueue.ts'
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
