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
export { FrameBatch, NO_BUFFER, ReceivedFrames } from './net/frames.ts'
export {
  type BufferMode,
  NET_FEATURES,
  NetDriver,
  type NetDriverCounters,
  type NetDriverOptions,
  type NetObserver,
} from './net/net-driver.ts'
