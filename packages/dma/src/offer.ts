import type { BusPort, DeviceAddress, GuestAddress, GuestMemory, MemoryWindow, SpanAllocator } from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'
import type { DmaBackend, DmaTraits } from './backend.ts'

declare const factType: unique symbol

/** Names a fact of type `T` that a platform may declare about a device. Compared by identity. */
export interface FactKey<T> {
  readonly name: string
  readonly [factType]?: T
}

/** A key for facts of one's own. Export it beside the scheme that declares the fact. */
export function factKey<T>(name: string): FactKey<T> {
  return { name }
}

/** Memory that the platform set aside for a device to see, with its address on the device's bus. */
export interface PoolFact {
  readonly window: MemoryWindow
  readonly device: DeviceAddress
  /** Its type decides traits and costs, not how it was found. */
  readonly home: DmaTraits['home']
}

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

/** Makes backends of one kind. */
export interface DmaProvider {
  readonly id: string
  /**
   * The reach of every backend that it makes: what selection compares, so that it never descends to less confinement.
   */
  readonly reach: DmaTraits['reach']
  /** Pure: the same answer for the same offer, no device access. */
  assess(offer: PlatformOffer): Suitability
  /**
   * After FEATURES_OK was read back and before any ring exists. A failure is a rung of the ladder: reset, next
   * candidate.
   */
  create(offer: PlatformOffer, agreed: FeatureSet): DmaBackend | Promise<DmaBackend>
}

/** What a third party writes: what the platform declares and enforces, and what the driver uses. */
export interface DmaScheme {
  /** The same as `provider.id` and as the name of the backends that it makes. */
  readonly id: string
  readonly provider: DmaProvider
  /**
   * Declares the facts for one device and returns what that device can reach. Called once for each device;
   * `provider.create` is called again after each reset. Ports that `platform` made report their faults and can be cut
   * off; a port of one's own does neither.
   */
  install(platform: PlatformBuilder): BusPort
}

/** One device's place in a machine under construction. The composition implements it. */
export interface PlatformBuilder {
  /** The device's name. */
  readonly device: string
  readonly memory: GuestMemory
  readonly ram: SpanAllocator

  /** Sets aside guest RAM that nothing else is given: its guest address and the window on its bytes. */
  reserve(length: number, align: number): { readonly guest: GuestAddress; readonly window: MemoryWindow }
  /** One value per machine and key, for what several devices share. */
  shared<T>(key: FactKey<T>, make: () => T): T

  /** A port that reaches all guest RAM, at guest address + `busOffset`. */
  everything(busOffset?: number): BusPort
  /** A port that reaches one window and nothing else. */
  window(at: DeviceAddress, window: MemoryWindow): BusPort
  /** A port that reaches nothing. */
  nothing(): BusPort

  declareRam(reachable: boolean, busOffset?: number): void
  declarePool(pool: PoolFact): void
  declareFact<T>(key: FactKey<T>, value: T): void
}
