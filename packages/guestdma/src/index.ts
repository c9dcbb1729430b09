/**
 * Composes machines: guest memory, DMA schemes, device models and drivers.
 *
 * @packageDocumentation
 */
export { onDeviceScheme, sharedPoolScheme } from '@guestdma/bounce'
export { eachFrame, LearningSwitch, LoopbackLink, MemoryBlockStore, Wire } from '@guestdma/devices'
export { directScheme, platformScheme } from '@guestdma/dma'
export { FrameBatch } from '@guestdma/drivers'
export { pooledIommuScheme, sharedPagesScheme, virtioIommuScheme } from '@guestdma/iommu'
export { GuestMemory, guestAddress } from '@guestdma/memory'
export type { BlkConfig, DeviceConfig, MachineConfig, NetConfig, OwnKindConfig, RemoteConfig } from './config/config.ts'
export type { DriverKind, DriverOptions } from './config/driver-kinds.ts'
export { MACHINE_CODES, MachineError } from './config/errors.ts'
export { type MachineEventMap, MachineEvents, type SchemeChosen } from './config/events.ts'
export type { DeviceCounters, MachineCounters } from './machine/counters.ts'
export { createMachine, Machine } from './machine/machine.ts'
export type { MachineDevice } from './machine/machine-device.ts'
export {
  AGREED_FEATURES,
  DMA_BACKEND,
  DRIVER,
  DRIVER_OPTIONS,
  GUEST_MEMORY,
  GUEST_RAM,
  SESSION,
  TRANSPORT,
} from './machine/tokens.ts'
export { SCHEMES, type SchemeSizes } from './schemes.ts'
