import { type DmaScheme, directScheme } from '@guestdma/dma'
import { onDeviceScheme, pooledIommuScheme, sharedPagesScheme, sharedPoolScheme, virtioIommuScheme } from 'guestdma'

export type TransportName = 'mmio' | 'pci'

/** A scheme of the demo, and what a machine over it needs. */
export interface DemoScheme {
  /** Made anew for each machine: a scheme may keep an IOMMU or a pool. */
  make(): DmaScheme
  /** The only transport that the scheme is shown over, and why. */
  readonly only?: { readonly transport: TransportName; readonly why: string }
  /** Listed by name, where a driver would not choose the scheme by itself. */
  readonly listed?: true
}

// Half of it is for receive buffers, and twice 256 of them have room.
const POOL = 4 << 20

/** Every scheme that the demo shows, by id. */
export const SCHEMES: Readonly<Record<string, DemoScheme>> = {
  direct: { make: () => directScheme() },
  'shared-pool': { make: () => sharedPoolScheme({ size: POOL }) },
  'on-device': {
    make: () => onDeviceScheme({ size: POOL }),
    only: { transport: 'pci', why: 'memory on a device lies behind a BAR' },
  },
  'virtio-iommu': { make: () => virtioIommuScheme() },
  'virtio-iommu-lazy': { make: () => virtioIommuScheme({ mode: 'lazy' }) },
  'virtio-iommu-byte': { make: () => virtioIommuScheme({ granule: 1 }) },
  'virtio-iommu-bounce': { make: () => virtioIommuScheme({ subGranule: 'bounce' }) },
  // Where an IOMMU can reach all of RAM, a pool behind it is a choice.
  'virtio-iommu-simple': { make: () => pooledIommuScheme({ size: POOL }), listed: true },
  'shared-pages': { make: () => sharedPagesScheme() },
}

/** The transport that a scheme is shown over, given the one that was asked for. */
export function transportOf({ only }: DemoScheme, asked: TransportName): TransportName {
  return only?.transport ?? asked
}
