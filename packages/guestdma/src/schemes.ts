import { onDeviceScheme, sharedPoolScheme } from '@guestdma/bounce'
import { type DmaScheme, directScheme } from '@guestdma/dma'
import { pooledIommuScheme, sharedPagesScheme, virtioIommuScheme } from '@guestdma/iommu'

/** What the factories of {@link SCHEMES} may be told. */
export interface SchemeSizes {
  /** Bytes of the pool or of the region on the device, where a scheme has one. Default: the scheme's own. */
  readonly poolBytes?: number
}

/**
 * Every scheme that comes with guestdma, by its id. A factory gives a new scheme each time, since a scheme may keep a
 * pool or an IOMMU and belongs to one machine.
 */
export const SCHEMES: Readonly<Record<string, (sizes?: SchemeSizes) => DmaScheme>> = {
  direct: () => directScheme(),
  'shared-pool': (sizes) => sharedPoolScheme(pool(sizes)),
  'on-device': (sizes) => onDeviceScheme(pool(sizes)),
  'virtio-iommu': () => virtioIommuScheme(),
  'virtio-iommu-lazy': () => virtioIommuScheme({ mode: 'lazy' }),
  'virtio-iommu-byte': () => virtioIommuScheme({ granule: 1 }),
  'virtio-iommu-bounce': () => virtioIommuScheme({ subGranule: 'bounce' }),
  'virtio-iommu-simple': (sizes) => pooledIommuScheme(pool(sizes)),
  'shared-pages': () => sharedPagesScheme(),
}

function pool({ poolBytes }: SchemeSizes = {}): { size?: number } {
  return poolBytes === undefined ? {} : { size: poolBytes }
}
