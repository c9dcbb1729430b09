import type { GuestMemory, SpanAllocator } from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'
import type { DmaTraits } from './backend.ts'
import type { FactKey, PoolFact } from './facts.ts'

/** What a driver knows when it chooses a backend: what the platform declares and what the device offers. */
export interface PlatformOffer {
  /** The device's name, for messages. */
  readonly device: string
  /** The bits that the device offers, as they are. */
  readonly offered: FeatureSet
  /** Feature bits that the transport can carry. */
  readonly transport: { readonly kind: string; readonly transitional: boolean }
  /** Guest RAM that devices of this platform can reach at all, once translated where an IOMMU is in between. */
  readonly ramReachable: boolean
  /** The endpoint is behind an IOMMU; `bypass`: it lets this endpoint's accesses pass untranslated. */
  readonly iommu: { readonly bypass: boolean } | undefined
  /** A pool for this device, or the default pool of all devices. */
  readonly pool: PoolFact | undefined
  /** A valid region on the device. */
  readonly region: PoolFact | undefined
  /** The platform follows the SWIOTLB RFC: only then does feature bit 27 mean SWIOTLB. */
  readonly swiotlbRfc: boolean
  /** Device address = guest address + busOffset, where nothing translates. */
  readonly busOffset: number
  readonly memory: GuestMemory
  /** Guest RAM for rings and buffers. */
  readonly ram: SpanAllocator
  /** May this thread block? A browser's main thread may not, and a backend whose commit waits is unusable there. */
  readonly mayBlock: boolean
  /** What keeps the device to what it may reach; a backend says so in its traits. */
  readonly enforcedBy: DmaTraits['enforcedBy']
  /** The ids that the caller listed; empty for `auto`. */
  readonly listed: ReadonlySet<string>
  readonly fact: <T>(key: FactKey<T>) => T | undefined
}

/** What has to be said of a device. The rest is that of a device on mmio, without an IOMMU, that reaches all of RAM. */
export type OfferedFacts = Pick<PlatformOffer, 'device' | 'offered' | 'memory' | 'ram'> &
  Partial<Omit<PlatformOffer, 'fact'>> & {
    /** By key, what {@link PlatformOffer.fact} answers. */
    readonly facts?: ReadonlyMap<FactKey<unknown>, unknown>
  }

/** An offer from facts, for whoever negotiates without a machine. */
export function platformOffer({ facts, ...said }: OfferedFacts): PlatformOffer {
  return {
    transport: { kind: 'mmio', transitional: false },
    ramReachable: true,
    iommu: undefined,
    pool: undefined,
    region: undefined,
    swiotlbRfc: false,
    busOffset: 0,
    mayBlock: true,
    enforcedBy: 'trusted-code',
    listed: new Set(),
    ...said,
    fact: <T>(key: FactKey<T>): T | undefined => facts?.get(key) as T | undefined,
  }
}

/**
 * What a provider says to an offer. `accept`: the platform bits (27, 33) that it needs accepted, a subset of those
 * offered.
 */
export type Suitability =
  | { readonly fit: 'required' | 'usable'; readonly accept: FeatureSet; readonly why: string }
  | { readonly fit: 'unusable'; readonly why: string }
