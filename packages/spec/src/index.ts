/**
 * Constants of the virtio 1.4 specification, each with its section, and `FeatureSet`.
 *
 * @packageDocumentation
 */
export * from './blk.ts'
export * from './device-status.ts'
export { FEATURE_BITS, FeatureSet } from './feature-set.ts'
export * from './features.ts'
export * from './iommu.ts'
export * from './mmio.ts'
export * from './net.ts'
export * from './packed-ring.ts'
export * from './pci.ts'
export * from './split-ring.ts'
