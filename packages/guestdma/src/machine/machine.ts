import { onDeviceScheme, sharedPoolScheme } from '@guestdma/bounce'
import { BlkDevice, NetDevice } from '@guestdma/devices'
import { directScheme } from '@guestdma/dma'
import { BlkDriver, NetDriver } from '@guestdma/drivers'
import { virtioIommuScheme } from '@guestdma/iommu'
import { attempt, GuestMemory, guestAddress, observe, SpanAllocator } from '@guestdma/memory'
import type { DependencyContainer } from 'tsyringe'
import { checkConfig, checkSchemeIds } from '../config/check-config.ts'
import { isRemote, type MachineConfig } from '../config/config.ts'
import { MachineError } from '../config/errors.ts'
import { MachineEvents } from '../config/events.ts'
import { BarSpace } from '../platform/bar-space.ts'
import type { PlatformShared } from '../platform/shared.ts'
import { container as root } from './container.ts'
import type { MachineCounters } from './counters.ts'
import { MachineDevice } from './machine-device.ts'
import { GUEST_MEMORY, GUEST_RAM } from './tokens.ts'

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

  private readonly devices: ReadonlyMap<string, MachineDevice>
  private readonly common: PlatformShared
  private readonly onWork: (() => void) | null
  private closing: Promise<void> | null = null
  private pumping = false
  // `onWork` may be called: whoever made the machine has it.
  private handedOut = false
  // There is something to pump, and whoever sleeps in `run` until then.
  private isDue = false
  private sleepers: (() => void)[] = []

  constructor(
    memory: GuestMemory,
    ram: SpanAllocator,
    events: MachineEvents,
    container: DependencyContainer,
    devices: ReadonlyMap<string, MachineDevice>,
    common: PlatformShared,
    onWork: (() => void) | null = null,
  ) {
    this.memory = memory
    this.ram = ram
    this.events = events
    this.container = container
    this.devices = devices
    this.common = common
    this.onWork = onWork
  }

  /** The net driver of a device. Throws `MACHINE_NO_DEVICE`, `MACHINE_DEVICE_TYPE`, `MACHINE_CLOSED`. After `reset` there is a new one. */
  net(name: string): NetDriver {
    const { driver } = this.device(name)
    if (driver instanceof NetDriver) return driver
    throw new MachineError('MACHINE_DEVICE_TYPE', name, 'is not a net device')
  }

  /** The block driver of a device. Throws `MACHINE_NO_DEVICE`, `MACHINE_DEVICE_TYPE`, `MACHINE_CLOSED`. After `reset` there is a new one. */
  blk(name: string): BlkDriver {
    const { driver } = this.device(name)
    if (driver instanceof BlkDriver) return driver
    throw new MachineError('MACHINE_DEVICE_TYPE', name, 'is not a block device')
  }

  /** The model of a net device, to receive frames into it or to pull its cable. Throws `MACHINE_NO_DEVICE`, `MACHINE_DEVICE_TYPE`. */
  netModel(name: string): NetDevice {
    const { model } = this.device(name)
    if (model instanceof NetDevice) return model
    throw new MachineError('MACHINE_DEVICE_TYPE', name, 'has no net device model of ours')
  }

  /** The model of a block device. Throws `MACHINE_NO_DEVICE`, `MACHINE_DEVICE_TYPE`. */
  blkModel(name: string): BlkDevice {
    const { model } = this.device(name)
    if (model instanceof BlkDevice) return model
    throw new MachineError('MACHINE_DEVICE_TYPE', name, 'has no block device model of ours')
  }

  /** A device with its model, its port and what was negotiated. Throws `MACHINE_NO_DEVICE`. */
  device(name: string): MachineDevice {
    const device = this.devices.get(name)
    if (device === undefined)
      throw new MachineError(
        'MACHINE_NO_DEVICE',
        name,
        `there is no such device; there are ${[...this.devices.keys()].join(', ') || 'none'}`,
      )
    return device
  }

  /**
   * Runs devices and drivers until none of them has anything to do. Returns how much was done. Callbacks fire in here
   * and nowhere else. Afterwards the caller may sleep until `MachineConfig.onWork` is called. Two devices that answer
   * each other without end are left after 1,024 rounds; then {@link due} is true, and `onWork` is called at once.
   */
  pump(budget: number = BUDGET): number {
    if (this.pumping) return 0
    this.pumping = true
    try {
      return this.rounds(budget)
    } finally {
      this.pumping = false
      if (this.isDue) this.tellDue()
    }
  }

  /**
   * Is there something to pump? After {@link pump} it is true where devices and drivers were left with work. A loop
   * without `onWork` pumps again.
   */
  get due(): boolean {
    return this.isDue
  }

  /**
   * Pumps until a promise settles: for stores that answer later, and for scripts. Resolves or rejects as the promise
   * does. Between two pumps it sleeps until something is due, unless a device lives elsewhere and nothing tells of its
   * completions (`RemoteConfig.listen`). For a promise that never settles it sleeps without end:
   * `requestDeadlineMs` of a device bounds how long a request to it may take.
   */
  async run<T>(promise: Promise<T>): Promise<T> {
    let settled = false
    let turned = performance.now()
    const mark = (): void => {
      settled = true
    }
    const settling = promise.then(mark, mark)
    while (!settled) {
      this.pump()
      // A microtask lets what was completed settle.
      if (this.isDue || this.silent()) await Promise.resolve()
      else await Promise.race([settling, new Promise<void>((resolve) => this.sleepers.push(resolve))])
      // Whatever is always due must not keep stores, timers and sockets from their turn.
      if (performance.now() - turned < TURN_MS) continue
      await new Promise<void>((resolve) => setTimeout(resolve, 0))
      turned = performance.now()
    }
    return promise
  }

  /** For the parts of the machine: there is something to pump. */
  wake(): void {
    if (this.isDue || this.closing !== null) return
    this.isDue = true
    if (!this.pumping) this.tellDue()
  }

  /** For `createMachine`: whoever made the machine has it now, and is told of what became due before. */
  handOut(): void {
    this.handedOut = true
    if (this.isDue) this.tellDue()
  }

  private silent(): boolean {
    for (const device of this.devices.values()) if (device.silent) return true
    return false
  }

  private tellDue(): void {
    const { sleepers } = this
    this.sleepers = []
    for (const wake of sleepers) wake()
    if (this.onWork !== null && this.handedOut) observe(this.onWork, undefined)
  }

  private rounds(budget: number): number {
    const { own, pumps } = this.common
    let total = 0
    for (let round = 0; round < MAX_ROUNDS; round++) {
      let work = 0
      this.isDue = false
      for (const device of this.devices.values()) if (!device.remote) work += device.model.poll(budget)
      for (const device of own) work += device.poll(budget)
      for (const pump of pumps) work += guarded(pump)
      for (const device of this.devices.values()) work += device.poll(budget)
      total += work
      if (work === 0 && !this.isDue) return total
    }
    this.isDue = true
    return total
  }

  /**
   * Resets a device and negotiates anew. What was in flight fails with `DRIVER_CLOSED`. It throws what
   * `DeviceSession.close` and `negotiate` throw; the device is closed then, and may be reset again.
   */
  async reset(name: string): Promise<void> {
    const device = this.device(name)
    if (this.closing !== null)
      throw new MachineError('MACHINE_CLOSED', name, 'the machine is closed; create another one')
    await device.reset()
  }

  counters(): MachineCounters {
    return {
      devices: Object.fromEntries(
        [...this.devices].filter(([, device]) => device.running).map(([name, device]) => [name, device.counters()]),
      ),
    }
  }

  /**
   * Resets all devices and gives all memory back. Everything is tried, then the first error is thrown. Idempotent: each
   * call ends as the first one does.
   *
   * The devices come first, and then their IOMMUs. An IOMMU that confirms its reset has let go of everything, so that
   * memory goes back which it had refused to take from a device. Where it does not, that memory stays out of use, and is
   * not to be given to anybody else.
   *
   * @throws MachineError `MACHINE_QUARANTINED` where nothing else failed now but memory had to be given up, now or in an
   *   earlier reset; `details` says how many bytes of each device's, and of what several share
   */
  close(): Promise<void> {
    this.closing ??= this.shutDown()
    return this.closing
  }

  private async shutDown(): Promise<void> {
    const { common, devices } = this
    const errors: unknown[] = []
    const all = async (closes: Promise<void>[]): Promise<void> => {
      for (const result of await Promise.allSettled(closes))
        if (result.status === 'rejected') errors.push(result.reason)
    }
    await all([...devices.values()].map((device) => device.close()))
    const devicesFailed = errors.length
    await all(common.closes.map(async (close) => close()))
    for (const device of devices.values()) attempt(errors, () => device.release())
    const quarantined = Object.fromEntries(
      [...devices]
        .filter(([, device]) => device.quarantined !== null)
        .map(([name, device]) => [name, device.quarantined]),
    )
    const names = Object.keys(quarantined)
    // What several devices share is within reach of each of them, and of an IOMMU that did not answer.
    let shared = 0
    for (const [guest, length] of common.reserved) {
      if (names.length > 0 || errors.length > devicesFailed) shared += length
      else attempt(errors, () => common.ram.release(guest))
    }
    await all([Promise.resolve(this.container.dispose())])
    if (errors.length > 0) throw errors[0]
    if (names.length === 0) return
    const message = `memory stays out of use that nothing can keep ${names.join(', ')} from`
    throw new MachineError('MACHINE_QUARANTINED', 'machine', message, { devices: quarantined, shared })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/**
 * Builds a machine: installs a scheme's platform under each device, brings every device up, and builds its driver over
 * the DMA backend that was chosen at negotiation.
 *
 * @throws NoUsableBackendError, DowngradeRefusedError, DmaConflictError, UnknownSchemeError; MachineError
 *   `MACHINE_CONFIG` (before anything is made; `details.path` says what), `MACHINE_NO_DEVICE`; MemoryError; what devices and
 *   drivers throw. All devices that were up are closed again.
 */
export async function createMachine(config: MachineConfig): Promise<Machine> {
  checkConfig(config)
  const pool = sharedPoolScheme()
  const schemes = config.schemes ?? [onDeviceScheme(), virtioIommuScheme(), pool, directScheme()]
  const [usual] = config.schemes ?? [pool]
  checkSchemeIds(config.devices, schemes)
  const memory = config.memory instanceof GuestMemory ? config.memory : new GuestMemory(config.memory)
  const largest = memory.ranges.reduce((a, b) => (b.length > a.length ? b : a))
  const { base, length } = config.ram ?? { base: guestAddress(largest.base), length: largest.length }
  memory.window(base, length)
  const ram = new SpanAllocator(base, length)
  const events = config.events ?? new MachineEvents()
  const container = root.createChildContainer()
  container.registerInstance(GUEST_MEMORY, memory)
  container.registerInstance(GUEST_RAM, ram)

  const devices = new Map<string, MachineDevice>()
  let machine: Machine | null = null
  const common: PlatformShared = {
    wake: () => {
      if (machine !== null) machine.wake()
    },
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
    reserved: new Map(),
    deadlineMs: config.deadlineMs,
    report: (fault) => events.tell('iommuFault', fault),
    failed: (device, error) => events.tell('needsReset', { device, error }),
  }
  machine = new Machine(memory, ram, events, container, devices, common, config.onWork ?? null)
  const wait = {
    pump: (): void => {
      for (const device of devices.values()) if (!device.remote) device.model.poll(BUDGET)
      for (const device of common.own) device.poll(BUDGET)
    },
    ...(config.deadlineMs === undefined ? {} : { deadlineMs: config.deadlineMs }),
  }
  try {
    for (const device of config.devices) {
      const context = {
        container,
        events,
        common,
        scheme: schemes.find(({ id }) => id === device.platform) ?? usual,
        providers: schemes.map(({ provider }) => provider),
        dma: device.dma ?? 'auto',
        transport: isRemote(device) ? 'mmio' : (device.transport ?? config.transport ?? 'mmio'),
        wait,
      }
      devices.set(device.name, new MachineDevice(device, context))
    }
    // IOMMUs first: until their drivers run, endpoints may be in bypass.
    for (const prepare of common.prepare) await prepare()
    for (const device of devices.values()) await device.start()
  } catch (error) {
    await machine.close().catch(() => {})
    throw error
  }
  // Not before the caller can have stored what this function returns.
  const made = machine
  setTimeout(() => made.handOut(), 0)
  return made
}

// What a scheme's own part throws surfaces in a microtask, and the others go on.
function guarded(pump: () => number): number {
  try {
    return pump()
  } catch (error) {
    observe(rethrow, error)
    return 0
  }
}

function rethrow(error: unknown): void {
  throw error
}
