/**
 * Virtio device models for a machine: bus ports, registers over mmio and PCI, block, network and IOMMU devices. Usable alone: the guest may be
 * native code with drivers of its own.
 *
 * @packageDocumentation
 */

export { BlkDevice } from './blk/blk-device.ts'
export type { BlockRequest, BlockStatus, BlockStore } from './blk/block-store.ts'
export type { BlkDeviceOptions } from './blk/config.ts'
export { MemoryBlockStore } from './blk/memory-block-store.ts'
export { type ConfigField, ConfigSpace } from './device/config-space.ts'
export type { DeviceState, QueueState } from './device/device-state.ts'
export { DEFAULT_FEATURES, type FeatureDependency, type FeatureOptions } from './device/negotiation.ts'
export {
  type DeviceKind,
  type DeviceOptions,
  type DeviceTransport,
  type QueuePosition,
  VirtioDevice,
} from './device/virtio-device.ts'
export type { AccessFault, AccessFaultReason, AddressHalves } from './faults/access-fault.ts'
export { DEVICE_CODES, DeviceError } from './faults/errors.ts'
export type {
  DeviceFault,
  FeatureFault,
  HostFault,
  QueueFault,
  QueueFaultReason,
  RegisterFault,
  RegisterFaultReason,
  RequestFault,
  RequestFaultReason,
  ResetFault,
} from './faults/faults.ts'
export type { IommuDeviceCounters, IommuDeviceOptions, IommuRange } from './iommu/config.ts'
export { IommuDevice } from './iommu/iommu-device.ts'
export { type EndpointOptions, type IommuOwner, IommuPort, type ReservedRegion } from './iommu/iommu-port.ts'
export type { FifoOptions } from './links/frame-fifo.ts'
export type { PathCounters } from './links/frame-path.ts'
export { eachFrame, FRAMES, Frames } from './links/frames.ts'
export { LearningSwitch, type PortCounters, type SwitchOptions, SwitchPort } from './links/learning-switch.ts'
export { LoopbackLink } from './links/loopback-link.ts'
export { type FrameReceiver, MAX_FRAME_BYTES, type NetLink } from './links/net-link.ts'
export { Wire, WireEnd } from './links/wire.ts'
export { type MmioOptions, MmioRegisters, type MmioState } from './mmio/mmio-registers.ts'
export type { NetDeviceCounters, NetDeviceOptions } from './net/config.ts'
export { NetDevice } from './net/net-device.ts'
export type { PciRange } from './pci/bar.ts'
export {
  type PciCapability,
  type VirtioCapabilityFields,
  virtioCapability,
  virtioCapability64,
} from './pci/capabilities.ts'
export type { PciFunctionOptions } from './pci/options.ts'
export { PciFunction } from './pci/pci-function.ts'
export type { PciState } from './pci/state.ts'
export {
  type BusWindow,
  BusWindows,
  type EverythingOptions,
  everything,
  nothing,
  oneWindow,
} from './ports/bus-windows.ts'
export { PagePort } from './ports/page-port.ts'
export type { Reach, TranslationCopy, TranslationSource } from './ports/translation-copy.ts'
