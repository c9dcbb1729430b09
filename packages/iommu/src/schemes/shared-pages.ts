import {
  DMA_FAILED,
  DMA_OK,
  DmaError,
  type DmaScheme,
  type DmaStatus,
  type FactKey,
  factKey,
  type PlatformBuilder,
  type SharedPages,
} from '@guestdma/dma'
import type { BusPort } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { type IommuDomain, REQUEST_IOVA, REQUEST_LENGTH } from '../backend/domain.ts'
import { IommuBackend } from '../backend/iommu-backend.ts'

/** Guest RAM whose pages the guest shares with a device one by one. */
export const sharedPagesFact: FactKey<SharedPages> = factKey<SharedPages>('shared pages')

export interface SharedPagesOptions {
  /** Default `shared-pages`. */
  readonly id?: string
}

/**
 * The `shared-pages` scheme: guest RAM is private, and the guest shares the pages of each buffer while it is lent, as a
 * confidential guest does by changing the state of single pages. There is no translation, so what differs from an IOMMU
 * is the address and who enforces it; the device reaches whole pages.
 */
export function sharedPagesScheme(options: SharedPagesOptions = {}): DmaScheme {
  const { id = 'shared-pages' } = options
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
      create: ({ memory, ram, device, fact, enforcedBy }) =>
        new IommuBackend({
          name: id,
          memory,
          ram,
          enforcedBy,
          domain: new SharedPagesDomain(device, fact(sharedPagesFact) as SharedPages),
        }),
    },
    install(platform: PlatformBuilder): () => BusPort {
      const pages = platform.sharedPages()
      platform.declareFact(sharedPagesFact, pages)
      platform.declareRam(false)
      return () => pages
    },
  }
}

/** Pages that are shared at once, and taken back by the end of the commit. The device uses guest addresses. */
class SharedPagesDomain implements IommuDomain {
  readonly name: string
  readonly granule: number
  readonly leastLength: number
  readonly identity = true
  broken = false
  detached = false
  readonly inputStart = 0
  readonly inputEnd: number = Number.MAX_SAFE_INTEGER
  readonly reserved: readonly never[] = []
  readonly request: Float64Array = new Float64Array(3)
  private readonly host: SharedPages

  constructor(name: string, host: SharedPages) {
    this.name = name
    this.granule = host.pageBytes
    this.leastLength = host.pageBytes
    this.host = host
  }

  map(_access: number): void {
    this.choose()
    this.host.share()
  }

  unmap(): void {
    this.choose()
    this.host.unshare()
  }

  commit(): DmaStatus {
    const settled = this.host.settle?.() !== false
    this.broken ||= !settled
    this.detached = this.broken && settled
    return this.broken ? DMA_FAILED : DMA_OK
  }

  dispose(): void {
    this.host.clear()
    if (this.host.settle?.() === false)
      throw new DmaError(
        'DMA_STILL_REACHABLE',
        this.name,
        'the device did not let go of the pages that were taken back',
      )
  }

  // IOVA = guest address.
  private choose(): void {
    this.host.pages[0] = this.request[REQUEST_IOVA]
    this.host.pages[1] = this.request[REQUEST_LENGTH]
  }
}
