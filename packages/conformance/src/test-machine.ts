import { everything, nothing, oneWindow } from '@guestdma/devices'
import type { FactKey, PlatformBuilder, PlatformOffer, PoolFact } from '@guestdma/dma'
import {
  type BusPort,
  type DeviceAddress,
  type GuestAddress,
  GuestMemory,
  guestAddress,
  type MemoryWindow,
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
  private readonly values = new Map<FactKey<unknown>, unknown>()
  private readonly source: ArrayBuffer | GrowableMemory
  private readonly arenaBytes: number
  private view: Uint8Array<ArrayBuffer>
  private sharing = false

  constructor({ ramBytes = 16 << 20, arenaBytes = 1 << 20, growable = false }: TestMachineOptions = {}) {
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

  constructor(device: string, machine: TestMachine) {
    this.device = device
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
    return {
      device,
      offered,
      transport: { kind: 'test', transitional: false },
      ramReachable,
      iommu: undefined,
      pool,
      region: undefined,
      swiotlbRfc: false,
      busOffset,
      memory,
      ram,
      mayBlock: true,
      listed,
      fact: <T>(key: FactKey<T>): T | undefined => facts.get(key) as T | undefined,
    }
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
