import { BlkDevice, type MmioRegisters, NetDevice, type PciFunction, type VirtioDevice } from '@guestdma/devices'
import {
  type CandidateReport,
  type DmaChoice,
  type DmaProvider,
  type DmaScheme,
  listedIds,
  NoUsableBackendError,
} from '@guestdma/dma'
import {
  BLK_FEATURES,
  type BlkDriver,
  DeviceSession,
  NET_FEATURES,
  type NetDriver,
  type NetObserver,
} from '@guestdma/drivers'
import { attempt, type BusPort } from '@guestdma/memory'
import { DEVICE_ID_BLOCK, DEVICE_ID_NET, FeatureSet, NET_FEATURE_DEPENDENCIES, VIRTIO_F_SWIOTLB } from '@guestdma/spec'
import { type Negotiated, negotiate, type VirtioTransport, type Wait } from '@guestdma/transport'
import type { DependencyContainer } from 'tsyringe'
import type { DeviceConfig } from './config.ts'
import { type Connection, connect } from './connection.ts'
import type { DeviceCounters } from './counters.ts'
import { MachineError } from './errors.ts'
import type { MachineEvents } from './events.ts'
import { DevicePlatform, type PlatformShared } from './platform.ts'
import {
  AGREED_FEATURES,
  BLK_DRIVER,
  BLK_OPTIONS,
  DMA_BACKEND,
  NET_DRIVER,
  NET_OPTIONS,
  SESSION,
  TRANSPORT,
} from './tokens.ts'

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

/**
 * One device of a machine: the model, its registers, and from `start` to `close` the driver over the backend that was
 * chosen.
 */
export class MachineDevice {
  readonly name: string
  readonly model: VirtioDevice
  readonly port: BusPort
  /** What the driver reports to. A user may set `frames` and `sent`; the rest feeds the machine's events. */
  readonly observer: NetObserver

  private readonly config: DeviceConfig
  private readonly context: MachineDeviceContext
  private readonly platform: DevicePlatform
  private readonly connection: Connection
  private child: DependencyContainer | null = null
  private agreed: Negotiated | null = null
  private current: NetDriver | BlkDriver | null = null
  private turn: Promise<void> = Promise.resolve()
  /**
   * Bytes of guest RAM that stay out of use, since nothing can keep the device from them; `null` where there was no need
   * for that.
   */
  quarantined: number | null = null

  constructor(config: DeviceConfig, context: MachineDeviceContext) {
    const { name } = config
    const { events, scheme } = context
    this.name = name
    this.config = config
    this.context = context
    this.platform = new DevicePlatform(
      name,
      context.transport,
      context.common,
      (fault) => events.tell('fault', { device: name, fault }),
      { level: () => {}, message: (_address, data) => this.connection.message(data) },
    )
    try {
      this.port = scheme.install(this.platform)
      this.model = makeDevice(config, this.port, this.platform)
      const deviceId = config.type === 'net' ? DEVICE_ID_NET : DEVICE_ID_BLOCK
      if (this.model.deviceId !== deviceId) {
        throw new MachineError(
          'MACHINE_DEVICE_TYPE',
          name,
          `the model has device ID ${this.model.deviceId}; type '${config.type}' needs ${deviceId}`,
          { deviceId: this.model.deviceId },
        )
      }
      const { onWork } = this.model
      const { wake } = context.common
      this.model.onWork =
        onWork === null
          ? wake
          : () => {
              wake()
              onWork()
            }
      this.model.faults.observer = (fault) => events.tell('fault', { device: name, fault })
      this.connection = connect(this.model, this.platform, context.common.bars, () => this.current?.interrupt())
    } catch (error) {
      attempt([], () => this.platform.release())
      throw error
    }
    const user = config.type === 'net' ? config.observer : undefined
    this.observer = {
      ...(user?.frames === undefined ? {} : { frames: (batch) => user.frames?.(batch) }),
      ...(user?.sent === undefined ? {} : { sent: (tokens, count) => user.sent?.(tokens, count) }),
      warning: (warning) => events.tell('warning', { device: name, warning }),
      drain: () => events.tell('drain', { device: name }),
      link: (up) => events.tell('link', { device: name, up }),
      broken: (error) => events.tell('needsReset', { device: name, error }),
    }
  }

  /** How the driver reaches the device. */
  get transport(): VirtioTransport {
    return this.connection.transport
  }

  /** The device's registers where it is on mmio; null over PCI. */
  get registers(): MmioRegisters | null {
    return this.connection.registers
  }

  /** The device's function where it is on PCI; null over mmio. */
  get pci(): PciFunction | null {
    return this.connection.pci
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

  get driver(): NetDriver | BlkDriver {
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
    const { transport, platform, port } = this
    const net = this.config.type === 'net'
    const listed = listedIds(dma)
    const ram = common.ram.account()
    const agreed = await negotiate({
      transport,
      understood: net ? NET_FEATURES : BLK_FEATURES,
      dependencies: net ? NET_FEATURE_DEPENDENCIES : [],
      providers,
      dma,
      offer: (offered) => {
        // The device has answered a reset: what a detach took away may be reachable again.
        platform.attach()
        return platform.offer(transport, offered, listed, ram)
      },
      wait,
    }).catch((error: unknown) => {
      throw this.advised(error)
    })
    const { features, backend } = agreed
    const { memory } = common
    const session = new DeviceSession({
      transport,
      features,
      backend,
      memory,
      ram,
      wait,
      detach: () => platform.detach(port),
    })
    const child = container.createChildContainer()
    child.registerInstance(DMA_BACKEND, backend)
    child.registerInstance(AGREED_FEATURES, features)
    child.registerInstance(TRANSPORT, transport)
    child.registerInstance(SESSION, session)
    const { mode, queueSize, interrupts, requestDeadlineMs } = this.config
    const options = {
      onWork: common.wake,
      observer: this.observer,
      ...(mode === undefined ? {} : { mode }),
      ...(queueSize === undefined ? {} : { queueSize }),
      ...(interrupts === undefined ? {} : { interrupts }),
      ...(requestDeadlineMs === undefined ? {} : { requestDeadlineMs }),
    }
    child.registerInstance(NET_OPTIONS, options)
    child.registerInstance(BLK_OPTIONS, options)
    try {
      this.current = net ? child.resolve(NET_DRIVER) : child.resolve(BLK_DRIVER)
    } catch (error) {
      // The first error is the one to tell; what else fails only decides what becomes of the memory.
      session.giveUp()
      await session.close().catch(() => {})
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
    const { current, child } = this
    if (current === null) return
    const { backend } = this.negotiated
    this.current = null
    this.child = null
    this.agreed = null
    try {
      await current.close()
      const mappings = backend.counters.maps - backend.counters.unmaps
      if (mappings > 0) this.context.events.tell('leak', { device: this.name, mappings })
    } finally {
      this.noticeQuarantine(current.session)
      await child?.dispose()
    }
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
      faults: this.platform.faults + this.model.faults.count,
    }
  }

  /** After `close`, when the machine ends: gives the platform's memory back, unless the device may still reach it. */
  release(): void {
    if (this.quarantined === null) this.platform.release()
  }

  private noticeQuarantine({ quarantined, ram }: DeviceSession): void {
    if (!quarantined) return
    // Of a pool nobody knows which part the device was given.
    const bytes = ram.allocated + (this.quarantined === null ? this.platform.reservedBytes : 0)
    this.quarantined = (this.quarantined ?? 0) + bytes
    this.context.events.tell('quarantine', { device: this.name, bytes })
  }

  private refuseClosed(): never {
    throw new MachineError('MACHINE_CLOSED', this.name, 'the device is closed; reset() starts it again')
  }
}

function makeDevice(config: DeviceConfig, port: BusPort, { swiotlb }: DevicePlatform): VirtioDevice {
  if (config.make !== undefined) return config.make(port)
  const bit = swiotlb === undefined || swiotlb.bit === 'absent' ? [] : [VIRTIO_F_SWIOTLB]
  // Confined devices say so: without ACCESS_PLATFORM a driver may pass only physical addresses (virtio 1.4 §6.1).
  const confined = { accessPlatform: 'offered' as const }
  const features = {
    offer: [...(config.device.offer ?? []), ...bit],
    requires: (config.device.requires ?? FeatureSet.empty).or(
      FeatureSet.of(...(swiotlb?.bit === 'required' ? bit : [])),
    ),
  }
  return config.type === 'net'
    ? new NetDevice({ ...confined, ...config.device, ...features, name: config.name, port })
    : new BlkDevice({ ...confined, ...config.device, ...features, name: config.name, port })
}
