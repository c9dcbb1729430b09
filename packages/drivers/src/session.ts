import type { DmaBackend } from '@guestdma/dma'
import type { GuestMemory, SpanAllocator } from '@guestdma/memory'
import {
  type FeatureSet,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER_OK,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
} from '@guestdma/spec'
import {
  addStatus,
  DeviceStuckError,
  deadlineMsOf,
  giveUp,
  resetDevice,
  type VirtioTransport,
  type Wait,
} from '@guestdma/transport'
import { SplitVirtqueue, type Virtqueue, type VirtqueueOptions } from '@guestdma/virtqueue'
import { DriverError } from './errors.ts'

/** The device-independent features that every driver here understands. */
export const QUEUE_FEATURES: readonly number[] = [
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
]

export interface SessionOptions {
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

  private readonly detach: (() => boolean) | undefined
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
  }

  /** True from the first call of {@link close} on. */
  get closed(): boolean {
    return this.closing !== null
  }

  /**
   * Makes a queue and tells the device of it: the largest power of two that the device allows, up to what is asked.
   *
   * @throws DriverError `DRIVER_NO_QUEUE`; QueueTooSmallError; DmaError `DMA_ALLOC`; TransportError
   */
  openQueue({ index, label, size, ...rest }: QueueRequest): Virtqueue {
    const name = `${this.name} ${label}`
    const max = this.transport.maxQueueSize(index)
    if (max < 1) throw new DriverError('DRIVER_NO_QUEUE', name, `the device has no queue ${index}`, { index })
    const queue = new SplitVirtqueue({
      ...rest,
      name,
      index,
      size: 2 ** Math.floor(Math.log2(Math.min(size, max))),
      backend: this.backend,
      features: this.features,
      doorbell: (queueIndex, position) => this.transport.notify(queueIndex, position),
    })
    this.queues.push(queue)
    this.transport.enableQueue(index, queue.size, queue.areas)
    return queue
  }

  /**
   * Runs `release` when the device can no longer reach the driver's buffers: at once where that is so already, and
   * never where they had to be quarantined. Last in, first out.
   */
  onRelease(release: () => void): void {
    if (this.released) release()
    else this.releases.push(release)
  }

  /** Sets DRIVER_OK: the device is live (virtio 1.4 §3.1.1). */
  start(): void {
    addStatus(this.transport, STATUS_DRIVER_OK)
  }

  /** Tells the device that its driver gave up (virtio 1.4 §3.1.1); `close` follows. */
  giveUp(): void {
    giveUp(this.transport)
  }

  /** Has the device set DEVICE_NEEDS_RESET? */
  needsReset(): boolean {
    return (this.transport.readStatus() & STATUS_DEVICE_NEEDS_RESET) !== 0
  }

  /**
   * Resets the device, then takes back all memory. Idempotent.
   *
   * @throws DeviceStuckError where the device does not answer, or its transport is lost (`cause`);
   *   `details.quarantined` says whether its memory had to be given up
   */
  close(): Promise<void> {
    this.closing ??= this.shutDown()
    return this.closing
  }

  private async shutDown(): Promise<void> {
    try {
      await resetDevice(this.transport, this.wait)
    } catch (error) {
      if (!(error instanceof DeviceStuckError)) throw error
      // Memory goes back only when the device can no longer reach it; a detached device cannot.
      const revoked = this.detach?.() ?? false
      if (!revoked) throw error
      this.release()
      throw new DeviceStuckError(this.name, error.details.waitedMs as number, false, error.cause)
    }
    this.release()
  }

  private release(): void {
    for (const queue of this.queues) queue.dispose()
    this.released = true
    for (const release of this.releases.reverse()) release()
    this.backend.dispose()
  }
}
