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
import type { FactKey, PoolFact, SwiotlbDeclaration } from './facts.ts'

/** One device's place in a machine under construction. The composition implements it. */
export interface PlatformBuilder {
  /** The device's name. */
  readonly device: string
  /** How the driver reaches the device. */
  readonly transport: string
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  readonly hooks: MachineHooks

  /** Sets aside guest RAM that nothing else is given: its guest address and the window on its bytes. */
  reserve(length: number, align: number): { readonly guest: GuestAddress; readonly window: MemoryWindow }
  /**
   * Memory on the device, behind a BAR of its own, and where that BAR lies on the bus. Its accesses are metered by
   * width. Over PCI only.
   */
  deviceMemory(length: number): { readonly device: DeviceAddress; readonly window: MemoryWindow }
  /** One value per machine and key, for what several devices share. */
  shared<T>(key: FactKey<T>, make: () => T): T

  // Ports are made by what `DmaScheme.install` returns, since a device that lives elsewhere has none here.
  /** A port that reaches all guest RAM, at guest address + `busOffset`. */
  everything(busOffset?: number): BusPort
  /** A port that reaches one window and nothing else. */
  window(at: DeviceAddress, window: MemoryWindow): BusPort
  /** A port that reaches nothing. */
  nothing(): BusPort
  /** Puts the device behind an IOMMU of this machine and declares so. Throws where the device lives elsewhere. */
  iommu(request: IommuRequest): IommuPlace
  /** A port for pages that are shared one by one. Throws where the device lives elsewhere. */
  sharedPages(): SharedPages

  declareRam(reachable: boolean, busOffset?: number): void
  declarePool(pool: PoolFact): void
  /** The device brings memory for bounce buffers along, and this platform follows the SWIOTLB RFC. */
  declareSwiotlb(region: SwiotlbDeclaration): void
  /** The device is an endpoint of an IOMMU that nobody here drives: a stub, say. {@link iommu} declares it by itself. */
  declareIommu(iommu: { readonly bypass: boolean }): void
  declareFact<T>(key: FactKey<T>, value: T): void
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

/** A device's place behind an IOMMU of this machine. */
export interface IommuPlace {
  /** The IOMMU's name, for messages. */
  readonly name: string
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
}

/** What a machine does for a driver that a scheme brings along, such as that of an IOMMU. */
export interface MachineHooks {
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
  /** The longest wait for a device, in milliseconds. Default: what the transport waits for one. */
  readonly deadlineMs?: number
  /** Tells the machine's user of a fault. */
  report(fault: IommuFault): void
  /** Tells the machine's user that the scheme's own device failed. */
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
  /** Takes `pages` back: when this returns the device cannot reach them, or when {@link settle} has returned true. */
  unshare(): void
  /** Takes all back, as {@link unshare} does. */
  clear(): void
  /**
   * Of a device in another thread: waits until it cannot reach what was taken back. False: it may. Without it, nothing
   * has to be waited for.
   */
  settle?(): boolean
}
