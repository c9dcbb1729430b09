/**
 * How a driver reaches a device and brings it up.
 *
 * @packageDocumentation
 */

export { DeviceStuckError, TRANSPORT_CODES, TransportError, TransportLostError } from './contract/errors.ts'
export type { ConfigReader, QueueAreas, VirtioTransport } from './contract/transport.ts'
export { DEFAULT_DEADLINE_MS, Deadline, deadlineMsOf, turnsUntil, type Wait, waitUntil } from './contract/wait.ts'
export { readDevicetree } from './devicetree/blob.ts'
export {
  type ExtendedInterrupt,
  type IommuSpecifier,
  iommuEndpoints,
  iommuForRequester,
  type RestrictedDmaPool,
  restrictedDmaPool,
  type VirtioMmioNode,
  virtioMmioNode,
  virtioMmioNodes,
} from './devicetree/devices.ts'
export type { AddressSpan, Devicetree, DevicetreeNode } from './devicetree/devicetree.ts'
export { cpuBaseOf, spansOf } from './devicetree/reg.ts'
export { MmioTransport } from './mmio/mmio-transport.ts'
export {
  addStatus,
  giveUp,
  type Negotiated,
  type NegotiationOptions,
  negotiate,
  resetDevice,
  resetQueue,
} from './negotiation/negotiate.ts'
export { assignBars, type BarRequest, type PciAccess, type PciBar } from './pci/bars.ts'
export type { IgnoredCapability } from './pci/capabilities.ts'
export type { SharedMemoryRegion, SwiotlbRegion } from './pci/layout.ts'
export type { MessageRoutes } from './pci/msix.ts'
export { PciTransport, type PciTransportOptions } from './pci/pci-transport.ts'
