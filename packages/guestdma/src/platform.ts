import {
  type AccessFault,
  type BusWindows,
  everything,
  IommuDevice,
  type IommuPort,
  MmioRegisters,
  nothing,
  oneWindow,
  PagePort,
  type VirtioDevice,
} from '@guestdma/devices'
import type {
  FactKey,
  IommuFault,
  IommuPlace,
  IommuRequest,
  PlatformBuilder,
  PlatformOffer,
  PoolFact,
  SharedPages,
  SwiotlbDeclaration,
} from '@guestdma/dma'
import {
  attempt,
  type BusPort,
  type DeviceAddress,
  type FaultLog,
  type GuestAddress,
  type GuestDmaError,
  type GuestMemory,
  type InterruptSink,
  type MemoryWindow,
  Meter,
  Region,
  type SpanAllocator,
} from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'
import type { PciTransport, VirtioTransport } from '@guestdma/transport'
import type { BarSpace } from './bar-space.ts'
import { MachineError } from './errors.ts'

/** Where message-signalled interrupts go on these machines, as on a PC. */
export const DOORBELL_BASE = 0xfee0_0000
const DOORBELL_BYTES = 0x10_0000

/** An IOMMU of a machine, with the number that its next endpoint gets. */
interface IommuHost {
  readonly device: IommuDevice
  readonly registers: MmioRegisters
  readonly ownPool: PoolFact | undefined
  next: number
}

/** What all devices of a machine have in common. */
export interface PlatformShared {
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  readonly values: Map<FactKey<unknown>, unknown>
  readonly mayBlock: boolean
  /** Where on the bus BARs may lie. */
  readonly bars: BarSpace
  /** Devices of the platform itself: IOMMUs. */
  readonly own: VirtioDevice[]
  /** There is something to pump. */
  readonly wake: () => void
  readonly iommus: Map<FactKey<unknown>, IommuHost>
  /** Runs before any device's driver is brought up. */
  readonly prepare: (() => Promise<void>)[]
  readonly pumps: (() => number)[]
  readonly closes: (() => Promise<void>)[]
  /** Guest RAM that was set aside for several devices: it goes back with the machine, once no device can reach it. */
  readonly reserved: Map<GuestAddress, number>
  /** The longest wait for a device; undefined for the default. */
  readonly deadlineMs: number | undefined
  report(fault: IommuFault): void
  /** An IOMMU failed. */
  failed(device: string, error: GuestDmaError): void
}

/** A port that was made here. */
interface OwnPort {
  readonly port: BusPort
  readonly faults: FaultLog<AccessFault>
  /** Cuts it off and returns how to undo that; null where only somebody else can. */
  readonly cut: (() => () => void) | null
}

/** One device's platform: filled in by a scheme's `install`, then read by selection. */
export class DevicePlatform implements PlatformBuilder {
  readonly device: string
  readonly transport: 'mmio' | 'pci'
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  /** What the scheme said about bounce memory on the device. */
  swiotlb: SwiotlbDeclaration | undefined
  /** Memory on the device, for its function to present. */
  onDevice: { readonly device: DeviceAddress; readonly window: MemoryWindow } | undefined

  private readonly common: PlatformShared
  private readonly onFault: (fault: AccessFault) => void
  private readonly interrupts: InterruptSink
  private readonly ports: OwnPort[] = []
  // By guest address: how many bytes.
  private reserved = new Map<GuestAddress, number>()
  private readonly facts = new Map<FactKey<unknown>, unknown>()
  private restore: (() => void)[] = []
  private ramReachable = false
  private busOffset = 0
  private pool: PoolFact | undefined
  private iommuFact: PlatformOffer['iommu']

  constructor(
    device: string,
    transport: 'mmio' | 'pci',
    common: PlatformShared,
    onFault: (fault: AccessFault) => void,
    interrupts: InterruptSink,
  ) {
    this.device = device
    this.transport = transport
    this.common = common
    this.memory = common.memory
    this.ram = common.ram
    this.onFault = onFault
    this.interrupts = interrupts
  }

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

  deviceMemory(length: number): { device: DeviceAddress; window: MemoryWindow } {
    if (this.transport !== 'pci') {
      const message = "memory on the device lies behind a BAR; set the device's transport to 'pci'"
      throw new MachineError('MACHINE_CONFIG', this.device, message)
    }
    const region = new Region(new ArrayBuffer(length), `${this.device} memory`)
    region.meter = new Meter()
    // A BAR is a power of two and aligned to it.
    const bytes = 2 ** Math.ceil(Math.log2(Math.max(length, 4096)))
    const device = this.common.bars.take(this.device, bytes, true) as DeviceAddress
    this.onDevice = { device, window: { region, offset: 0, length } }
    return this.onDevice
  }

  shared<T>(key: FactKey<T>, make: () => T): T {
    const { values } = this.common
    if (!values.has(key)) values.set(key, this.forAll(make))
    return values.get(key) as T
  }

  // What is set aside meanwhile is not this device's alone.
  private forAll<T>(make: () => T): T {
    const own = this.reserved
    this.reserved = this.common.reserved
    try {
      return make()
    } finally {
      this.reserved = own
    }
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

  iommu(request: IommuRequest): IommuPlace {
    const { common, device } = this
    const host = this.iommuHost(request)
    const endpoint = host.next++
    const downstream = request.downstream ?? this.everything()
    const port: IommuPort = host.device.addEndpoint(endpoint, {
      name: device,
      downstream,
      reserved: [{ start: DOORBELL_BASE, end: DOORBELL_BASE + DOORBELL_BYTES - 1, kind: 'msi' }],
    })
    port.faults.observer = this.onFault
    // What is under the IOMMU is cut, and with it everything that could be translated, unless that is a port of others.
    this.ports.push({ port, faults: port.faults, cut: this.canCut(downstream) ? () => () => {} : null })
    // Its driver, which starts before any other, turns bypass off.
    this.iommuFact = { bypass: false }
    return {
      port,
      endpoint,
      registers: host.registers,
      ownPool: host.ownPool,
      pump: () => void host.device.poll(Infinity),
      prepare: (start) => void common.prepare.push(start),
      onPump: (poll) => void common.pumps.push(poll),
      wake: common.wake,
      onClose: (close) => void common.closes.push(close),
      ...(common.deadlineMs === undefined ? {} : { deadlineMs: common.deadlineMs }),
      report: (fault) => common.report(fault),
      failed: (error) => common.failed(host.device.name, error),
    }
  }

  sharedPages(): SharedPages {
    const port = new PagePort(this.device, this.memory)
    port.faults.observer = this.onFault
    port.setDoorbell(DOORBELL_BASE, DOORBELL_BYTES, this.interrupts)
    this.ports.push({
      port,
      faults: port.faults,
      cut: () => {
        port.setOpen(false)
        return () => port.setOpen(true)
      },
    })
    return port
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
    const { memory, ramReachable, busOffset, pool, facts, swiotlb } = this
    return {
      device: this.device,
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
      listed,
      fact: <T>(key: FactKey<T>): T | undefined => facts.get(key) as T | undefined,
    }
  }

  /** Cuts the device off from all memory. Returns whether its port is one that this platform can close. */
  detach(port: BusPort): boolean {
    if (!this.canCut(port)) return false
    if (this.restore.length === 0) this.restore = this.ports.map(({ cut }) => cut?.() ?? (() => {}))
    return true
  }

  private canCut(port: BusPort): boolean {
    return this.ports.some((own) => own.port === port && own.cut !== null)
  }

  /** Undoes {@link detach}, once the device was reset. */
  attach(): void {
    for (const restore of this.restore.splice(0)) restore()
  }

  /** Cuts the device off for good and gives back what was reserved for it. */
  release(): void {
    const errors: unknown[] = []
    for (const { cut } of this.ports) attempt(errors, () => void cut?.())
    for (const guest of this.reserved.keys()) attempt(errors, () => this.ram.release(guest))
    this.reserved.clear()
    if (errors.length > 0) throw errors[0]
  }

  /** Bytes of guest RAM that were set aside for this device alone. */
  get reservedBytes(): number {
    return [...this.reserved.values()].reduce((sum, length) => sum + length, 0)
  }

  /** Accesses that the device's ports refused, so far. */
  get faults(): number {
    return this.ports.reduce((sum, own) => sum + own.faults.count, 0)
  }

  // Over PCI what the driver found in the function's capabilities decides, not what the platform meant.
  private region(transport: VirtioTransport): PoolFact | undefined {
    const { swiotlb } = this
    if (swiotlb === undefined || transport.kind !== 'pci') return swiotlb
    const { onDevice } = this
    const found = (transport as PciTransport).swiotlb
    if (found === null || onDevice === undefined) return undefined
    const { window, device, home, addressing } = swiotlb
    // The transport saw to it that what it found lies in this memory.
    return {
      window: {
        region: window.region,
        offset: window.offset + (found.address - onDevice.device),
        length: found.length,
      },
      device: addressing === 'offset' ? device : found.address,
      home,
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

  private keep(port: BusWindows): BusPort {
    port.faults.observer = this.onFault
    port.setDoorbell(DOORBELL_BASE, DOORBELL_BYTES, this.interrupts)
    this.ports.push({
      port,
      faults: port.faults,
      cut: () => {
        const { windows } = port
        port.setWindows([])
        return () => port.setWindows(windows)
      },
    })
    return port
  }
}
