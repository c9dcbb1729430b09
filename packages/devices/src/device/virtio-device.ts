import { type BusPort, FaultLog, observe } from '@guestdma/memory'
import {
  FeatureSet,
  STATUS_ACKNOWLEDGE,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
  STATUS_SUSPEND,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
} from '@guestdma/spec'
import { DeviceError } from '../faults/errors.ts'
import type { DeviceFault, RequestFaultReason } from '../faults/faults.ts'
import type { RingSetup } from '../ring/device-ring.ts'
import type { ConfigSpace } from './config-space.ts'
import { DeviceQueue } from './device-queue.ts'
import { checkState, type DeviceState, type QueueState, STATUS_STOPPED } from './device-state.ts'
import { type FeatureDependency, type FeatureOptions, Negotiation } from './negotiation.ts'

const DRIVER_STATUS = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_FAILED
const DRIVER_KNOWN = STATUS_ACKNOWLEDGE | STATUS_DRIVER
const FEATURE_WORDS = 4
/**
 * What an inline doorbell lets the device do before the write returns, in chains: 1,024 requests of Linux, or 64 MiB. A
 * guest must not stop its emulator for long.
 */
const INLINE_BUDGET = 1024
/** A device that did less had no more to do. Half, since a network device spends no more on frames that come in. */
const INLINE_FULL = INLINE_BUDGET / 2
/** Words beyond those that are told apart. A driver that writes more of them is refused until it resets the device. */
const BEYOND_WORDS = 16
/** In {@link VirtioDevice.beyond}: there were too many to tell apart. */
const UNTOLD = -1
/** No port's: its answers have to be asked for. */
const NO_EPOCH = -1

/** How a device tells its transport what happened. The transport keeps the interrupt state; a device has none. */
export interface DeviceTransport {
  /** A queue wants a used buffer notification. */
  usedBuffers(queue: number): void
  /** The configuration changed, or DEVICE_NEEDS_RESET was set. */
  configurationChanged(): void
  /** A poll ends: the only moment at which interrupts may be raised. */
  settle(): void
  /** The device was reset: nothing is pending any more. */
  reset(): void
  /** May the device access memory now? `poll` does nothing while it may not. A transport without the method always may. */
  mayAccess?(): boolean
}

/** Options of every device. */
export interface DeviceOptions extends FeatureOptions {
  /** Names the device in errors and faults. */
  readonly name: string
  /** What the device can reach. Every access to memory goes through it. */
  readonly port: BusPort
  /** With IN_ORDER offered and accepted: one used element for a run of buffers (§2.7.9). Default: one for each. */
  readonly inOrderBatches?: boolean
  /** Called for each fault that the device records of its driver. It may throw: that surfaces in a microtask. */
  readonly observer?: (fault: DeviceFault) => void
  /**
   * Called when there is something for {@link VirtioDevice.poll} to do of which no poll has told: a doorbell rang, a
   * store answered, a link has frames or room. Once until the next poll begins. It may be called within a register
   * write and within a poll, this device's own included, so all it does is to note that a poll is due; take the note
   * back before you call `poll`, not after. What it throws surfaces in a microtask.
   */
  readonly onWork?: () => void
}

/** Where a queue stands: the next available entry to take, and the used index, both modulo 2^16. */
export interface QueuePosition {
  readonly next: number
  readonly used: number
}

/** What a device type brings along. */
export interface DeviceKind {
  readonly deviceId: number
  readonly features: FeatureSet
  readonly dependencies?: readonly FeatureDependency[]
  readonly config: ConfigSpace
  /** The largest size of each queue. */
  readonly queueSizes: readonly number[]
}

/**
 * A virtio device without its transport: status, feature negotiation, configuration, queues (virtio 1.4 §2, §3). A
 * register file (`MmioRegisters`) drives it; {@link poll} is the only place where it works.
 *
 * Nothing that a guest writes throws. What a driver does wrong goes to {@link faults}; a ring that cannot be trusted
 * any more sets DEVICE_NEEDS_RESET, and the device then stays away from memory until it is reset.
 */
export abstract class VirtioDevice {
  declare readonly name: string
  declare readonly port: BusPort
  declare readonly deviceId: number
  declare readonly queues: readonly DeviceQueue[]
  declare readonly config: ConfigSpace
  readonly faults: FaultLog<DeviceFault> = new FaultLog<DeviceFault>()

  // Within work(), or within what `reportWritten` tells.
  protected polling = false
  /** See {@link DeviceOptions.onWork}; whoever composes a machine may set it later. */
  declare onWork: (() => void) | null
  // Work was announced since the last poll began.
  private announced = false
  // The transport was told of a change since the last poll or reset.
  private changed = false
  declare private readonly negotiation: Negotiation
  declare private readonly inOrderBatches: boolean
  private readonly driverWords = new Uint32Array(FEATURE_WORDS)
  // Words beyond 128 bits that the driver left nonzero.
  private readonly beyond = new Set<number>()
  private accepted: FeatureSet = FeatureSet.empty
  // With SUSPEND and DRIVER_OK the device is about to suspend: it completes what it took.
  private statusBits = 0
  private alive = false
  private asleep = false
  // Changes of the configuration that wait until the device resumes.
  private readonly heldChanges = new Set<() => void>()
  declare private epoch: number
  private transport: DeviceTransport | null = null

  /** @throws DeviceError `DEVICE_OPTION`, `DEVICE_FEATURE`, `DEVICE_QUEUE_SIZE` */
  constructor(options: DeviceOptions, kind: DeviceKind) {
    if (typeof (options.port as Partial<BusPort> | undefined)?.resolve !== 'function') {
      const message = 'port must be a BusPort, which says what the device can reach: everything(memory), say'
      throw new DeviceError('DEVICE_OPTION', options.name, message)
    }
    this.name = options.name
    this.port = options.port
    this.deviceId = kind.deviceId
    this.config = kind.config
    // What a device begins with is no change.
    kind.config.generation = 0
    this.negotiation = new Negotiation(options.name, kind.features, kind.dependencies ?? [], options)
    this.inOrderBatches = options.inOrderBatches ?? false
    this.onWork = options.onWork ?? null
    this.queues = kind.queueSizes.map((size, i) => new DeviceQueue(i, size, options.port, options.name))
    this.epoch = options.port.epoch
    if (options.observer !== undefined) this.faults.observer = options.observer
  }

  /** The features that the device offers. */
  get offered(): FeatureSet {
    return this.negotiation.offered
  }

  /** The features that were agreed on at FEATURES_OK; empty before. */
  get negotiated(): FeatureSet {
    return this.accepted
  }

  /** The device status field: virtio 1.4 §2.1. */
  get status(): number {
    return this.statusBits
  }

  /** Whether the driver set the device going and nothing stopped it since. A suspended device is live. */
  get live(): boolean {
    return this.alive || this.asleep
  }

  /** Whether the driver suspended the device (virtio 1.4 §3.4): until it resumes, nothing touches a queue. */
  get suspended(): boolean {
    return this.asleep
  }

  /** For the transport that stands before the device. One device has one transport. */
  attachTransport(transport: DeviceTransport): void {
    if (this.transport !== null) {
      throw new DeviceError('DEVICE_OPTION', this.name, 'already has a transport; make one device per register file')
    }
    this.transport = transport
  }

  /** Sets 32 of the driver's feature bits. Ignored once FEATURES_OK is set. */
  writeDriverFeatures(index: number, value: number): boolean {
    if ((this.statusBits & STATUS_FEATURES_OK) !== 0) return false
    if (index < FEATURE_WORDS) this.driverWords[index] = value
    else if (value === 0) this.beyond.delete(index)
    else this.beyond.add(this.beyond.size < BEYOND_WORDS ? index : UNTOLD)
    return true
  }

  /**
   * A write to the device status field: virtio 1.4 §2.1, §3.1, §3.4. Returns false if a part of it was not for a driver
   * to write.
   */
  writeStatus(value: number): boolean {
    if (value === 0) {
      this.reset()
      return true
    }
    const before = this.statusBits
    // A driver never clears a bit (§2.1.1), and NEEDS_RESET is the device's.
    const may = DRIVER_STATUS | (this.maySuspend ? STATUS_SUSPEND : 0)
    let proper = (before & ~value & DRIVER_STATUS) === 0 && (value & ~(may | before)) === 0
    let set = value & may & ~before
    // §3.1.1: features are agreed on with a driver that said that it is one.
    if ((set & STATUS_FEATURES_OK) !== 0 && ((before | set) & DRIVER_KNOWN) !== DRIVER_KNOWN) {
      proper = false
      set &= ~STATUS_FEATURES_OK
    }
    this.statusBits |= set & ~(STATUS_FEATURES_OK | STATUS_DRIVER_OK)
    if ((set & STATUS_FEATURES_OK) !== 0) this.negotiate()
    if ((set & STATUS_DRIVER_OK) !== 0) {
      if ((this.statusBits & STATUS_FEATURES_OK) === 0) proper = false
      else this.goLive()
    }
    if ((this.statusBits & STATUS_FAILED) !== 0) this.halt()
    // A poll suspends the device.
    else if ((set & STATUS_SUSPEND) !== 0) this.wake()
    return proper
  }

  /** Resets the device: virtio 1.4 §2.4. Nothing that was in flight touches memory afterwards. */
  reset(): void {
    this.statusBits = 0
    this.halt()
    this.accepted = FeatureSet.empty
    this.driverWords.fill(0)
    this.beyond.clear()
    this.changed = false
    for (const queue of this.queues) queue.reset()
    this.onReset()
    this.transport?.reset()
  }

  /**
   * For the platform: a reset of the machine, which takes back what outlasts a reset by the driver. A transport is reset
   * with its device: see `MmioRegisters.reset`, `PciFunction.reset`.
   */
  systemReset(): void {
    this.reset()
  }

  /**
   * Makes a queue ready, once its registers are set. Returns false before FEATURES_OK and while the queue is being reset,
   * when it is ignored, and where the port's answer for the ring is pending: then enable it again once that is there. A
   * bad ring sets NEEDS_RESET.
   *
   * `start` says where the ring stands, for a device that takes a queue over from another server of it: `next`, the next
   * available entry to take, is 0 where it is left out, and `used`, the used index, is then read from the ring. So
   * give `next` at least where another server used the queue. Throws `DEVICE_OPTION` unless both are integers from 0 to
   * 65535.
   */
  enableQueue(queue: DeviceQueue, start?: Partial<QueuePosition>): boolean {
    if (start !== undefined) this.checkPosition(queue, start)
    if ((this.statusBits & STATUS_FEATURES_OK) === 0 || this.resetting(queue)) return false
    if (queue.ready) return true
    queue.ready = true
    queue.resetAsked = false
    this.port.refresh()
    if (!this.startQueue(queue)) {
      queue.disable()
      return false
    }
    if (start !== undefined && queue.walker.broken === null) {
      const { next = 0, used = queue.walker.storedUsed } = start
      queue.walker.restore({ next, used, published: used })
    }
    if (queue.marked) this.wake()
    return true
  }

  /**
   * Stops a queue without loss, so that another server may go on with it: nothing new is taken from it, and once nothing
   * that was taken is in flight it is published and disabled, and the return value says where it stands. `null`: requests
   * are in flight; poll, which completes them, and call again. Null also within a poll, and where the queue does not work
   * because it is broken or the device is not {@link live} or may not access memory now: then it goes on as it was.
   */
  stopQueue(queue: DeviceQueue): QueuePosition | null {
    const { walker } = queue
    if (this.polling || !this.alive || !this.mayAccess) return null
    // A ring that is out of reach by now is a fault, and stops the device. What is published already needs no ring.
    const reached = this.checkPort()
    if (!this.alive || !queue.started || walker.broken !== null) return null
    this.onSave()
    walker.pause()
    if (this.inFlightOf(queue) > 0 || (!reached && walker.unpublished > 0)) return null
    this.publish(queue)
    const { next, used } = walker.save()
    this.disableQueue(queue)
    // An interrupt may have to be raised.
    this.wake()
    return { next, used }
  }

  /**
   * Stops a queue at once: from here on its memory is not accessed, and what is in flight is dropped, although its driver
   * waits for it. {@link stopQueue} loses nothing.
   */
  disableQueue(queue: DeviceQueue): void {
    queue.disable()
    this.onQueueReset(queue)
  }

  /**
   * Resets one queue (virtio 1.4 §2.6.1): from here on its memory is not accessed. {@link resetting} says when it is
   * complete. Returns false where RING_RESET was not negotiated.
   */
  resetQueue(queue: DeviceQueue): boolean {
    if (!this.accepted.has(VIRTIO_F_RING_RESET)) return false
    queue.reset()
    this.onQueueReset(queue)
    queue.resetAsked = true
    return true
  }

  /**
   * For the transport: whether a reset of the queue is still under way. It is complete once no request from the queue is
   * executed any more (§2.6.1), be it by what stands behind the device.
   */
  resetting(queue: DeviceQueue): boolean {
    return queue.resetAsked && this.executing(queue)
  }

  /**
   * An available buffer notification: marks the queue for the next poll. `inline` polls before it returns, with a budget
   * of 1,024; work that is left over then, and a doorbell from within a poll of this device, wait for a poll all the same. Returns false before
   * DRIVER_OK.
   */
  notify(queue: DeviceQueue, inline = false): boolean {
    if (!this.alive) return (this.statusBits & STATUS_DRIVER_OK) !== 0
    queue.marked = true
    if (!inline || this.polling || this.poll(INLINE_BUDGET) >= INLINE_FULL) this.wake()
    return true
  }

  /** For the transport, a link or a store: there is something for {@link poll} to do, and `onWork` is told of it. */
  wake(): void {
    if (this.announced) return
    this.announced = true
    if (this.onWork !== null) observe(this.onWork, undefined)
  }

  /**
   * For the transport, once its own state was restored over what `restore` told it: tells it again that the
   * configuration changed meanwhile, if it did, and that the device is due.
   */
  transportRestored(): void {
    if (this.changed) this.transport?.configurationChanged()
    this.wake()
  }

  /**
   * A driver's write to a field of the configuration space that it may write, after FEATURES_OK. Returns false where it
   * has no effect.
   */
  writeConfig(_offset: number, _width: 1 | 2 | 4, _value: number): boolean {
    return false
  }

  /** Whether the driver may write to its configuration space now. */
  get configWritable(): boolean {
    return (this.statusBits & STATUS_FEATURES_OK) !== 0 && !this.asleep
  }

  /**
   * Does the device's work, and nothing else does: takes up to about `budget` chains, completes what came back,
   * publishes once per queue, raises interrupts last. Returns how many chains or frames it moved. After 0 the caller may
   * sleep: there is nothing to do, and `onWork` is called when that changes. `poll(0)` completes and publishes but takes
   * nothing new.
   *
   * A budget is of work: a chain of more than 64 descriptors and pieces, or of 64 KiB (`CHAIN_STEPS`, `CHAIN_BYTES`),
   * counts as several, in the budget and in what is returned, and so does a copy of a large ring in pieces. So one call costs `budget` chains of that size, and at
   * most one larger chain for each queue; what is left over waits for the next call. Besides, it completes what stores
   * answered, 64 chains or `budget` if that is more.
   */
  poll(budget: number): number {
    if (this.polling) return 0
    this.announced = this.changed = false
    let done = 0
    let rested = false
    if (this.alive && this.mayAccess) {
      this.polling = true
      try {
        if (this.checkPort()) {
          done = this.work(this.suspending ? 0 : budget)
          rested = this.suspending && this.rests()
        }
      } catch (error) {
        // A port or a device type of somebody else's: where it stood is not known, so only a reset helps.
        this.hostThrew('poll', error)
        this.needsReset('its poll threw')
      } finally {
        this.polling = false
      }
    }
    this.transport?.settle()
    // Shown once the notifications are out (§3.4.2).
    if (rested && this.alive && this.suspending) this.suspend()
    return done
  }

  /**
   * For a platform or a device type: an error that only a reset cures (virtio 1.4 §2.1.2). Stops all work and notifies
   * the driver.
   */
  needsReset(reason: string): void {
    this.faults.record({ kind: 'needs-reset', device: this.name, reason })
    this.stopForReset()
  }

  /**
   * The device as plain data. Throws `DEVICE_BUSY` while requests are in flight: poll(0) until {@link inFlight} is 0,
   * then save. Where the device failed or is in need of a reset, that is once what stands behind it has answered. A change
   * of the configuration that waits for a suspended device to resume is not in the state.
   */
  save(): DeviceState {
    if (this.inFlight > 0 || this.polling) {
      const message = `${this.inFlight} requests are in flight; call poll(0) until they are completed, then save`
      throw new DeviceError('DEVICE_BUSY', this.name, message, { inFlight: this.inFlight })
    }
    this.onSave()
    return {
      format: 'guestdma-device-1',
      deviceId: this.deviceId,
      status: this.statusBits,
      driverFeatures: [...this.driverWords],
      config: [...this.config.bytes],
      generation: this.config.generation,
      queues: this.queues.map((queue): QueueState => {
        const { size, ready, marked, areas, walker } = queue
        return { size, ready, marked, areas: [...areas], ...walker.save() }
      }),
    }
  }

  /**
   * Puts a device that was made with the same options where another one was saved. The caller restores guest memory
   * first, and the port's windows where they moved (`PciFunction.restoreConfig`). What this device was doing before is dropped as by a reset. It is
   * due for a poll afterwards. Throws `DEVICE_STATE` where the state is not whole or does not fit, and then changes
   * nothing.
   */
  restore(state: DeviceState): void {
    checkState(state, this, (features) => this.negotiation.judge(features) === null)
    this.checkRestore()
    this.reset()
    this.driverWords.set(state.driverFeatures)
    this.statusBits = state.status
    this.asleep = (state.status & (STATUS_SUSPEND | STATUS_DRIVER_OK | STATUS_STOPPED)) === STATUS_SUSPEND
    if ((state.status & STATUS_FEATURES_OK) !== 0) this.accepted = FeatureSet.fromWords(state.driverFeatures)
    this.onNegotiated()
    this.config.bytes.set(state.config)
    this.config.generation = state.generation
    this.port.refresh()
    state.queues.forEach((saved, i) => {
      const queue = this.queues[i]
      queue.size = saved.size
      queue.areas.set(saved.areas)
      queue.ready = saved.ready
      if (saved.ready && (state.status & STATUS_STOPPED) === 0) {
        this.startQueue(queue)
        queue.walker.restore(saved)
      }
      queue.marked = saved.marked
    })
    this.alive = this.runs()
    this.onRestored()
    this.wake()
  }

  /**
   * Requests that the device took and has not completed, and those from before a reset or a stop that it has to wait for
   * all the same.
   */
  get inFlight(): number {
    return 0
  }

  /** Whether requests that were taken from a queue before it was reset or stopped are still executed. */
  protected executing(_queue: DeviceQueue): boolean {
    return false
  }

  /** Requests that were taken from a queue and have not completed. */
  protected inFlightOf(_queue: DeviceQueue): number {
    return 0
  }

  /** Has all that was taken from the queues been used? Asked before the device suspends (§3.4.2). */
  protected rests(): boolean {
    return this.queues.every((queue) => this.inFlightOf(queue) === 0)
  }

  /**
   * Does the work of a poll; the port is fresh. Only called while live; the budget is 0 where the driver asked the device
   * to suspend.
   */
  protected abstract work(budget: number): number

  /** Does the transport let the device access memory now? */
  protected get mayAccess(): boolean {
    return this.transport?.mayAccess?.() !== false
  }

  /** Called when features were agreed on (and on restore). */
  protected onNegotiated(): void {}

  /** Called when the device was live and is not any more: reset, failed, or in need of a reset. */
  protected onHalt(): void {}

  /** Called on reset: forget or disown whatever was in flight. */
  protected onReset(): void {}

  /** Called before the queues are saved: what was taken from them and not begun is given back. */
  protected onSave(): void {}

  /** Called before `restore` changes anything: throws where what stands behind the device does not fit. */
  protected checkRestore(): void {}

  /** Called after `restore` set status, configuration and queues. */
  protected onRestored(): void {}

  /** Called when one queue was stopped or reset. */
  protected onQueueReset(_queue: DeviceQueue): void {}

  /**
   * The head of a batch, and after foreign code ran: fresh views, and rings resolved anew if the port's answers may
   * have changed. False: the answer for a ring is pending, and nothing may be done with any queue.
   */
  protected checkPort(): boolean {
    this.port.refresh()
    const epoch = this.port.epoch
    if (epoch === this.epoch) return true
    let known = true
    for (const queue of this.queues) {
      if (!queue.started) continue
      if (!queue.walker.attach(queue.ring as RingSetup) && this.checkQueue(queue)) known = false
    }
    if (known) this.epoch = epoch
    return known
  }

  /** Publishes a queue's used chains and passes the notification on, unless who listens to the ring reset the queue. */
  protected publish(queue: DeviceQueue): void {
    const { generation } = queue
    if (queue.walker.flush() && queue.generation === generation) this.transport?.usedBuffers(queue.index)
  }

  /**
   * As {@link publish}, for a queue of which nothing is left to take: asks for a doorbell at the next chain as well, with
   * one barrier for both. Returns whether chains came meanwhile.
   */
  protected publishAndRearm(queue: DeviceQueue): boolean {
    const { generation, walker } = queue
    if (walker.flushAndRearm() && queue.generation === generation) this.transport?.usedBuffers(queue.index)
    if (queue.generation !== generation || !walker.more) return false
    // Who listens may have moved the ring.
    if (this.checkPort() && this.live && walker.update() > 0) return true
    // What is not there yet, or not any more, is looked for in a poll of its own.
    queue.marked = true
    this.wake()
    return false
  }

  /**
   * Tells who listens what was written to a row. The last that is done for it: the queue may have been reset when this
   * returns.
   */
  protected reportWritten(queue: DeviceQueue, row: number, skip: number, length: number): void {
    const { polling } = this
    this.polling = true
    queue.walker.chains.report(row, skip, length)
    this.polling = polling
    this.checkPort()
  }

  /** Looks whether the walker broke, and if so sets NEEDS_RESET. Returns whether the queue is sound. */
  protected checkQueue(queue: DeviceQueue): boolean {
    const { walker } = queue
    if (walker.broken === null) return true
    if (!queue.started) return false
    // What was executed before stays executed, so the driver is told.
    this.publish(queue)
    queue.started = false
    this.faults.record({
      kind: 'queue',
      device: this.name,
      queue: queue.index,
      reason: walker.broken,
      head: walker.brokenHead,
      value: walker.brokenValue,
      limit: walker.brokenLimit,
    })
    this.stopForReset()
    return false
  }

  /** Records a request that is not one. */
  protected badRequest(queue: DeviceQueue, reason: RequestFaultReason, head: number, value: number): void {
    this.faults.record({ kind: 'request', device: this.name, queue: queue.index, reason, head, value })
  }

  /**
   * For the transport and the device type: records that what is plugged into the device (a link, a store, an interrupt
   * sink) threw. The error surfaces in a microtask; the device and everybody else go on.
   */
  hostThrew(reason: string, error: unknown): void {
    this.faults.record({ kind: 'host', device: this.name, reason, message: inWords(error) })
    observe(rethrow, error)
  }

  /**
   * Changes the configuration and tells the driver. A change by the driver itself needs only `config.write`. While the
   * device is suspended the change waits, once for each function, until it resumes or is reset (§3.4.2).
   */
  protected changeConfig(change: () => void): void {
    if (this.asleep) {
      this.heldChanges.add(change)
      return
    }
    change()
    this.configurationChanged()
  }

  // The interrupt is raised by a poll, so one is due.
  private configurationChanged(): void {
    if ((this.statusBits & STATUS_DRIVER_OK) === 0) return
    this.changed = true
    this.transport?.configurationChanged()
    this.wake()
  }

  private halt(): void {
    if (!this.alive && !this.asleep) return
    this.alive = false
    this.awake()
    this.onHalt()
  }

  private get maySuspend(): boolean {
    return this.alive && this.accepted.has(VIRTIO_F_SUSPEND)
  }

  /** Whether the driver asked the device to suspend: it takes nothing new, and has not suspended yet or has not resumed. */
  protected get suspending(): boolean {
    return (this.statusBits & STATUS_SUSPEND) !== 0
  }

  private suspend(): void {
    this.alive = false
    this.asleep = true
    this.statusBits &= ~STATUS_DRIVER_OK
  }

  private awake(): void {
    this.asleep = false
    for (const change of this.heldChanges) this.changeConfig(change)
    this.heldChanges.clear()
  }

  private checkPosition(queue: DeviceQueue, { next = 0, used = 0 }: Partial<QueuePosition>): void {
    for (const value of [next, used]) {
      if (Number.isInteger(value) && value >= 0 && value <= 0xffff) continue
      const message = `a position of next ${next}, used ${used} must be two integers from 0 to 65535`
      throw new DeviceError('DEVICE_OPTION', `${this.name} queue ${queue.index}`, message, { next, used })
    }
  }

  private negotiate(): void {
    const accepted = FeatureSet.fromWords(this.driverWords)
    const fault =
      this.beyond.size > 0
        ? ({ kind: 'features', device: this.name, reason: 'not-offered', bits: [] } as const)
        : this.negotiation.judge(accepted)
    if (fault !== null) {
      this.faults.record(fault)
      return
    }
    this.accepted = accepted
    this.statusBits |= STATUS_FEATURES_OK
    this.onNegotiated()
  }

  // For the first time, or after the device was suspended.
  private goLive(): void {
    this.statusBits = (this.statusBits & ~STATUS_SUSPEND) | STATUS_DRIVER_OK
    this.alive = this.runs()
    this.awake()
    // The driver may have filled queues before it was allowed to notify (§3.1.1, steps 7 and 8).
    for (const queue of this.queues) queue.marked = queue.ready
    this.wake()
    // It was too early to say so when it happened.
    if ((this.statusBits & STATUS_DEVICE_NEEDS_RESET) !== 0) this.configurationChanged()
  }

  private runs(): boolean {
    return (this.statusBits & (STATUS_DRIVER_OK | STATUS_STOPPED)) === STATUS_DRIVER_OK
  }

  // False: the port's answer for the ring is pending, and the next poll asks again.
  private startQueue(queue: DeviceQueue): boolean {
    queue.started = true
    queue.marked = this.alive
    queue.ring = queue.setup(this.ringFeatures())
    if (queue.walker.start(queue.ring, queue.maxSize) || !this.checkQueue(queue)) return true
    this.epoch = NO_EPOCH
    return false
  }

  private stopForReset(): void {
    this.halt()
    if ((this.statusBits & STATUS_DEVICE_NEEDS_RESET) !== 0) return
    this.statusBits |= STATUS_DEVICE_NEEDS_RESET
    this.configurationChanged()
  }

  private ringFeatures(): Omit<RingSetup, 'size' | 'areas'> {
    return {
      packed: this.accepted.has(VIRTIO_F_RING_PACKED),
      indirect: this.accepted.has(VIRTIO_F_INDIRECT_DESC),
      eventIndex: this.accepted.has(VIRTIO_F_EVENT_IDX),
      inOrder: this.accepted.has(VIRTIO_F_IN_ORDER),
      batchUsed: this.inOrderBatches,
    }
  }
}

function rethrow(error: unknown): void {
  throw error
}

function inWords(error: unknown): string {
  try {
    return String(error)
  } catch {
    return 'an error that has no words'
  }
}
