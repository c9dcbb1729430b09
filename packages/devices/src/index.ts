/**
 * Virtio device models for a machine: bus ports, registers over mmio and PCI, block, network and IOMMU devices. Usable alone: the guest may be
 * native code with drivers of its own.
 *
 * @example
 * const memory = new GuestMemory([{ base: 0x8000_0000, length: 1 << 24, memory: ram }])
 * const disk = new BlkDevice({ name: 'disk', port: everything(memory), store: new MemoryBlockStore(new Uint8Array(1 << 20)) })
 * const registers = new MmioRegisters(disk, { interrupts: plic.line(1) })
 * // bus: registers.read(offset, size), registers.write(offset, size, value); loop: disk.poll(64) until it returns 0, then sleep until disk.onWork is called
 *
 * @packageDocumentation
 */
export type { AccessFault, AccessFaultReason, AddressHalves } from './access-fault.ts'
export type { BlkOptions } from './blk-config.ts'
export { BlkDevice } from './blk-device.ts'
export type { BlockRequest, BlockStatus, BlockStore } from './block-store.ts'
export { type BusWindow, BusWindows, type EverythingOptions, everything, nothing, oneWindow } from './bus-windows.ts'
export { ChainTable, MAX_SEGMENTS } from './chain-table.ts'
export { type ConfigField, ConfigSpace } from './config-space.ts'
export {
  AREA_DESC_HIGH,
  AREA_DESC_LOW,
  AREA_DEVICE_HIGH,
  AREA_DEVICE_LOW,
  AREA_DRIVER_HIGH,
  AREA_DRIVER_LOW,
  DeviceQueue,
} from './device-queue.ts'
export type { DeviceState, QueueState } from './device-state.ts'
export { DeviceError } from './errors.ts'
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
} from './faults.ts'
export type { FifoOptions } from './frame-fifo.ts'
export type { PathCounters } from './frame-path.ts'
export type { IommuCounters, IommuOptions, IommuRange } from './iommu-config.ts'
export { IommuDevice } from './iommu-device.ts'
export { type EndpointOptions, type IommuOwner, IommuPort, type ReservedRegion } from './iommu-port.ts'
export { LearningSwitch, type PortCounters, type SwitchOptions, SwitchPort } from './learning-switch.ts'
export { LoopbackLink } from './loopback-link.ts'
export { MemoryBlockStore } from './memory-block-store.ts'
export { type MmioOptions, MmioRegisters, type MmioState } from './mmio-registers.ts'
export { DEFAULT_FEATURES, type FeatureDependency, type FeatureOptions } from './negotiation.ts'
export type { NetCounters, NetOptions } from './net-config.ts'
export { NetDevice } from './net-device.ts'
export { type FrameReceiver, MAX_FRAME_BYTES, type NetLink } from './net-link.ts'
export { PagePort } from './page-port.ts'
export type { PciRange } from './pci-bar.ts'
export {
  type PciCapability,
  type VirtioCapabilityFields,
  virtioCapability,
  virtioCapability64,
} from './pci-capabilities.ts'
export { PciFunction } from './pci-function.ts'
export type { PciOptions } from './pci-options.ts'
export type { PciState } from './pci-state.ts'
export { NO_CHAIN, type RingSetup, SplitRingWalker } from './split-ring-walker.ts'
export {
  type DeviceKind,
  type DeviceOptions,
  type DeviceTransport,
  type QueuePosition,
  VirtioDevice,
} from './virtio-device.ts'
export { Wire, WireEnd } from './wire.ts'
