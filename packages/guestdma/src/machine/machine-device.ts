import type { MmioRegisters, PciFunction, VirtioDevice } from '@guestdma/devices'
import {
  type CandidateReport,
  type DmaChoice,
  DmaError,
  type DmaProvider,
  type DmaScheme,
  listedIds,
  NoUsableBackendError,
} from '@guestdma/dma'
import { DeviceSession, type NetObserver, type VirtioDriver } from '@guestdma/drivers'
import { attempt, type BusPort } from '@guestdma/memory'
import { FeatureSet } from '@guestdma/spec'
import { type Negotiated, negotiate, type VirtioTransport, type Wait } from '@guestdma/transport'
import type { DependencyContainer } from 'tsyringe'
import { type DeviceConfig, isRemote } from '../config/config.ts'
import { kindOf } from '../config/driver-kinds.ts'
import { MachineError } from '../config/errors.ts'
import type { MachineEvents } from '../config/events.ts'
import type { DevicePlatform } from '../platform/facts.ts'
import { RemotePlatform } from '../platform/remote.ts'
import type { PlatformShared } from '../platform/shared.ts'
import { instancePerContainerCachingFactory } from './container.ts'
import type { DeviceCounters } from './counters.ts'
import { MessageMemory } from './messages.ts'
import { type PlacedModel, placeModel } from './model.ts'
import { AGREED_FEATURES, DMA_BACKEND, DRIVER, DRIVER_OPTIONS, SESSION, TRANSPORT } from './tokens.ts'

/** What a device needs from its machine. */
export interface MachineDeviceContext {
  readonly container: DependencyContainer
  readonly events: MachineEvents
  readonly common: PlatformShared
  /** The scheme whose platform the device stands on. */
  readonly scheme: DmaScheme
  readonly providers: readonly DmaProvider[]
  readonly dma: DmaChoice
  readonly transport: 'mmio' | 'pci'
  readonly wait: Wait
}

/** Memory of a device's, and whether it has to stay out of use now. */
type Keeper = Pick<DeviceSession, 'quarantined' | 'ram'>

/**
 * One device of a machine: from `start` to `close` its driver over the backend that was chosen. Its model and registers
 * are here too, unless the device lives elsewhere.
 */
export class MachineDevice {
  readonly name: string
  /** Does the device live elsewhere? Then there is no model, no port and no register of it here. */
  readonly remote: boolean
  /** How the driver reaches the device. */
  readonly transport: VirtioTransport
  /** What the driver reports to. A user may set `frames` and `sent`; the rest feeds the machine's events. */
  readonly observer: NetObserver

  private readonly config: DeviceConfig
  private readonly context: MachineDeviceContext
  private readonly platform: DevicePlatform
  private readonly placed: PlacedModel | null
  private child: DependencyContainer | null = null
  private agreed: Negotiated | null = null
  private interrupts = 0
  private current: VirtioDriver | null = null
  private messages: MessageMemory | null = null
  private unlisten: (() => void) | null = null
  private turn: Promise<void> = Promise.resolve()
  // Whoever may still keep memory of the device's out of use: sessions that were closed, or a negotiation that failed.
  private keepers: Keeper[] = []

  constructor(config: DeviceConfig, context: MachineDeviceContext) {
    const { name } = config
    const { events, common, scheme } = context
    this.name = name
    this.config = config
    this.context = context
    this.remote = isRemote(config)
    if (isRemote(config)) {
      const { transport, detach, translations = null } = config
      const { enforcedBy = translations === null ? 'peer' : 'trusted-code' } = config
      checkType(name, transport, kindOf(config.type).deviceId)
      const platform = new RemotePlatform(name, transport, common, {
        enforcedBy,
        translations,
        onFault: (fault) => events.tell('fault', { device: name, fault }),
        ...(detach === undefined ? {} : { detach: () => detach.call(config) }),
      })
      try {
        scheme.install(platform)
        if (translations !== null && !platform.translates) {
          const message = `its worker translates addresses, and the scheme '${scheme.id}' decides on none; start the worker without translated`
          throw new MachineError('MACHINE_CONFIG', name, message)
        }
      } catch (error) {
        attempt([], () => platform.release())
        throw error
      }
      this.platform = platform
      this.placed = null
      this.transport = transport
    } else {
      this.placed = placeModel(config, context, () => this.interrupt())
      this.platform = this.placed.platform
      this.transport = this.placed.connection.transport
    }
    const user = 'observer' in config ? config.observer : undefined
    this.observer = {
      ...(user?.frames === undefined ? {} : { frames: (batch) => user.frames?.(batch) }),
      ...(user?.sent === undefined ? {} : { sent: (tokens, count) => user.sent?.(tokens, count) }),
      warning: (warning) => events.tell('warning', { device: name, warning }),
      drain: () => events.tell('drain', { device: name }),
      link: (up) => events.tell('link', { device: name, up }),
      broken: (error) => events.tell('needsReset', { device: name, error }),
    }
  }

  /** The device's model. Throws `MACHINE_REMOTE` where the device lives elsewhere, as {@link port} does. */
  get model(): VirtioDevice {
    return this.here('model').model
  }

  /** What the device reaches memory through. */
  get port(): BusPort {
    return this.here('port').port
  }

  /** The device's registers where its model is on mmio; null otherwise. */
  get registers(): MmioRegisters | null {
    return this.placed?.connection.registers ?? null
  }

  /** The device's function where its model is on PCI; null otherwise. */
  get pci(): PciFunction | null {
    return this.placed?.connection.pci ?? null
  }

  /** Told by whoever learns of it that the device interrupts. The next pump does the work. */
  interrupt(): void {
    this.interrupts++
    this.current?.interrupt()
  }

  /**
   * Bytes of guest RAM that stay out of use, since nothing can keep the device from them; `null` where there are none.
   * Behind an IOMMU they go back once it has confirmed that the device cannot reach them: when the device is attached
   * again, or with the reset of the IOMMU when the machine is closed. What a negotiation that failed left within reach
   * stays out of use.
   */
  get quarantined(): number | null {
    const keepers = this.keepers.filter(({ quarantined }) => quarantined)
    if (keepers.length === 0) return null
    // Of a pool nobody knows which part the device was given.
    return keepers.reduce((sum, { ram }) => sum + ram.allocated, this.platform.reservedBytes)
  }

  /** Is there a driver now? */
  get running(): boolean {
    return this.current !== null
  }

  /** What was negotiated. Throws `MACHINE_CLOSED` before `start` and after `close`. */
  get negotiated(): Negotiated {
    return this.agreed ?? this.refuseClosed()
  }

  /**
   * The device's container: its backend, features, transport, session and driver. Throws as {@link negotiated} does.
   */
  get container(): DependencyContainer {
    return this.child ?? this.refuseClosed()
  }

  get driver(): VirtioDriver {
    return this.current ?? this.refuseClosed()
  }

  /**
   * Negotiates, and builds the driver over the backend that came out of it. Waits for an earlier `start`, `close` or
   * `reset`.
   */
  start(): Promise<void> {
    return this.inTurn(() => this.bringUp())
  }

  /** Resets the device and takes back all memory. */
  close(): Promise<void> {
    return this.inTurn(() => this.bringDown())
  }

  /** `close` and `start` as one step. */
  reset(): Promise<void> {
    return this.inTurn(async () => {
      await this.bringDown()
      await this.bringUp()
    })
  }

  private inTurn(step: () => Promise<void>): Promise<void> {
    const turn = this.turn.then(step, step)
    this.turn = turn.catch(() => {})
    return turn
  }

  private async bringUp(): Promise<void> {
    if (this.current !== null) return
    const { container, events, common, providers, dma, wait } = this.context
    const { transport, platform } = this
    const kind = kindOf(this.config.type)
    const listed = listedIds(dma)
    const ram = common.ram.account()
    const agreed = await negotiate({
      transport,
      understood: kind.features.without(FeatureSet.of(...(this.config.decline ?? []))),
      ...(kind.dependencies === undefined ? {} : { dependencies: kind.dependencies }),
      providers,
      dma,
      offer: (offered) => {
        // The device has answered a reset: what a detach took away may be reachable again.
        platform.attach()
        return platform.offer(transport, offered, listed, ram)
      },
      wait,
    }).catch((error: unknown) => {
      const quarantined = error instanceof DmaError && error.code === 'DMA_STILL_REACHABLE'
      this.noticeQuarantine({ quarantined, ram })
      throw this.advised(error)
    })
    const { features, backend } = agreed
    const { memory } = common
    const { mode, queueSize, requestDeadlineMs } = this.config
    const session = new DeviceSession({
      transport,
      features,
      backend,
      memory,
      ram,
      wait,
      detach: () => platform.detach(),
      warning: (warning) => this.observer.warning?.(warning),
    })
    const child = container.createChildContainer()
    child.registerInstance(DMA_BACKEND, backend)
    child.registerInstance(AGREED_FEATURES, features)
    child.registerInstance(TRANSPORT, transport)
    child.registerInstance(SESSION, session)
    child.registerInstance(DRIVER_OPTIONS, {
      onWork: common.wake,
      observer: this.observer,
      interrupts: this.interrupting,
      ...(mode === undefined ? {} : { mode }),
      ...(queueSize === undefined ? {} : { queueSize }),
      ...(requestDeadlineMs === undefined ? {} : { requestDeadlineMs }),
    })
    child.register(DRIVER, {
      useFactory: instancePerContainerCachingFactory((c) => kind.make(c.resolve(SESSION), c.resolve(DRIVER_OPTIONS))),
    })
    try {
      if (isRemote(this.config) && this.config.messages !== undefined)
        this.messages = new MessageMemory(transport, backend)
      this.current = child.resolve(DRIVER)
      if (isRemote(this.config)) this.unlisten = this.config.listen?.(() => this.interrupt()) ?? null
    } catch (error) {
      this.current = null
      // The first error is the one to tell; what else fails only decides what becomes of the memory.
      session.giveUp()
      await session.close().catch(() => {})
      this.messages = null
      this.noticeQuarantine(session)
      throw error
    }
    this.child = child
    this.agreed = agreed
    events.tell('scheme', { device: this.name, scheme: agreed.scheme, why: agreed.why, ladder: agreed.ladder })
  }

  // What the caller listed may need another platform than the device stands on.
  private advised(error: unknown): unknown {
    const { dma, scheme } = this.context
    const listed = [...listedIds(dma)]
    if (!(error instanceof NoUsableBackendError) || listed.length === 0 || listed.includes(scheme.id)) return error
    const advice = `; the device stands on the platform of '${scheme.id}'; with the option platform: '${listed[0]}' it stands on the other`
    return new NoUsableBackendError(this.name, error.details.candidates as CandidateReport[], advice, {
      cause: error.cause,
    })
  }

  private async bringDown(): Promise<void> {
    const { current, child, unlisten } = this
    if (current === null) return
    const { backend } = this.negotiated
    this.current = null
    this.messages = null
    this.unlisten = null
    this.child = null
    this.agreed = null
    // What somebody else's function throws is told, and must not keep the device from its reset.
    const errors: unknown[] = []
    attempt(errors, () => unlisten?.())
    try {
      await current.close()
      const mappings = backend.counters.maps - backend.counters.unmaps
      if (mappings > 0) this.context.events.tell('leak', { device: this.name, mappings })
    } finally {
      this.noticeQuarantine(current.session)
      await child?.dispose()
    }
    if (errors.length > 0) throw errors[0]
  }

  /** Does what is to be done for the device and its driver. Returns how much that was. */
  poll(budget: number): number {
    if (this.current === null) return 0
    if (this.messages?.poll() === true) this.interrupt()
    return this.current.poll(budget)
  }

  /** Must it be pumped by the clock, since nothing tells of what the device completed? */
  get silent(): boolean {
    return this.current !== null && isRemote(this.config) && this.config.listen === undefined
  }

  /** The device's figures, as plain data. */
  counters(): DeviceCounters {
    const { backend, scheme } = this.negotiated
    const { driver } = this
    return {
      scheme,
      driver: { ...driver.counters },
      backend: { ...backend.counters },
      queues: Object.fromEntries(driver.session.queues.map((queue) => [queue.name, { ...queue.counters }])),
      interrupts: this.interrupts,
      faults: this.platform.faults + (this.placed?.model.faults.count ?? 0),
    }
  }

  /** After `close`, when the machine ends: gives the platform's memory back, unless the device may still reach it. */
  release(): void {
    if (this.quarantined === null) this.platform.release()
  }

  private noticeQuarantine(keeper: Keeper): void {
    if (!keeper.quarantined) return
    const before = this.quarantined ?? 0
    this.keepers = [...this.keepers.filter(({ quarantined }) => quarantined), keeper]
    this.context.events.tell('quarantine', { device: this.name, bytes: (this.quarantined ?? 0) - before })
  }

  private here(what: string): PlacedModel {
    if (this.placed !== null) return this.placed
    throw new MachineError('MACHINE_REMOTE', this.name, `the device lives elsewhere, so it has no ${what} here`)
  }

  // Does the driver ask for interrupts? There is no use in what nobody would hear of.
  private get interrupting(): boolean {
    const { config } = this
    const heard = !isRemote(config) || config.listen !== undefined || config.messages !== undefined
    return config.interrupts ?? heard
  }

  private refuseClosed(): never {
    throw new MachineError('MACHINE_CLOSED', this.name, 'the device is closed; reset() starts it again')
  }
}

function checkType(name: string, { deviceId: found }: VirtioTransport, deviceId: number): void {
  if (found === deviceId) return
  const message = `the device behind the transport has device ID ${found}, and the driver is for ${deviceId}`
  throw new MachineError('MACHINE_DEVICE_TYPE', name, message, { found, deviceId })
}
