/**
 * Composes machines: guest memory, DMA schemes, device models and drivers.
 *
 * @packageDocumentation
 */
export { onDeviceScheme, sharedPoolScheme } from '@guestdma/bounce'
export { LearningSwitch, LoopbackLink, MemoryBlockStore, Wire } from '@guestdma/devices'
export { directScheme, platformScheme } from '@guestdma/dma'
export { FrameBatch } from '@guestdma/drivers'
export { pooledIommuScheme, sharedPagesScheme, virtioIommuScheme } from '@guestdma/iommu'
export { GuestMemory, guestAddress } from '@guestdma/memory'
export type { BlkConfig, DeviceConfig, MachineConfig, NetConfig } from './config.ts'
export type { DeviceCounters, MachineCounters } from './counters.ts'
export { MACHINE_CODES, MachineError } from './errors.ts'
export { type MachineEventMap, MachineEvents, type SchemeChosen } from './events.ts'
export { createMachine, Machine } from './machine.ts'
export type { MachineDevice } from './machine-device.ts'
export { SCHEMES, type SchemeSizes } from './schemes.ts'
export {
  AGREED_FEATURES,
  BLK_DRIVER,
  BLK_OPTIONS,
  DMA_BACKEND,
  GUEST_MEMORY,
  GUEST_RAM,
  NET_DRIVER,
  NET_OPTIONS,
  SESSION,
  TRANSPORT,
} from './tokens.ts'
