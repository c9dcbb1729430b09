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
  /** The arena's bytes, for looking: what is at `arena[i]` has guest address `arenaBase + i`. A multiple of 4096. */
  readonly arena: Uint8Array<ArrayBuffer>
  readonly arenaBase: number
  private readonly values = new Map<FactKey<unknown>, unknown>()

  constructor({ ramBytes = 16 << 20, arenaBytes = 1 << 20 }: TestMachineOptions = {}) {
    const buffer = new ArrayBuffer(RAM_OFFSET + ramBytes + RAM_OFFSET)
    new Uint8Array(buffer).fill(DIRT)
    this.memory = new GuestMemory([{ base: RAM_BASE, length: ramBytes, memory: buffer, offset: RAM_OFFSET }])
    this.ram = new SpanAllocator(guestAddress(RAM_BASE), ramBytes)
    // Away from the start of RAM, so that there is memory on both sides of it.
    const below = this.ram.allocate(1 << 16, 4096)
    this.arenaBase = this.ram.allocate(arenaBytes, 4096)
    this.ram.release(below)
    this.arena = new Uint8Array(buffer, RAM_OFFSET + this.arenaBase - RAM_BASE, arenaBytes)
  }

  /** The place of one device in this machine. */
  platform(device: string): TestPlatform {
    return new TestPlatform(device, this)
  }

  /** See `PlatformBuilder.shared`. */
  shared<T>(key: FactKey<T>, make: () => T): T {
    if (!this.values.has(key)) this.values.set(key, make())
    return this.values.get(key) as T
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
    const guest = this.ram.allocate(length, align)
    return { guest, window: this.memory.window(guest, length) }
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
