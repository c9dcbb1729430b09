import {
  type EndpointOptions,
  everything,
  IommuDevice,
  type IommuPort,
  MmioRegisters,
  oneWindow,
} from '@guestdma/devices'
import {
  type FactKey,
  type IommuPlace,
  type IommuRequest,
  type MachineHooks,
  type PlatformBuilder,
  type PlatformOffer,
  type PoolFact,
  platformOffer,
  type SharedPages,
  type SwiotlbDeclaration,
} from '@guestdma/dma'
import {
  attempt,
  type BusPort,
  type DeviceAddress,
  type GuestAddress,
  type GuestMemory,
  type MemoryWindow,
  type SpanAllocator,
} from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'
import type { PciTransport, VirtioTransport } from '@guestdma/transport'
import { MachineError } from '../config/errors.ts'
import type { IommuHost, PlatformShared } from './shared.ts'

/**
 * One device's platform: what a scheme declared about the device, and the offer that its driver is made of it. What
 * enforces it depends on where the device lives.
 */
export abstract class DevicePlatform implements PlatformBuilder {
  readonly device: string
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  readonly hooks: MachineHooks
  abstract readonly transport: string
  /** What the scheme said about bounce memory on the device. */
  swiotlb: SwiotlbDeclaration | undefined

  protected readonly common: PlatformShared
  protected iommuFact: PlatformOffer['iommu']
  // By guest address: how many bytes.
  private reserved = new Map<GuestAddress, number>()
  private readonly facts = new Map<FactKey<unknown>, unknown>()
  private ramReachable = false
  private busOffset = 0
  private pool: PoolFact | undefined

  constructor(device: string, common: PlatformShared) {
    this.device = device
    this.common = common
    this.memory = common.memory
    this.ram = common.ram
    this.hooks = {
      prepare: (start) => void common.prepare.push(start),
      onPump: (poll) => void common.pumps.push(poll),
      wake: common.wake,
      onClose: (close) => void common.closes.push(close),
      ...(common.deadlineMs === undefined ? {} : { deadlineMs: common.deadlineMs }),
      report: (fault) => common.report(fault),
      failed: (error) => common.failed(error.part, error),
    }
  }

  abstract deviceMemory(length: number): { device: DeviceAddress; window: MemoryWindow }
  abstract everything(busOffset?: number): BusPort
  abstract window(at: DeviceAddress, window: MemoryWindow): BusPort
  abstract nothing(): BusPort
  abstract iommu(request: IommuRequest): IommuPlace
  abstract sharedPages(): SharedPages
  /** What keeps the device to what it may reach. */
  abstract readonly enforcedBy: PlatformOffer['enforcedBy']
  /** Cuts the device off from all memory. Returns whether that could be done. */
  abstract detach(): boolean
  /** Undoes {@link detach}, once the device was reset. */
  abstract attach(): void
  /** Accesses of the device that were refused here, so far. */
  abstract readonly faults: number

  reserve(length: number, align: number): { guest: GuestAddress; window: MemoryWindow } {
    let guest: GuestAddress
    try {
      guest = this.ram.allocate(length, align)
    } catch (cause) {
      throw new MachineError(
        'MACHINE_RESERVE',
        this.device,
        `no ${length} bytes of guest RAM for the device's pool: ${(cause as Error).message}`,
        { length, align },
        { cause },
      )
    }
    this.reserved.set(guest, length)
    return { guest, window: this.memory.window(guest, length) }
  }

  shared<T>(key: FactKey<T>, make: () => T): T {
    const { values } = this.common
    if (!values.has(key)) values.set(key, this.forAll(make))
    return values.get(key) as T
  }

  // What is set aside meanwhile is not this device's alone.
  protected forAll<T>(make: () => T): T {
    const own = this.reserved
    this.reserved = this.common.reserved
    try {
      return make()
    } finally {
      this.reserved = own
    }
  }

  declareRam(reachable: boolean, busOffset = 0): void {
    this.ramReachable = reachable
    this.busOffset = busOffset
  }

  declarePool(pool: PoolFact): void {
    this.pool = pool
  }

  declareSwiotlb(region: SwiotlbDeclaration): void {
    this.swiotlb = region
  }

  declareIommu(iommu: { readonly bypass: boolean }): void {
    this.iommuFact = iommu
  }

  declareFact<T>(key: FactKey<T>, value: T): void {
    this.facts.set(key, value)
  }

  /** What the driver is offered, given the bits that the device offers. */
  offer(
    transport: VirtioTransport,
    offered: FeatureSet,
    listed: ReadonlySet<string>,
    ram: SpanAllocator,
  ): PlatformOffer {
    const { device, memory, enforcedBy, ramReachable, busOffset, pool, facts, swiotlb } = this
    return platformOffer({
      device,
      offered,
      transport: { kind: transport.kind, transitional: transport.transitional },
      ramReachable,
      iommu: this.iommuFact,
      pool,
      region: this.region(transport),
      swiotlbRfc: swiotlb !== undefined,
      busOffset,
      memory,
      ram,
      mayBlock: this.common.mayBlock,
      enforcedBy,
      listed,
      facts,
    })
  }

  /** Gives back what was reserved for the device, which nothing can reach any more. */
  release(): void {
    const errors: unknown[] = []
    for (const guest of this.reserved.keys()) attempt(errors, () => this.ram.release(guest))
    this.reserved.clear()
    if (errors.length > 0) throw errors[0]
  }

  /** Bytes of guest RAM that were set aside for this device alone. */
  get reservedBytes(): number {
    return [...this.reserved.values()].reduce((sum, length) => sum + length, 0)
  }

  /** What of the declared region the driver may use over this transport. */
  protected abstract region(transport: VirtioTransport): PoolFact | undefined

  /** Puts the device behind an IOMMU of this machine, as an endpoint with these options, and declares so. */
  protected behindIommu(
    request: IommuRequest,
    options: Omit<EndpointOptions, 'name'>,
  ): IommuPlace & { port: IommuPort } {
    const host = this.iommuHost(request)
    const endpoint = host.next++
    const port = host.device.addEndpoint(endpoint, { name: this.device, ...options })
    // Its driver, which starts before any other, turns bypass off.
    this.iommuFact = { bypass: false }
    return {
      name: host.device.name,
      port,
      endpoint,
      registers: host.registers,
      ownPool: host.ownPool,
      pump: () => void host.device.poll(Infinity),
    }
  }

  private iommuHost({ key, granule = 4096, bootBypass = false, maxMappings, ownPool }: IommuRequest): IommuHost {
    const { common, memory } = this
    const known = common.iommus.get(key)
    if (known !== undefined) return known
    const name = common.iommus.size === 0 ? 'iommu' : `iommu${common.iommus.size}`
    let pool: PoolFact | undefined
    if (ownPool !== undefined) {
      const { guest, window } = this.forAll(() => this.reserve(ownPool, 4096))
      pool = { window, device: guest as number as DeviceAddress, home: 'guest-ram' }
    }
    const device = new IommuDevice({
      name,
      port: pool === undefined ? everything(memory, { name }) : oneWindow(name, { base: pool.device, ...pool.window }),
      granule,
      bypass: bootBypass ? 'on' : 'off',
      ...(maxMappings === undefined ? {} : { maxMappings }),
      ...(pool === undefined ? {} : { accessPlatform: 'offered' as const }),
    })
    // Requests are answered before the doorbell returns, but for removals of very many mappings; other devices wait for
    // their poll.
    const registers = new MmioRegisters(device, { notify: 'inline' })
    const host: IommuHost = { device, registers, ownPool: pool, next: 1 }
    common.iommus.set(key, host)
    device.onWork = common.wake
    common.own.push(device)
    return host
  }

  // Over PCI what the driver found in the function's capabilities decides. `memory`: where the region's memory begins on
  // the bus. The transport saw to it that what it found lies in there.
  protected foundRegion(transport: PciTransport, memory: DeviceAddress): PoolFact | undefined {
    const { swiotlb } = this
    const { swiotlb: found } = transport
    if (swiotlb === undefined || found === null) return undefined
    const { window, device, home, addressing } = swiotlb
    return {
      window: {
        region: window.region,
        offset: window.offset + (found.address - memory),
        length: found.length,
      },
      device: addressing === 'offset' ? device : found.address,
      home,
    }
  }
}
