import { GuestDmaError, observe } from '@guestdma/memory'
import { INTERRUPT_CONFIGURATION } from '@guestdma/spec'
import type { Virtqueue } from '@guestdma/virtqueue'
import { DeviceBrokenError, DriverError } from './errors.ts'
import type { DeviceSession } from './session.ts'

/** What every driver may be told about its waiting. */
export interface WaitingOptions {
  /** Ask for interrupts. Default true. A driver without them is polled by the clock: nothing tells of completions. */
  readonly interrupts?: boolean
  /**
   * Called when there is something for {@link VirtioDriver.poll} to do of which no poll has told: an interrupt arrived,
   * a deadline may have passed. Once until the next poll begins. It may be called within an interrupt and within a
   * poll, so all it does is to note that a poll is due. What it throws surfaces in a microtask.
   */
  readonly onWork?: () => void
  /**
   * The longest time in milliseconds that the device may take: for a block request, from when it was handed over; for
   * frames that are sent, since the last one that the device completed. After that the device counts as broken. A block
   * request that cannot be handed over for so long, since the backend has no room and nothing is in flight, fails with
   * `BLK_TIMEOUT`. Default: no limit.
   */
  readonly requestDeadlineMs?: number
}

/** A device that says nothing is looked at after so many polls that found nothing to do. */
const IDLE_POLLS = 64

/**
 * What the drivers have in common: how they wait. A driver works in {@link poll} and nowhere else, and says there in one
 * way that nothing is left: after 0 its owner may sleep until `onWork` is called. Interrupts are asked for before 0 is
 * returned, and completions that arrived meanwhile are taken first (virtio 1.4 §2.7.14).
 *
 * A device that broke the rules, asks for a reset, was reset by somebody else, does not answer in time or is out of
 * reach ends it: {@link broken} says why, and only a reset of the device helps. Without interrupts the status is looked
 * at as well, once in 64 polls without work.
 */
export abstract class VirtioDriver {
  declare readonly name: string
  declare readonly session: DeviceSession
  /** What the driver did so far, by name. */
  abstract readonly counters: object
  broken: DeviceBrokenError | null = null
  /** See {@link WaitingOptions.onWork}. */
  declare onWork: (() => void) | null

  declare protected readonly interrupts: boolean
  declare protected readonly requestDeadlineMs: number
  /** Whether there is a deadline: asked on the data path. */
  declare protected readonly timed: boolean
  private interrupted = false
  private announced = false
  protected polling = false
  /**
   * A queue is being reset, or the device is suspended or on its way there or back: nothing is asked of the device, and
   * nothing is taken from it.
   */
  protected paused = false
  private changing = false
  // Since when the driver's clock stands, since the device is suspended; and how long it stood before.
  private stoppedAt: number | null = null
  private stoppedFor = 0
  private idlePolls = 0
  private timer: ReturnType<typeof setTimeout> | null = null
  // With a deadline: the clock as it was last, and how long it has not moved, in polls.
  private latest = Number.NEGATIVE_INFINITY
  private still = 0

  /**
   * `deviceId`: the type of device that the driver is for (virtio 1.4 §5).
   *
   * @throws DriverError `DRIVER_OPTION`, `DRIVER_DEVICE_TYPE`
   */
  constructor(
    session: DeviceSession,
    deviceId: number,
    { interrupts = true, onWork, requestDeadlineMs = Infinity }: WaitingOptions,
  ) {
    this.name = session.name
    this.session = session
    this.interrupts = interrupts
    this.onWork = onWork ?? null
    this.requestDeadlineMs = requestDeadlineMs
    this.timed = requestDeadlineMs !== Infinity
    const { deviceId: found } = session.transport
    if (found !== deviceId) {
      const message = `the device has type ${found}, and this driver is for type ${deviceId} (virtio 1.4 §5)`
      throw new DriverError('DRIVER_DEVICE_TYPE', session.name, message, { found, deviceId })
    }
    if (!(requestDeadlineMs > 0)) {
      const message = `requestDeadlineMs is ${requestDeadlineMs}; it must be a positive number of milliseconds`
      throw new DriverError('DRIVER_OPTION', session.name, message, { requestDeadlineMs })
    }
    session.onFailure = () => this.wake()
  }

  /** Told by the machine that the device interrupts. Only sets a word; `poll` does the work. */
  interrupt(): void {
    this.interrupted = true
    this.wake()
  }

  /** There is something for `poll` to do, and `onWork` is told of it. */
  wake(): void {
    if (this.announced) return
    this.announced = true
    if (this.onWork !== null) observe(this.onWork, undefined)
  }

  /**
   * Does the driver's work, at most `budget` completions (1 or more) of each queue, and nothing else does. Returns how much
   * there was. After 0 the caller may sleep: there is nothing to do, and `onWork` is called when that changes. Drivers
   * that share a pool are polled together, since what one gives back may be what another waits for.
   */
  poll(budget: number): number {
    // A listener that polls in turn would pull what it is being shown from under itself.
    if (this.polling || this.paused || this.broken !== null || this.session.closed) return 0
    this.polling = true
    this.announced = false
    try {
      return this.turn(budget)
    } catch (error) {
      // A device that cannot be reached any more, or whose configuration never settles, must not stop whoever polls.
      this.break((error as Error).message, error instanceof GuestDmaError ? error.details : {}, { cause: error })
      return 0
    } finally {
      this.polling = false
    }
  }

  /**
   * Suspends the device (virtio 1.4 §3.4): it completes what it has begun, and rests until {@link resume}. What it has not
   * begun stays with it, and what completes is told after `resume`. Meanwhile nothing is sent, requests wait, and no
   * deadline passes. The device may be closed.
   *
   * @throws what `DeviceSession.suspend` throws, and DriverError `DRIVER_SUSPENDED`; the device is broken then, unless it
   *   cannot be suspended or is already
   */
  suspend(): Promise<void> {
    return this.change(false, async () => {
      this.unwatch()
      this.stoppedAt = this.clock()
      await this.session.suspend()
    })
  }

  /**
   * Resumes the device after {@link suspend}, and goes on with everything.
   *
   * @throws what `DeviceSession.resume` throws, and DriverError `DRIVER_SUSPENDED` where it is not suspended
   */
  resume(): Promise<void> {
    return this.change(true, () => this.session.resume())
  }

  /** Resets the device and gives all memory back. What is in flight is dropped, or fails with `DRIVER_CLOSED`. */
  close(): Promise<void> {
    this.unwatch()
    return this.session.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Takes what completed and goes on with what waits. Returns how much that was. */
  protected abstract work(budget: number): number
  /** Asks for an interrupt at the next completion. True: there are completions already. */
  protected abstract arm(): boolean
  /** The device's configuration changed. May throw: then the device is broken. */
  protected abstract configurationChanged(): void
  /** The device is broken: fails what is in flight and tells the user. */
  protected abstract onBroken(error: DeviceBrokenError): void
  /** When the oldest thing began that the device has not answered, by {@link now}; Infinity where there is none. */
  protected abstract unansweredSince(): number
  /** The oldest unanswered thing is late. Returns why the device counts as broken; null: it was ended otherwise. */
  protected overdue(): string | null {
    return `the device did not answer within ${this.requestDeadlineMs} ms`
  }

  /** The driver's clock, in milliseconds. It stands while the device is suspended. */
  protected now(): number {
    return (this.stoppedAt ?? this.clock()) - this.stoppedFor
  }

  private clock(): number {
    const now = this.session.wait.now?.() ?? performance.now()
    // A clock that gives no number is one that stands still.
    return Number.isNaN(now) ? 0 : now
  }

  /**
   * Resets one queue alone. `drop` is called when it is as it was made: whatever was in flight there is the driver's
   * again. A device that does not confirm it is broken.
   */
  protected restart(queue: Virtqueue, drop: () => void): Promise<void> {
    return this.change(false, async () => {
      await this.session.resetQueue(queue)
      drop()
      queue.disarm()
    })
  }

  // One such change at a time. One that fails after it was begun breaks the device.
  private async change(suspended: boolean, work: () => Promise<void>): Promise<void> {
    const { name, session } = this
    if (this.broken !== null) throw this.broken
    if (session.closed) throw new DriverError('DRIVER_CLOSED', name, 'the device was closed')
    if (this.changing) {
      const message = 'a queue is being reset, or the device suspended or resumed; wait until that is done'
      throw new DriverError('DRIVER_CLOSED', name, message)
    }
    if (session.suspended !== suspended) {
      const message = suspended ? 'the device is not suspended' : 'the device is suspended; resume it first'
      throw new DriverError('DRIVER_SUSPENDED', name, message)
    }
    this.changing = this.paused = true
    try {
      await work()
    } catch (error) {
      const { code, details, message } = error as GuestDmaError
      if (!NOT_AGREED.has(code) && !session.closed) this.break(message, details, { cause: error })
      throw error
    } finally {
      this.changing = false
      if (!session.suspended) this.goOn()
    }
  }

  private goOn(): void {
    if (this.stoppedAt !== null) this.stoppedFor += this.clock() - this.stoppedAt
    this.stoppedAt = null
    this.paused = false
    // A poll that came meanwhile did nothing.
    this.announced = false
    this.wake()
  }

  /** Something was asked of the device: where there is a deadline, somebody has to look at it. */
  protected watch(): void {
    if (!this.timed || this.timer !== null || this.onWork === null || this.stoppedAt !== null) return
    this.watchFor(this.requestDeadlineMs)
  }

  /** The device cannot be used any more. */
  protected break(why: string, details: Readonly<Record<string, unknown>> = {}, options?: ErrorOptions): void {
    if (this.broken !== null) return
    const error = new DeviceBrokenError(this.name, why, details, options)
    this.broken = error
    this.unwatch()
    this.onBroken(error)
  }

  private turn(budget: number): number {
    const { session } = this
    for (;;) {
      if (this.interrupted) {
        this.interrupted = false
        if ((session.transport.takeInterrupts() & INTERRUPT_CONFIGURATION) !== 0) this.follow()
        if (this.broken !== null) return 0
      }
      const done = this.work(budget)
      if (session.closed || this.isBroken()) return done
      if (this.timed && this.isLate()) return done
      if (done > 0) {
        this.idlePolls = 0
        return done
      }
      // An interrupt that arrived meanwhile has called `onWork`, and is for the next poll.
      if (!this.interrupts || !this.arm()) return this.idle()
    }
  }

  private idle(): number {
    if (++this.idlePolls >= IDLE_POLLS) {
      this.idlePolls = 0
      const why = this.session.whyUnusable()
      if (why !== null) this.break(why)
    }
    return 0
  }

  private follow(): void {
    const why = this.session.whyUnusable()
    if (why === null) this.configurationChanged()
    else this.break(why)
  }

  private isBroken(): boolean {
    const { queues, failure } = this.session
    if (failure !== null) this.break(failure.message, {}, { cause: failure })
    for (let i = 0; i < queues.length; i++) {
      const cause = queues[i].broken
      if (cause !== null) this.break(cause.message, cause.details, { cause })
    }
    return this.broken !== null
  }

  private isLate(): boolean {
    const now = this.now()
    if (now > this.latest) this.still = 0
    else this.still++
    this.latest = now
    const stopped = this.still >= STILL_POLLS
    let left = this.unansweredSince() + this.requestDeadlineMs - now
    for (; left <= 0 || (stopped && left !== Infinity); left = this.unansweredSince() + this.requestDeadlineMs - now) {
      // That the device was reset, or asks for it, says more than that it is late.
      const why = this.session.whyUnusable() ?? this.overdue()
      if (why === null) continue
      this.break(why, { requestDeadlineMs: this.requestDeadlineMs })
      return true
    }
    if (left !== Infinity && this.timer === null && this.onWork !== null) this.watchFor(left)
    return false
  }

  private watchFor(milliseconds: number): void {
    const begun = this.now()
    // A timer that is a little early would find nothing, and one that is later than the longest possible fires at once.
    this.timer = setTimeout(
      () => {
        this.timer = null
        // A timer that ran out while the clock stood still says by itself that the time is over.
        if (!(this.now() > begun)) this.still = STILL_POLLS
        this.wake()
      },
      Math.min(Math.ceil(milliseconds), LONGEST_TIMER_MS),
    )
  }

  private unwatch(): void {
    if (this.timer !== null) clearTimeout(this.timer)
    this.timer = null
  }
}

/** What was refused before anything was done. */
const NOT_AGREED: ReadonlySet<string> = new Set(['DRIVER_NO_RING_RESET', 'DRIVER_NO_SUSPEND'])
const LONGEST_TIMER_MS = 0x7fff_ffff
/** A deadline passes as well where the clock does not move for so many polls. */
const STILL_POLLS = 2 ** 22
