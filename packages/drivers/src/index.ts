/**
 * Guest drivers. Each is built on a `DeviceSession`, in which a DMA backend was chosen.
 *
 * @packageDocumentation
 */
export {
  BLK_FEATURES,
  BlkDriver,
  type BlkDriverCounters,
  type BlkDriverOptions,
  type BlkObserver,
} from './blk/blk-driver.ts'
export {
  BLK_S_CORRUPT,
  BLK_S_SHORT,
  BLK_S_UNWRITTEN,
  BlkQueue,
  type BlkQueueOptions,
  CompletedRequests,
  RequestBatch,
} from './blk/blk-queue.ts'
export { type BufferMode, NO_BUFFER } from './driver/buffer-mode.ts'
export {
  DeviceBrokenError,
  DRIVER_CODES,
  DriverError,
  type DriverWarning,
  type WarningObserver,
} from './driver/errors.ts'
export { RamBuffers } from './driver/ram-buffers.ts'
export { DeviceSession, QUEUE_FEATURES, type QueueRequest, type SessionOptions } from './driver/session.ts'
export { VirtioDriver, type WaitingOptions } from './driver/virtio-driver.ts'
export type { NetDriverCounters } from './net/counters.ts'
export { FrameBatch, ReceivedFrames } from './net/frames.ts'
export {
  NET_FEATURES,
  NetDriver,
  type NetDriverOptions,
  type NetObserver,
} from './net/net-driver.ts'
