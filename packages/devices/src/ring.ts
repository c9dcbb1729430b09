/**
 * The device's half of a virtqueue, for those who write another device type or another ring. Models, ports and
 * registers are in `@guestdma/devices`.
 *
 * @example
 * import { VirtioDevice } from '@guestdma/devices'
 * import { type DeviceQueue, NO_CHAIN } from '@guestdma/devices/ring'
 *
 * @packageDocumentation
 */
export { DeviceQueue } from './device/device-queue.ts'
export {
  ChainTable,
  MAX_SEGMENTS,
  ROW,
  ROW_FETCHED,
  ROW_ID,
  SEGMENT,
  SEGMENT_FLAGS,
  SEGMENT_LENGTH,
} from './ring/chain-table.ts'
export type {
  DeviceRing,
  DeviceRingFormats,
  RingPosition,
  RingSetup,
} from './ring/device-ring.ts'
export { PackedDeviceRing } from './ring/packed.ts'
export type { RingArea, RingOwner } from './ring/ring-area.ts'
export {
  AREA_DESC_HIGH,
  AREA_DESC_LOW,
  AREA_DEVICE_HIGH,
  AREA_DEVICE_LOW,
  AREA_DRIVER_HIGH,
  AREA_DRIVER_LOW,
} from './ring/ring-area.ts'
export { NO_CHAIN, RingWalker } from './ring/ring-walker.ts'
export { SplitDeviceRing } from './ring/split.ts'
