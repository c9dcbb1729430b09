/**
 * Device models in a worker, of Node or of a browser: the driver's side and the worker's side of it.
 *
 * @example
 * import { DeviceWorker, serveDevice } from '@guestdma/devices/worker'
 *
 * @packageDocumentation
 */
export { DeviceWorker, type DeviceWorkerOptions } from './worker/device-worker.ts'
export type { WorkerPciOptions } from './worker/messages.ts'
export { serveDevice, type WorkerDeviceMaker, type WorkerDeviceSetup, type WorkerScope } from './worker/serve-device.ts'
export type { WorkerFunction } from './worker/worker-function.ts'
export type { WorkerLike } from './worker/worker-like.ts'
