import { type AccessFault, type BusWindows, everything, nothing, oneWindow } from '@guestdma/devices'
import type { FactKey, PlatformBuilder, PlatformOffer, PoolFact } from '@guestdma/dma'
import {
  type BusPort,
  type DeviceAddress,
  type GuestAddress,
  GuestDmaError,
  type GuestMemory,
  type MemoryWindow,
  type SpanAllocator,
} from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'

/** What all devices of a machine have in common. */
export interface PlatformShared {
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  readonly values: Map<FactKey<unknown>, unknown>
  readonly mayBlock: boolean
}

/** One device's platform: filled in by a scheme's `install`, then read by selection. */
export class DevicePlatform implements PlatformBuilder {
  readonly device: string
  readonly memory: GuestMemory
  readonly ram: SpanAllocator

  private readonly common: PlatformShared
  private readonly onFault: (fault: AccessFault) => void
  private readonly ports: BusWindows[] = []
  private readonly reserved: GuestAddress[] = []
  private readonly detached = new Map<BusWindows, BusWindows['windows']>()
  private readonly facts = new Map<FactKey<unknown>, unknown>()
  private ramReachable = false
  private busOffset = 0
  private pool: PoolFact | undefined

  constructor(device: string, common: PlatformShared, onFault: (fault: AccessFault) => void) {
    this.device = device
    this.common = common
    this.memory = common.memory
    this.ram = common.ram
    this.onFault = onFault
  }

  reserve(length: number, align: number): { guest: GuestAddress; window: MemoryWindow } {
    let guest: GuestAddress
    try {
      guest = this.ram.allocate(length, align)
    } catch (cause) {
      throw new GuestDmaError(
        'MACHINE_RESERVE',
        this.device,
        `no ${length} bytes of guest RAM for the device's pool: ${(cause as Error).message}`,
        { length, align },
      )
    }
    this.reserved.push(guest)
    return { guest, window: this.memory.window(guest, length) }
  }

  shared<T>(key: FactKey<T>, make: () => T): T {
    const { values } = this.common
    if (!values.has(key)) values.set(key, make())
    return values.get(key) as T
  }

  everything(busOffset = 0): BusPort {
    return this.keep(everything(this.memory, { name: this.device, busOffset }))
  }

  window(at: DeviceAddress, window: MemoryWindow): BusPort {
    return this.keep(oneWindow(this.device, { base: at, ...window }))
  }

  nothing(): BusPort {
    return this.keep(nothing(this.device))
  }

  declareRam(reachable: boolean, busOffset = 0): void {
    this.ramReachable = reachable
    this.busOffset = busOffset
  }

  declarePool(pool: PoolFact): void {
    this.pool = pool
  }

  declareFact<T>(key: FactKey<T>, value: T): void {
    this.facts.set(key, value)
  }

  /** What the driver is offered, given the bits that the device offers. */
  offer(offered: FeatureSet, listed: ReadonlySet<string>): PlatformOffer {
    const { memory, ram, ramReachable, busOffset, pool, facts } = this
    return {
      device: this.device,
      offered,
      transport: { kind: 'mmio', transitional: false },
      ramReachable,
      iommu: undefined,
      pool,
      region: undefined,
      swiotlbRfc: false,
      busOffset,
      memory,
      ram,
      mayBlock: this.common.mayBlock,
      listed,
      fact: <T>(key: FactKey<T>): T | undefined => facts.get(key) as T | undefined,
    }
  }

  /** Cuts the device off from all memory. Returns whether its port is one that this platform can close. */
  detach(port: BusPort): boolean {
    const own = this.ports.find((candidate) => candidate === port)
    if (own === undefined) return false
    this.detached.set(own, this.detached.get(own) ?? own.windows)
    own.setWindows([])
    return true
  }

  /** Undoes {@link detach}, once the device was reset. */
  attach(port: BusPort): void {
    const own = this.ports.find((candidate) => candidate === port)
    const windows = own === undefined ? undefined : this.detached.get(own)
    if (own === undefined || windows === undefined) return
    own.setWindows(windows)
    this.detached.delete(own)
  }

  /** Gives back what was reserved. The machine is closed: no device reaches anything any more. */
  release(): void {
    for (const port of this.ports) port.setWindows([])
    for (const guest of this.reserved.splice(0)) this.ram.release(guest)
  }

  /** Accesses that the device's ports refused, so far. */
  get faults(): number {
    return this.ports.reduce((sum, port) => sum + port.faults.count, 0)
  }

  private keep(port: BusWindows): BusPort {
    port.faults.observer = this.onFault
    this.ports.push(port)
    return port
  }
}
