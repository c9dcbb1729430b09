/**
 * In-place DMA through an IOMMU: I/O virtual addresses, strict and lazy revocation, the virtio-iommu driver.
 *
 * @packageDocumentation
 */
export {
  DOMAIN_READ,
  DOMAIN_WRITE,
  type IommuDomain,
  REQUEST_GUEST,
  REQUEST_IOVA,
  REQUEST_LENGTH,
} from './backend/domain.ts'
export { IommuBackend, type IommuBackendCounters, type IommuBackendOptions } from './backend/iommu-backend.ts'
export { IovaAllocator } from './backend/iova-allocator.ts'
export { type PooledIommuOptions, pooledIommuScheme } from './schemes/pooled.ts'
export { type SharedPagesOptions, sharedPagesFact, sharedPagesScheme } from './schemes/shared-pages.ts'
export {
  attach,
  behindForeign,
  behindOwn,
  type ForeignIommu,
  type IommuEndpoint,
  IommuUnit,
  iommuEndpointFact,
} from './schemes/unit.ts'
export { type VirtioIommuSchemeOptions, virtioIommuScheme } from './schemes/virtio-iommu.ts'
export { describeRequestStatus, IOMMU_CODES, IommuError } from './virtio/errors.ts'
export { parseProperties, type ReservedRange } from './virtio/probe.ts'
export { VirtioIommuDomain } from './virtio/virtio-domain.ts'
export { VirtioIommu, type VirtioIommuCounters, type VirtioIommuOptions } from './virtio/virtio-iommu.ts'
