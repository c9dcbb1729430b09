import type { DmaBackend } from '@guestdma/dma'
import { attempt, GuestDmaError, type GuestMemory, type SpanAllocator } from '@guestdma/memory'
import {
  type FeatureSet,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER_OK,
  STATUS_SUSPEND,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
} from '@guestdma/spec'
import {
  addStatus,
  DeviceStuckError,
  deadlineMsOf,
  giveUp,
  resetDevice,
  resetQueue,
  turnsUntil,
  type VirtioTransport,
  type Wait,
  waitUntil,
} from '@guestdma/transport'
import { DriverQueue, type Virtqueue, type VirtqueueOptions } from '@guestdma/virtqueue'
import { DeviceBrokenError, DriverError, type WarningObserver, warn } from './errors.ts'

/** The device-independent features that every driver here understands. */
export const QUEUE_FEATURES: readonly number[] = [
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
]

/** Its `warning` is called by {@link DeviceSession.close}, with `DRIVER_CUT_OFF`. */
export interface SessionOptions extends WarningObserver {
  readonly transport: VirtioTransport
  /** What `negotiate` agreed on. */
  readonly features: FeatureSet
  /** What `negotiate` created. The session disposes of it. */
  readonly backend: DmaBackend
  readonly memory: GuestMemory
  /** Guest RAM for the driver's own buffers. */
  readonly ram: SpanAllocator
  readonly wait: Wait
  /** Cuts the device off from memory where the platform can. Returns whether it did. */
  detach?(): boolean
}

/** Which of the two is set says whether a device runs or is suspended. */
const RUNNING = STATUS_DRIVER_OK | STATUS_SUSPEND
/** What a bus returns where no device answers any more. */
const ALL_ONES = 0xff

/** What a driver asks for when it opens a queue. */
export type QueueRequest = Pick<VirtqueueOptions, 'longestChain' | 'standing' | 'indirect'> & {
  readonly index: number
  readonly label: string
  /** Entries wanted; the device may allow fewer. */
  readonly size: number
}

/**
 * One device from FEATURES_OK to reset: its agreed features, its backend, its queues and its buffers. A driver is built
 * on one session; to change anything that was agreed, close it and negotiate again.
 */
export class DeviceSession {
  readonly name: string
  readonly transport: VirtioTransport
  readonly features: FeatureSet
  readonly backend: DmaBackend
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  readonly wait: Wait

  /** The queues that were opened, in the order of opening. */
  readonly queues: Virtqueue[] = []
  /** What a doorbell threw: the device is out of reach. */
  failure: Error | null = null
  /** For the driver: called once, when {@link failure} is set. */
  onFailure: (() => void) | null = null

  /** Between {@link suspend} and {@link resume}. */
  suspended = false
  /**
   * After {@link close}: memory stays out of use, since the device may still reach it. False again once the backend has
   * learned that it cannot (`DmaBackend.whenGone`), and then the memory has gone back.
   */
  quarantined = false

  private readonly detach: (() => boolean) | undefined
  private readonly observer: WarningObserver
  private readonly releases: (() => void)[] = []
  private closing: Promise<void> | null = null
  private released = false

  /** @throws TransportError `TRANSPORT_WAIT`: a deadline by which {@link close} could not wait */
  constructor(options: SessionOptions) {
    deadlineMsOf(options.transport.name, options.wait)
    this.name = options.transport.name
    this.transport = options.transport
    this.features = options.features
    this.backend = options.backend
    this.memory = options.memory
    this.ram = options.ram
    this.wait = options.wait
    this.detach = options.detach?.bind(options)
    this.observer = options
  }

  /** True from the first call of {@link close} on. */
  get closed(): boolean {
    return this.closing !== null
  }

  /**
   * Makes a queue and tells the device of it: of the size that is asked, or of the largest that the device allows. A
   * split queue has a power of two.
   *
   * @throws DriverError `DRIVER_NO_QUEUE`; QueueTooSmallError; DmaError `DMA_ALLOC`; TransportError
   */
  openQueue({ index, label, size, ...rest }: QueueRequest): Virtqueue {
    const name = `${this.name} ${label}`
    const max = this.transport.maxQueueSize(index)
    if (max < 1) throw new DriverError('DRIVER_NO_QUEUE', name, `the device has no queue ${index}`, { index })
    const most = Math.min(size, max)
    const queue = new DriverQueue({
      ...rest,
      name,
      index,
      size: this.features.has(VIRTIO_F_RING_PACKED) ? most : 2 ** Math.floor(Math.log2(most)),
      backend: this.backend,
      features: this.features,
      doorbell: (queueIndex, position) => this.ring(queueIndex, position),
    })
    this.queues.push(queue)
    this.transport.enableQueue(index, queue.size, queue.areas)
    return queue
  }

  /**
   * Resets one queue alone and enables it again (virtio 1.4 §2.6.1), of the same size and in the same memory. What was
   * in flight there is the device's no more, and no completion of it will come. While this waits, nothing may be asked of
   * the queue.
   *
   * @throws DriverError `DRIVER_NO_RING_RESET`, before anything is done, `DRIVER_CLOSED`; DeviceStuckError; VirtqueueError
   *   `VIRTQUEUE_COMMIT`; TransportError
   */
  async resetQueue(queue: Virtqueue): Promise<void> {
    if (!this.features.has(VIRTIO_F_RING_RESET)) {
      const message = 'RING_RESET was not agreed, so a queue cannot be reset alone; reset the device'
      throw new DriverError('DRIVER_NO_RING_RESET', queue.name, message, { features: this.features.bits() })
    }
    await resetQueue(this.transport, queue.index, this.wait)
    if (this.closed) throw new DriverError('DRIVER_CLOSED', queue.name, 'the device was closed meanwhile')
    queue.reset()
    this.transport.enableQueue(queue.index, queue.size, queue.areas)
  }

  /**
   * Suspends the device (virtio 1.4 §3.4): it uses what it took from its queues, and then leaves them alone. What else was
   * made available stays so. From the call of this until {@link resume} is done nothing may be asked of any queue.
   *
   * @throws DriverError `DRIVER_NO_SUSPEND`, before anything is done, `DRIVER_CLOSED`; DeviceBrokenError where the device
   *   does not suspend in time or asks for a reset; TransportError
   */
  async suspend(): Promise<void> {
    if (!this.features.has(VIRTIO_F_SUSPEND)) {
      const message = 'SUSPEND was not agreed, so the device cannot be suspended'
      throw new DriverError('DRIVER_NO_SUSPEND', this.name, message, { features: this.features.bits() })
    }
    await this.bring(STATUS_SUSPEND, 'suspend')
  }

  /**
   * Resumes a device that was suspended. Its queues go on where they stood.
   *
   * @throws DriverError `DRIVER_CLOSED`; DeviceBrokenError where the device does not resume in time, asks for a reset, or
   *   was no longer suspended; TransportError
   */
  async resume(): Promise<void> {
    this.requireUsable()
    await this.bring(STATUS_DRIVER_OK, 'resume')
  }

  /**
   * Runs `release` when the device can no longer reach the driver's buffers: at once where that is so already, and not
   * while they are {@link quarantined}. Last in, first out. What the backend allocated is gone by then.
   */
  onRelease(release: () => void): void {
    if (this.released) release()
    else this.releases.push(release)
  }

  /** Sets DRIVER_OK: the device is live (virtio 1.4 §3.1.1). */
  start(): void {
    addStatus(this.transport, STATUS_DRIVER_OK)
  }

  /**
   * Tells the device that its driver gave up (virtio 1.4 §3.1.1), where it can be reached; `close` follows and says
   * what is wrong.
   */
  giveUp(): void {
    giveUp(this.transport)
  }

  /** Why the device cannot be used any more, as its status says; `null` while it can. Only after {@link start}. */
  whyUnusable(): string | null {
    const status = this.transport.readStatus()
    if (status === ALL_ONES) return 'the device is gone: its status reads as all ones'
    if ((status & STATUS_DEVICE_NEEDS_RESET) !== 0) return 'the device set DEVICE_NEEDS_RESET'
    const { suspended } = this
    if ((status & (suspended ? RUNNING : STATUS_DRIVER_OK)) === (suspended ? STATUS_SUSPEND : STATUS_DRIVER_OK))
      return null
    if ((status & RUNNING) === 0) return `the device was reset by somebody else: its status is ${status}`
    return `the device ${suspended ? 'resumed' : 'suspended'} by itself: its status is ${status}`
  }

  /**
   * Resets the device, then takes back all memory. Where a step fails, the others are tried all the same and the first
   * error is thrown at the end. Idempotent.
   *
   * A single removal may be refused, or may have been before. That is no error where the backend then takes everything
   * away at once. Where it could do so only after the platform cut the device off, a warning says that:
   * `DRIVER_CUT_OFF`.
   *
   * Where the device may still reach something, nothing goes back: neither the backend's memory, nor the driver's
   * buffers. All of it goes back as soon as the backend learns that the device cannot. Behind an IOMMU that is when the
   * endpoint is attached again or the IOMMU is reset, as at the end of the machine. Of a device that neither confirmed
   * its reset nor was cut off it stays out of use. A buffer of the caller's that was in flight is the caller's to leave
   * alone until {@link quarantined} is false.
   *
   * @throws DeviceStuckError where the device does not answer, or its transport is lost (`cause`); where the device may
   *   still reach something, what the backend throws (`DMA_STILL_REACHABLE`), or a queue before it (`VIRTQUEUE_COMMIT`);
   *   VirtqueueError `VIRTQUEUE_BACKEND`. {@link quarantined} says whether memory had to be given up
   */
  close(): Promise<void> {
    this.closing ??= this.shutDown()
    return this.closing
  }

  // Sets SUSPEND or DRIVER_OK, and waits until the device shows that one alone (§3.4.1).
  private async bring(bit: number, what: string): Promise<void> {
    const deadline = turnsUntil(this.name, this.wait)
    addStatus(this.transport, bit)
    const answered = (): boolean => {
      const status = this.transport.readStatus()
      return (status & RUNNING) === bit || (status & STATUS_DEVICE_NEEDS_RESET) !== 0
    }
    const inTime = await waitUntil(answered, this.wait, deadline)
    if (this.closed) throw new DriverError('DRIVER_CLOSED', this.name, 'the device was closed meanwhile')
    if (!inTime) throw new DeviceBrokenError(this.name, `the device did not ${what} within ${deadline.ms} ms`)
    this.suspended = bit === STATUS_SUSPEND
    this.requireUsable()
  }

  private requireUsable(): void {
    const why = this.whyUnusable()
    if (why !== null) throw new DeviceBrokenError(this.name, why)
  }

  // What a queue published stays published, whether or not the device could be told.
  private ring(queue: number, position: number): void {
    try {
      this.transport.notify(queue, position)
    } catch (error) {
      if (this.failure !== null) return
      this.failure = error as Error
      this.onFailure?.()
    }
  }

  // Memory goes back only when the device can no longer reach it: it answered a reset and its backend revoked everything,
  // or its platform cut it off.
  private async shutDown(): Promise<void> {
    const errors: unknown[] = []
    let safe = true
    try {
      await resetDevice(this.transport, this.wait)
    } catch (error) {
      errors.push(error)
      safe = this.cutOff(errors)
    }
    if (safe) safe = this.takeBack(errors)
    else this.quarantined = true
    if (safe) this.releaseAll(errors)
    if (errors.length === 0) return
    const [first] = errors
    throw first instanceof DeviceStuckError
      ? new DeviceStuckError(this.name, first.details.waitedMs as number, this.quarantined, first.cause)
      : first
  }

  // A removal that is not confirmed is one until the backend is disposed of, which takes everything away at once. So it is
  // an error only where that fails too, also after the platform cut the device off. That alone gives nothing back: the
  // platform lets the device in again for its next driver, and an IOMMU that refused would still have the mappings.
  private takeBack(errors: unknown[]): boolean {
    const { backend, queues } = this
    const single: unknown[] = []
    const whole: unknown[] = []
    for (const queue of queues) attempt(single, () => queue.dispose())
    const disposed = (): boolean => attempt(whole, () => backend.dispose())
    const safe = disposed() || (this.cutOff(whole) && disposed())
    if (safe) {
      errors.push(...single.filter((error) => !isUnconfirmed(error)))
      if (whole.length > 0) this.warnOf(whole[0])
    } else {
      errors.push(...single, ...whole)
      // First: a backend may know at once.
      this.quarantined = true
      const release = (): void => {
        this.quarantined = false
        // What its owner's function throws must not unwind whoever brings the next driver up.
        this.releaseAll([])
      }
      attempt(errors, () => backend.whenGone?.(release))
    }
    return safe
  }

  private releaseAll(errors: unknown[]): void {
    this.released = true
    for (const release of this.releases.splice(0).reverse()) attempt(errors, release)
  }

  private warnOf(refused: unknown): void {
    const { name, observer } = this
    const details = refused instanceof GuestDmaError ? refused.details : {}
    const why = refused instanceof Error && refused.cause instanceof Error ? refused.cause : refused
    const message = `its backend could not take all away from it (${why instanceof Error ? why.message : String(why)}); its platform cut it off, and then the backend could`
    const { cause } = new DriverError('DRIVER_CUT_OFF', name, message, details, { cause: refused }).toRecord()
    warn(observer, { code: 'DRIVER_CUT_OFF', part: name, message, details, ...(cause === undefined ? {} : { cause }) })
  }

  private cutOff(errors: unknown[]): boolean {
    let revoked = false
    attempt(errors, () => {
      revoked = this.detach?.() ?? false
    })
    return revoked
  }
}

// The removal of a queue's mappings, or of its own memory.
function isUnconfirmed(error: unknown): boolean {
  return error instanceof GuestDmaError && (error.code === 'VIRTQUEUE_COMMIT' || error.code === 'DMA_STILL_REACHABLE')
}
