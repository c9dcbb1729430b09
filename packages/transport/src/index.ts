/**
 * How a driver reaches a device and brings it up.
 *
 * @example
 * const transport = MmioTransport.probe(bus, 'net0')
 *
 * @packageDocumentation
 */
export type { AddressSpan, Devicetree, DevicetreeNode } from './devicetree.ts'
export { readDevicetree } from './devicetree-blob.ts'
export {
  type ExtendedInterrupt,
  type IommuEndpoint,
  iommuEndpoints,
  iommuForRequester,
  type RestrictedDmaPool,
  restrictedDmaPool,
  type VirtioMmioNode,
  virtioMmioNode,
  virtioMmioNodes,
} from './devicetree-devices.ts'
export { cpuBaseOf, spansOf } from './devicetree-reg.ts'
export { DeviceStuckError, TransportError, TransportLostError } from './errors.ts'
export { MmioTransport } from './mmio.ts'
export {
  addStatus,
  giveUp,
  type Negotiated,
  type NegotiationOptions,
  negotiate,
  resetDevice,
  resetQueue,
} from './negotiate.ts'
export { type PciOptions, PciTransport } from './pci.ts'
export { assignBars, type BarRequest, type PciAccess, type PciBar } from './pci-bars.ts'
export type { IgnoredCapability } from './pci-capabilities.ts'
export type { SharedMemoryRegion, SwiotlbRegion } from './pci-layout.ts'
export type { MessageRoutes } from './pci-msix.ts'
export type { ConfigReader, QueueAreas, VirtioTransport } from './transport.ts'
export { DEFAULT_DEADLINE_MS, Deadline, deadlineMsOf, type Wait, waitUntil } from './wait.ts'
