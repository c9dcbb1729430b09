import {
  DMA_OK,
  type DmaScheme,
  type DmaStatus,
  type FactKey,
  factKey,
  type PlatformBuilder,
  type SharedPages,
} from '@guestdma/dma'
import type { BusPort } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { type IommuDomain, REQUEST_GUEST, REQUEST_LENGTH } from './domain.ts'
import { IommuBackend } from './iommu-backend.ts'

/** Guest RAM whose pages the guest shares with a device one by one. */
export const sharedPagesFact: FactKey<SharedPages> = factKey<SharedPages>('shared pages')

/**
 * The `shared-pages` scheme: guest RAM is private, and the guest shares the pages of each buffer while it is lent, as a
 * confidential guest does by changing the state of single pages. There is no translation, so what differs from an IOMMU
 * is the address and who enforces it; the device reaches whole pages.
 */
export function sharedPagesScheme({ id = 'shared-pages' }: { readonly id?: string } = {}): DmaScheme {
  return {
    id,
    provider: {
      id,
      reach: 'granule',
      assess: (offer) =>
        offer.fact(sharedPagesFact) === undefined
          ? { fit: 'unusable', why: 'this platform does not share single pages' }
          : {
              fit: 'usable',
              accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM).and(offer.offered),
              why: 'guest RAM is private and its pages can be shared one by one',
            },
      create: ({ memory, ram, device, fact }) =>
        new IommuBackend({
          name: id,
          memory,
          ram,
          domain: new SharedPagesDomain(device, fact(sharedPagesFact) as SharedPages),
        }),
    },
    install(platform: PlatformBuilder): BusPort {
      const pages = platform.sharedPages()
      platform.declareFact(sharedPagesFact, pages)
      platform.declareRam(false)
      return pages.port
    },
  }
}

/** Pages that are shared and taken back at once; the device uses guest addresses. */
class SharedPagesDomain implements IommuDomain {
  readonly name: string
  readonly granule: number
  readonly leastLength: number
  readonly identity = true
  readonly broken = false
  readonly inputStart = 0
  readonly inputEnd: number = Number.MAX_SAFE_INTEGER
  readonly reserved: readonly never[] = []
  readonly request: Float64Array = new Float64Array(3)
  private readonly pages: SharedPages
  private readonly shared = new Set<number>()

  constructor(name: string, pages: SharedPages) {
    this.name = name
    this.granule = pages.pageBytes
    this.leastLength = pages.pageBytes
    this.pages = pages
  }

  map(_access: number): void {
    const guest = this.request[REQUEST_GUEST]
    this.pages.share(guest, this.request[REQUEST_LENGTH])
    this.shared.add(guest)
  }

  unmap(): void {
    // IOVA = guest address.
    const [guest, , length] = this.request
    this.pages.unshare(guest, length)
    this.shared.delete(guest)
  }

  commit(): DmaStatus {
    return DMA_OK
  }

  dispose(): void {
    for (const guest of this.shared) this.pages.unshare(guest, this.granule)
    this.shared.clear()
  }
}
