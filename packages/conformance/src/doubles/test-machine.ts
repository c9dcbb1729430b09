import { everything, IommuDevice, MmioRegisters, nothing, oneWindow, PagePort } from '@guestdma/devices'
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
  type BusPort,
  type DeviceAddress,
  type GuestAddress,
  GuestMemory,
  guestAddress,
  type MemoryWindow,
  Meter,
  Region,
  SpanAllocator,
} from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'

export interface TestMachineOptions {
  /** Bytes of guest RAM. Default 16 MiB. */
  readonly ramBytes?: number
  /** Bytes of RAM that tests use for buffers. Default 1 MiB. */
  readonly arenaBytes?: number
  /** Guest RAM that {@link TestMachine.grow} can grow: a `WebAssembly.Memory`. Default false. */
  readonly growable?: boolean
  /** What the test's devices say of their transport: on `pci` there is memory on the device. Default `mmio`. */
  readonly transport?: 'mmio' | 'pci'
}

/** A span of guest RAM that somebody was given. `device`: by whose platform; none where the machine shares it. */
export interface ReservedSpan {
  readonly guest: number
  readonly length: number
  readonly device: string | undefined
}

/** Guest base and buffer offset of the RAM differ, so that code which mixes them up fails. */
const RAM_BASE = 0x4000_0000
const RAM_OFFSET = 0x2_0000

/** What guest RAM holds before anything is set up: nothing that shows a zeroed or a delivered byte by chance. */
export const DIRT = 0xa5

/**
 * A small machine for tests: guest RAM that is full of old bytes, an arena for the tests' own buffers in it, and a
 * {@link TestPlatform} for each device. Guest addresses, buffer offsets and device addresses all differ.
 */
export class TestMachine {
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  readonly arenaBase: number
  /** What platforms reserved so far. */
  readonly reserved: ReservedSpan[] = []
  readonly transport: 'mmio' | 'pci'
  /** IOMMUs by what they were asked for with, and the number that the next endpoint gets. */
  readonly iommus: Map<FactKey<unknown>, TestIommu> = new Map()
  /** What the schemes' own parts do when it is their turn. */
  readonly turns: (() => number)[] = []
  private readonly values = new Map<FactKey<unknown>, unknown>()
  private readonly source: ArrayBuffer | GrowableMemory
  private readonly arenaBytes: number
  private view: Uint8Array<ArrayBuffer>
  private sharing = false

  constructor(options: TestMachineOptions = {}) {
    const { ramBytes = 16 << 20, arenaBytes = 1 << 20, growable = false, transport = 'mmio' } = options
    this.transport = transport
    const bytes = RAM_OFFSET + ramBytes + RAM_OFFSET
    this.source = growable ? growableMemory(Math.ceil(bytes / WASM_PAGE)) : new ArrayBuffer(bytes)
    new Uint8Array(this.buffer).fill(DIRT)
    this.memory = new GuestMemory([{ base: RAM_BASE, length: ramBytes, memory: this.source, offset: RAM_OFFSET }])
    this.ram = new SpanAllocator(guestAddress(RAM_BASE), ramBytes)
    // Away from the start of RAM, so that there is memory on both sides of it.
    const below = this.ram.allocate(1 << 16, 4096)
    this.arenaBase = this.ram.allocate(arenaBytes, 4096)
    this.ram.release(below)
    this.arenaBytes = arenaBytes
    this.view = this.viewOfArena()
  }

  /** The arena's bytes, for looking: what is at `arena[i]` has guest address `arenaBase + i`. A multiple of 4096. */
  get arena(): Uint8Array<ArrayBuffer> {
    // Growth detached it. Nobody but the code under test is responsible for the views of regions.
    if (this.view.length === 0) this.view = this.viewOfArena()
    return this.view
  }

  /** Grows guest RAM's buffer by a page, which detaches every view of it. Only where the machine is `growable`. */
  grow(): void {
    if ('grow' in this.source) this.source.grow(1)
  }

  /** The place of one device in this machine. */
  platform(device: string): TestPlatform {
    return new TestPlatform(device, this)
  }

  /** See `PlatformBuilder.shared`. */
  shared<T>(key: FactKey<T>, make: () => T): T {
    if (!this.values.has(key)) {
      this.sharing = true
      try {
        this.values.set(key, make())
      } finally {
        this.sharing = false
      }
    }
    return this.values.get(key) as T
  }

  /** See `PlatformBuilder.reserve`. */
  reserve(device: string, length: number, align: number): { guest: GuestAddress; window: MemoryWindow } {
    const guest = this.ram.allocate(length, align)
    this.reserved.push({ guest, length, device: this.sharing ? undefined : device })
    return { guest, window: this.memory.window(guest, length) }
  }

  private get buffer(): ArrayBuffer {
    return 'grow' in this.source ? this.source.buffer : this.source
  }

  private viewOfArena(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.buffer, RAM_OFFSET + this.arenaBase - RAM_BASE, this.arenaBytes)
  }
}

/** An IOMMU of a {@link TestMachine}. */
export interface TestIommu {
  readonly device: IommuDevice
  readonly registers: MmioRegisters
  readonly ownPool: PoolFact | undefined
  next: number
}

/** Where memory on a device lies on the bus. */
const DEVICE_MEMORY = 0x2_4000_0000

/** A `PlatformBuilder` over a {@link TestMachine}: records what a scheme declares and makes the offer from it. */
export class TestPlatform implements PlatformBuilder {
  readonly device: string
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  private readonly machine: TestMachine
  private readonly facts = new Map<FactKey<unknown>, unknown>()
  private ramReachable = false
  private busOffset = 0
  private pool: PoolFact | undefined
  private swiotlb: SwiotlbDeclaration | undefined
  private iommuFact: PlatformOffer['iommu']
  readonly transport: 'mmio' | 'pci'
  readonly hooks: MachineHooks

  constructor(device: string, machine: TestMachine) {
    this.hooks = {
      // A provider that is asked for a backend starts what has not started.
      prepare: () => {},
      onPump: (poll) => void machine.turns.push(poll),
      onClose: () => {},
      report: () => {},
    }
    this.device = device
    this.transport = machine.transport
    this.machine = machine
    this.memory = machine.memory
    this.ram = machine.ram
  }

  reserve(length: number, align: number): { guest: GuestAddress; window: MemoryWindow } {
    return this.machine.reserve(this.device, length, align)
  }

  shared<T>(key: FactKey<T>, make: () => T): T {
    return this.machine.shared(key, make)
  }

  everything(busOffset = 0): BusPort {
    return everything(this.memory, { name: this.device, busOffset })
  }

  window(at: DeviceAddress, window: MemoryWindow): BusPort {
    return oneWindow(this.device, { base: at, ...window })
  }

  nothing(): BusPort {
    return nothing(this.device)
  }

  deviceMemory(length: number): { device: DeviceAddress; window: MemoryWindow } {
    const region = new Region(new ArrayBuffer(length), `${this.device} memory`)
    region.meter = new Meter()
    return { device: DEVICE_MEMORY as DeviceAddress, window: { region, offset: 0, length } }
  }

  iommu(request: IommuRequest): IommuPlace {
    const host = this.iommuHost(request)
    const endpoint = host.next++
    const port = host.device.addEndpoint(endpoint, {
      name: this.device,
      downstream: request.downstream ?? this.everything(),
    })
    this.iommuFact = { bypass: request.bootBypass ?? false }
    return {
      name: host.device.name,
      port,
      endpoint,
      registers: host.registers,
      ownPool: host.ownPool,
      pump: () => void host.device.poll(Infinity),
    }
  }

  sharedPages(): SharedPages {
    const port = new PagePort(this.device, this.memory)
    return port
  }

  declareSwiotlb(region: SwiotlbDeclaration): void {
    this.swiotlb = region
  }

  declareIommu(iommu: { readonly bypass: boolean }): void {
    this.iommuFact = iommu
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

  /** What a driver is offered by a device with these feature bits. */
  offer(offered: FeatureSet, listed: ReadonlySet<string>): PlatformOffer {
    const { device, memory, ram, ramReachable, busOffset, pool, facts } = this
    return platformOffer({
      device,
      offered,
      transport: { kind: this.transport, transitional: false },
      ramReachable,
      iommu: this.iommuFact,
      pool,
      region: this.swiotlb,
      swiotlbRfc: this.swiotlb !== undefined,
      busOffset,
      memory,
      ram,
      listed,
      facts,
    })
  }

  private iommuHost(request: IommuRequest): TestIommu {
    const { machine, memory } = this
    const { key, granule = 4096, bootBypass = false, maxMappings, ownPool } = request
    const known = machine.iommus.get(key)
    if (known !== undefined) return known
    let pool: PoolFact | undefined
    if (ownPool !== undefined) {
      const { guest, window } = this.reserve(ownPool, 4096)
      pool = { window, device: guest as number as DeviceAddress, home: 'guest-ram' }
    }
    const device = new IommuDevice({
      name: 'iommu',
      port: pool === undefined ? everything(memory) : oneWindow('iommu', { base: pool.device, ...pool.window }),
      granule,
      bypass: bootBypass ? 'on' : 'off',
      ...(maxMappings === undefined ? {} : { maxMappings }),
      ...(pool === undefined ? {} : { accessPlatform: 'offered' as const }),
    })
    const registers = new MmioRegisters(device, { notify: 'inline' })
    const host: TestIommu = { device, registers, ownPool: pool, next: 1 }
    machine.iommus.set(key, host)
    return host
  }
}

interface GrowableMemory {
  readonly buffer: ArrayBuffer
  grow(pages: number): number
}

const WASM_PAGE = 65_536

// Named here, since not every TypeScript library declares it.
function growableMemory(pages: number): GrowableMemory {
  const { WebAssembly } = globalThis as unknown as {
    WebAssembly: { Memory: new (descriptor: { initial: number }) => GrowableMemory }
  }
  return new WebAssembly.Memory({ initial: pages })
}
