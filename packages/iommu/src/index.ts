/**
 * In-place DMA through an IOMMU: I/O virtual addresses, strict and lazy revocation, the virtio-iommu driver.
 *
 * @example
 * const scheme = virtioIommuScheme({ mode: 'strict' })
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
} from './domain.ts'
export { describeRequestStatus, IommuError } from './errors.ts'
export { IommuBackend, type IommuBackendOptions, type IommuCounters } from './iommu-backend.ts'
export { IovaAllocator } from './iova-allocator.ts'
export { type PooledIommuOptions, pooledIommuScheme } from './pool-scheme.ts'
export { parseProperties, type ReservedRange } from './probe.ts'
export {
  attach,
  declareEndpoint,
  type IommuEndpoint,
  IommuUnit,
  iommuEndpointFact,
  type VirtioIommuSchemeOptions,
  virtioIommuScheme,
} from './scheme.ts'
export { type SharedPagesOptions, sharedPagesFact, sharedPagesScheme } from './shared-pages.ts'
export { VirtioIommuDomain } from './virtio-domain.ts'
export { VirtioIommu, type VirtioIommuCounters, type VirtioIommuOptions } from './virtio-iommu.ts'
