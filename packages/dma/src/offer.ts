import type { GuestMemory, SpanAllocator } from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'
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
  /** The ids that the caller listed; empty for `auto`. */
  readonly listed: ReadonlySet<string>
  readonly fact: <T>(key: FactKey<T>) => T | undefined
}

/**
 * What a provider says to an offer. `accept`: the platform bits (27, 33) that it needs accepted, a subset of those
 * offered.
 */
export type Suitability =
  | { readonly fit: 'required' | 'usable'; readonly accept: FeatureSet; readonly why: string }
  | { readonly fit: 'unusable'; readonly why: string }
