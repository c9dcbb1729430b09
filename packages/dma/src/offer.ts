import type {
  BusPort,
  DeviceAddress,
  GuestAddress,
  GuestDmaError,
  GuestMemory,
  MemoryWindow,
  RegisterBus,
  SpanAllocator,
} from '@guestdma/memory'
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

/**
 * Memory for bounce buffers that comes with the device (SWIOTLB RFC of April 2025), as the platform set it up. Over PCI
 * the driver finds it by capability (RFC 3/3) and what it finds decides; over mmio this declaration stands for the
 * devicetree (RFC 2/3).
 */
export interface SwiotlbDeclaration extends PoolFact {
  /**
   * What a driver puts into rings: `bus`, addresses where the BAR was put, which is what the RFC says; `offset`, bytes
   * from the start of the region, which is what its reviewers wanted. Platform and driver agree on it beforehand.
   */
  readonly addressing: 'bus' | 'offset'
  /** Does the device offer feature bit 27, and go on without it? `absent`: the region is a hint (RFC 3/3). */
  readonly bit: 'required' | 'offered' | 'absent'
}

/** A fault that an IOMMU told its driver of (virtio 1.4 §5.13.6.8). */
export interface IommuFault {
  /** The endpoint's name. */
  readonly device: string
  readonly reason: 'unknown' | 'domain' | 'mapping'
  readonly access: 'read' | 'write' | 'unknown'
  /** The address that the device used, as two 32-bit halves; undefined where the report has none. */
  readonly address: { readonly high: number; readonly low: number } | undefined
}

/** What a scheme asks of the IOMMU that it wants a device behind. */
export interface IommuRequest {
  /** Devices that ask with the same key are endpoints of one IOMMU; what the first of them asks for holds for all. */
  readonly key: FactKey<unknown>
  /** The smallest unit that can be mapped, a power of two from 1 to 65536. Default 4096. */
  readonly granule?: number
  /** Until the IOMMU's driver says otherwise, unattached endpoints reach everything. Default false. */
  readonly bootBypass?: boolean
  /** Live mappings that the IOMMU can keep at most. */
  readonly maxMappings?: number
  /**
   * What translated addresses of this device reach: a second stage. Default: all guest RAM. A port of one's own has to
   * pass messages on (`BusPort.message`) where the device is to interrupt by them.
   */
  readonly downstream?: BusPort
  /**
   * The IOMMU itself reaches so many bytes of guest RAM, which the platform sets aside for its queues, and no more: an
   * IOMMU of a guest whose RAM is private. Default: it reaches all.
   */
  readonly ownPool?: number
}

/** A device's place behind an IOMMU. */
export interface IommuPlace {
  /** What the device reaches: what the IOMMU translates. */
  readonly port: BusPort
  /** The number by which the IOMMU's driver names this device. */
  readonly endpoint: number
  /** The IOMMU's own registers, for its driver: virtio over MMIO. */
  readonly registers: RegisterBus
  /** What the IOMMU itself reaches, where that is not all of guest RAM. */
  readonly ownPool: PoolFact | undefined
  /** Lets the IOMMU work; for waits. */
  pump(): void
  /** The longest wait for the IOMMU, in milliseconds. Default: what the transport waits for a device. */
  readonly deadlineMs?: number
  /** Runs `start` before any device's driver is brought up. */
  prepare(start: () => Promise<void>): void
  /** Gives the scheme a turn whenever the machine's drivers have one. It returns how much it did. */
  onPump(poll: () => number): void
  /**
   * Tells the owner of the machine's loop that a turn is due: from a timer, or from within a call. Without it, what is
   * overdue waits for a turn that somebody else asks for.
   */
  wake?(): void
  /** Runs when the machine ends, before its memory goes back. */
  onClose(close: () => Promise<void>): void
  /** Tells the machine's user of a fault. */
  report(fault: IommuFault): void
  /** Tells the machine's user that the IOMMU itself failed. */
  failed?(error: GuestDmaError): void
}

/** A port that reaches those pages of guest RAM that the guest shares at the moment, at their guest addresses. */
export interface SharedPages extends BusPort {
  /** Bytes of a page. */
  readonly pageBytes: number
  /** [0]: guest address, [1]: bytes of the pages that are meant next; both are multiples of `pageBytes`. */
  readonly pages: Float64Array
  /** Shares `pages` with the device. */
  share(): void
  /** Takes `pages` back: when this returns the device cannot reach them. */
  unshare(): void
  /** Takes all back. */
  clear(): void
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

/**
 * A platform without a backend of its own: what devices can reach and what is declared of it. For platforms on which
 * the choice is left to the schemes of others.
 */
export function platformScheme(id: string, install: (platform: PlatformBuilder) => BusPort): DmaScheme {
  return {
    id,
    provider: {
      id,
      reach: 'all',
      assess: () => ({ fit: 'unusable', why: 'a platform without a backend of its own' }),
      create: () => {
        throw new Error(`'${id}' makes no backends`)
      },
    },
    install,
  }
}

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
  /** How the driver reaches the device. */
  readonly transport: string
  readonly memory: GuestMemory
  readonly ram: SpanAllocator

  /** Sets aside guest RAM that nothing else is given: its guest address and the window on its bytes. */
  reserve(length: number, align: number): { readonly guest: GuestAddress; readonly window: MemoryWindow }
  /**
   * Memory on the device, behind a BAR of its own, and where that BAR lies on the bus. Its accesses are metered by
   * width. Over PCI only.
   */
  deviceMemory(length: number): { readonly device: DeviceAddress; readonly window: MemoryWindow }
  /** One value per machine and key, for what several devices share. */
  shared<T>(key: FactKey<T>, make: () => T): T

  /** A port that reaches all guest RAM, at guest address + `busOffset`. */
  everything(busOffset?: number): BusPort
  /** A port that reaches one window and nothing else. */
  window(at: DeviceAddress, window: MemoryWindow): BusPort
  /** A port that reaches nothing. */
  nothing(): BusPort
  /** Puts the device behind an IOMMU and declares so. */
  iommu(request: IommuRequest): IommuPlace
  /** A port for pages that are shared one by one. */
  sharedPages(): SharedPages

  declareRam(reachable: boolean, busOffset?: number): void
  declarePool(pool: PoolFact): void
  /** The device brings memory for bounce buffers along, and this platform follows the SWIOTLB RFC. */
  declareSwiotlb(region: SwiotlbDeclaration): void
  /** The device is an endpoint of an IOMMU that nobody here drives: a stub, say. {@link iommu} declares it by itself. */
  declareIommu(iommu: { readonly bypass: boolean }): void
  declareFact<T>(key: FactKey<T>, value: T): void
}
