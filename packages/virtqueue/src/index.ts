/**
 * The shared driver-side virtqueue core.
 *
 * @example
 * const queue = new SplitVirtqueue({ name: 'net0 transmit', index: 1, size: 256, backend, features, doorbell })
 * queue.segments.address[0] = guest
 * queue.segments.length[0] = 64
 * const id = queue.add(1, 0)
 * queue.publish()
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
