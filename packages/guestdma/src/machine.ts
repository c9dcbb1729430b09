import { onDeviceScheme, sharedPoolScheme } from '@guestdma/bounce'
import { BlkDevice, NetDevice } from '@guestdma/devices'
import { directScheme, UnknownSchemeError } from '@guestdma/dma'
import { BlkDriver, NetDriver } from '@guestdma/drivers'
import { virtioIommuScheme } from '@guestdma/iommu'
import { GuestDmaError, GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import type { DependencyContainer } from 'tsyringe'
import { BarSpace } from './bar-space.ts'
import type { DeviceConfig, MachineConfig } from './config.ts'
import { instancePerContainerCachingFactory, container as root } from './container.ts'
import { DeviceSlot } from './device-slot.ts'
import { MachineEvents } from './events.ts'
import type { PlatformShared } from './platform.ts'
import { BLK_DRIVER, BLK_OPTIONS, GUEST_MEMORY, GUEST_RAM, NET_DRIVER, NET_OPTIONS, SESSION } from './tokens.ts'

/** One device's figures, as plain data. */
export interface DeviceCounters {
  readonly scheme: string
  readonly driver: Readonly<Record<string, number>>
  readonly backend: Readonly<Record<string, number>>
  readonly queues: Readonly<Record<string, Readonly<Record<string, number>>>>
  /** Faults of the device's port and of its driver's requests, so far. */
  readonly faults: number
}

/** A whole machine's figures, as plain data. */
export interface MachineCounters {
  readonly devices: Readonly<Record<string, DeviceCounters>>
}

// Two devices that answer each other for ever would otherwise keep pump() busy for ever.
const MAX_ROUNDS = 1024
const BUDGET = 64
const TURN_MS = 5

/** Device models and their drivers over one guest memory, in one thread. Whoever owns the loop calls {@link pump}. */
export class Machine {
  readonly memory: GuestMemory
  /** Guest RAM for a user's own buffers. */
  readonly ram: SpanAllocator
  readonly events: MachineEvents
  /** The machine's container. */
  readonly container: DependencyContainer

  private readonly slots: ReadonlyMap<string, DeviceSlot>
  private readonly common: PlatformShared
  private closed = false

  constructor(
    memory: GuestMemory,
    ram: SpanAllocator,
    events: MachineEvents,
    container: DependencyContainer,
    slots: ReadonlyMap<string, DeviceSlot>,
    common: PlatformShared,
  ) {
    this.memory = memory
    this.ram = ram
    this.events = events
    this.container = container
    this.slots = slots
    this.common = common
  }

  /** The net driver of a device. Throws `MACHINE_DEVICE`, `MACHINE_CLOSED`. After `reset` there is a new one. */
  net(name: string): NetDriver {
    const { driver } = this.slot(name)
    if (driver instanceof NetDriver) return driver
    throw new GuestDmaError('MACHINE_DEVICE', name, 'is not a net device')
  }

  /** The block driver of a device. Throws `MACHINE_DEVICE`, `MACHINE_CLOSED`. After `reset` there is a new one. */
  blk(name: string): BlkDriver {
    const { driver } = this.slot(name)
    if (driver instanceof BlkDriver) return driver
    throw new GuestDmaError('MACHINE_DEVICE', name, 'is not a block device')
  }

  /** The model of a net device, to receive frames into it or to pull its cable. Throws `MACHINE_DEVICE`. */
  netDevice(name: string): NetDevice {
    const { device } = this.slot(name)
    if (device instanceof NetDevice) return device
    throw new GuestDmaError('MACHINE_DEVICE', name, 'has no net device model of ours')
  }

  /** The model of a block device. Throws `MACHINE_DEVICE`. */
  blkDevice(name: string): BlkDevice {
    const { device } = this.slot(name)
    if (device instanceof BlkDevice) return device
    throw new GuestDmaError('MACHINE_DEVICE', name, 'has no block device model of ours')
  }

  /** A device with its model, its port and what was negotiated. Throws `MACHINE_DEVICE`. */
  slot(name: string): DeviceSlot {
    const slot = this.slots.get(name)
    if (slot === undefined)
      throw new GuestDmaError(
        'MACHINE_DEVICE',
        name,
        `there is no such device; there are ${[...this.slots.keys()].join(', ') || 'none'}`,
      )
    return slot
  }

  /**
   * Runs devices and drivers until neither has anything to do now. Returns how much was done. Callbacks fire in here
   * and nowhere else.
   */
  pump(budget: number = BUDGET): number {
    const { own, pumps } = this.common
    let total = 0
    for (let round = 0; round < MAX_ROUNDS; round++) {
      let work = 0
      for (const { device } of this.slots.values()) work += device.poll(budget)
      for (const device of own) work += device.poll(budget)
      for (const pump of pumps) work += pump()
      for (const slot of this.slots.values()) if (slot.running) work += slot.driver.poll(budget)
      if (work === 0) break
      total += work
    }
    return total
  }

  /**
   * Pumps until a promise settles: for stores that answer later, and for scripts. Resolves or rejects as the promise
   * does.
   */
  async run<T>(promise: Promise<T>): Promise<T> {
    let settled = false
    let turned = performance.now()
    const mark = (): void => {
      settled = true
    }
    promise.then(mark, mark)
    for (;;) {
      const work = this.pump()
      // A microtask lets what was completed settle; a whole turn lets a store go on, and timers.
      const busy = work > 0 && performance.now() - turned < TURN_MS
      if (!busy) turned = performance.now()
      await (busy ? Promise.resolve() : new Promise<void>((resolve) => setTimeout(resolve, 0)))
      if (settled) return promise
    }
  }

  /** Resets a device and negotiates anew. What was in flight fails with `DRIVER_CLOSED`. */
  async reset(name: string): Promise<void> {
    const slot = this.slot(name)
    if (this.closed) throw new GuestDmaError('MACHINE_CLOSED', name, 'the machine is closed; create another one')
    await slot.reset()
  }

  counters(): MachineCounters {
    return {
      devices: Object.fromEntries(
        [...this.slots].filter(([, slot]) => slot.running).map(([name, slot]) => [name, slot.counters()]),
      ),
    }
  }

  /** Resets all devices and gives all memory back. The first error is thrown once all were tried. */
  async close(): Promise<void> {
    if (this.closed) return
    this.closed = true
    const results = await Promise.allSettled([...this.slots.values()].map((slot) => slot.close()))
    results.push(...(await Promise.allSettled(this.common.closes.map((close) => close()))))
    for (const slot of this.slots.values()) slot.release()
    await this.container.dispose()
    const failed = results.find((result) => result.status === 'rejected')
    if (failed !== undefined) throw failed.reason
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/**
 * Builds a machine: installs a scheme's platform under each device, brings every device up, and builds its driver over
 * the DMA backend that was chosen at negotiation.
 *
 * @throws NoUsableBackendError, DowngradeRefusedError, DmaConflictError, UnknownSchemeError; GuestDmaError
 *   `MACHINE_DEVICE`; MemoryError; what
 *   devices and drivers throw. All devices that were up are closed again.
 */
export async function createMachine(config: MachineConfig): Promise<Machine> {
  const memory = config.memory instanceof GuestMemory ? config.memory : new GuestMemory(config.memory)
  const largest = memory.ranges.reduce((a, b) => (b.length > a.length ? b : a))
  const { base, length } = config.ram ?? { base: guestAddress(largest.base), length: largest.length }
  memory.window(base, length)
  const ram = new SpanAllocator(base, length)
  const events = config.events ?? new MachineEvents()
  const pool = sharedPoolScheme()
  const schemes = config.schemes ?? [onDeviceScheme(), virtioIommuScheme(), pool, directScheme()]
  const [usual] = config.schemes ?? [pool]
  const container = root.createChildContainer()
  container.registerInstance(GUEST_MEMORY, memory)
  container.registerInstance(GUEST_RAM, ram)
  container.register(NET_DRIVER, {
    useFactory: instancePerContainerCachingFactory((c) => new NetDriver(c.resolve(SESSION), c.resolve(NET_OPTIONS))),
  })
  container.register(BLK_DRIVER, {
    useFactory: instancePerContainerCachingFactory((c) => new BlkDriver(c.resolve(SESSION), c.resolve(BLK_OPTIONS))),
  })

  const slots = new Map<string, DeviceSlot>()
  const common: PlatformShared = {
    memory,
    ram,
    values: new Map(),
    mayBlock: config.mayBlock ?? true,
    bars: new BarSpace(memory),
    own: [],
    iommus: new Map(),
    prepare: [],
    pumps: [],
    closes: [],
    deadlineMs: config.deadlineMs,
    report: (fault) => events.tell('iommuFault', fault),
    failed: (device, error) => events.tell('needsReset', { device, error }),
  }
  const machine = new Machine(memory, ram, events, container, slots, common)
  const wait = {
    pump: (): void => {
      for (const { device } of slots.values()) device.poll(BUDGET)
      for (const device of common.own) device.poll(BUDGET)
    },
    ...(config.deadlineMs === undefined ? {} : { deadlineMs: config.deadlineMs }),
  }
  const pick = ({ name, platform }: DeviceConfig) => {
    const scheme = platform === undefined ? usual : schemes.find(({ id }) => id === platform)
    if (scheme !== undefined) return scheme
    throw new UnknownSchemeError(
      name,
      platform ?? '',
      schemes.map(({ id }) => id),
    )
  }
  try {
    for (const device of config.devices) {
      if (slots.has(device.name)) throw new GuestDmaError('MACHINE_DEVICE', device.name, 'two devices have this name')
      const context = {
        container,
        events,
        common,
        scheme: pick(device),
        providers: schemes.map(({ provider }) => provider),
        choice: device.dma ?? 'auto',
        transport: device.transport ?? config.transport ?? 'mmio',
        wait,
      }
      slots.set(device.name, new DeviceSlot(device, context))
    }
    // IOMMUs first: until their drivers run, endpoints may be in bypass.
    for (const prepare of common.prepare) await prepare()
    for (const slot of slots.values()) await slot.start()
  } catch (error) {
    await machine.close().catch(() => {})
    throw error
  }
  return machine
}
