import { BUFFER_LENT, type Buffers, DMA_EXHAUSTED, DMA_OK, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { observe } from '@guestdma/memory'
import {
  DEVICE_ID_NET,
  ETHERNET_HEADER_SIZE,
  ETHERNET_MTU,
  FeatureSet,
  NET_CONFIG_MAC,
  NET_CONFIG_MTU,
  NET_CONFIG_STATUS,
  NET_HEADER_SIZE,
  NET_MTU_MIN,
  NET_RECEIVE_QUEUE,
  NET_S_LINK_UP,
  NET_TRANSMIT_QUEUE,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_STATUS,
} from '@guestdma/spec'
import type { ConfigReader } from '@guestdma/transport'
import { QUEUE_BROKEN, QUEUE_FULL, SEGMENT_DEVICE, SEGMENT_GUEST } from '@guestdma/virtqueue'
import type { BufferMode } from '../driver/buffer-mode.ts'
import { type DeviceBrokenError, DriverError, type WarningObserver, warn } from '../driver/errors.ts'
import { type DeviceSession, QUEUE_FEATURES } from '../driver/session.ts'
import { VirtioDriver, type WaitingOptions } from '../driver/virtio-driver.ts'
import type { NetDriverCounters } from './counters.ts'
import { frameBuffers, HEADROOM } from './frame-buffers.ts'
import { FrameBatch, type ReceivedFrames } from './frames.ts'
import { ReceiveQueue } from './receive-queue.ts'
import { TAGS, TransmitQueue } from './transmit-queue.ts'

/** What {@link NetDriver} understands. Bits that decide the DMA backend are added when it is chosen. */
export const NET_FEATURES: FeatureSet = FeatureSet.of(
  ...QUEUE_FEATURES,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_STATUS,
  VIRTIO_NET_F_MTU,
)

/**
 * What a driver tells its user. Called from `poll` only, but for warnings; what a listener throws surfaces in a microtask.
 */
export interface NetObserver extends WarningObserver {
  /** Frames arrived. They are valid until this returns. */
  frames?(batch: ReceivedFrames): void
  /** Frames were sent: the tokens of the first `count` rows. Their memory is the caller's again. */
  sent?(tokens: Uint32Array, count: number): void
  /** After `send` took less than it was given, or `acquire` had no buffer: there is room again. */
  drain?(): void
  link?(up: boolean): void
  /** The device broke the rules or asked for a reset. Nothing more will happen until it is reset. */
  broken?(error: DeviceBrokenError): void
}

export interface NetDriverOptions extends WaitingOptions {
  readonly mode?: BufferMode
  /** Entries wanted for each queue; the device may allow fewer. Default 256. */
  readonly queueSize?: number
  readonly observer?: NetObserver
}

/**
 * virtio-net (virtio 1.4 §5.1) over whatever DMA backend was negotiated, with one pair of queues and no offloads.
 *
 * @example
 * const net = new NetDriver(session, { observer: { frames: (batch) => console.log(batch.count) } })
 * net.sendCopy(frame)
 * net.poll(64)
 */
export class NetDriver extends VirtioDriver {
  declare readonly mode: BufferMode
  /** The device's address, or `null` where it offers none or one that no station can have. */
  declare readonly mac: Uint8Array | null
  /** The largest payload of a frame, Ethernet header not counted. */
  declare readonly mtu: number
  /** Bytes of the largest frame without VLAN tags. Each tag, of two at most, makes a frame 4 bytes longer. */
  declare readonly maxFrame: number
  readonly counters: NetDriverCounters = {
    framesSent: 0,
    bytesSent: 0,
    framesReceived: 0,
    bytesReceived: 0,
    malformed: 0,
    unposted: 0,
  }
  linkUp = true
  /**
   * Why the last `send` took less than it was given: `QUEUE_FULL`, `DMA_EXHAUSTED` (both pass), or a permanent status.
   */
  sendStatus: number = DMA_OK

  declare private readonly observer: NetObserver
  declare private readonly hasStatus: boolean
  private blocked = false
  // Somebody waits for a buffer, which may come back from the user as well as from the device.
  private starved = false
  // With a deadline: when the device last completed a frame, or was given the first of those that it has.
  private progressAt = 0
  private readonly single = new FrameBatch(1)
  declare private readonly transmit: TransmitQueue
  declare private readonly receive: ReceiveQueue

  /**
   * Sets the device up and starts it. Receive buffers are posted by `poll`, so that all devices that share a pool have
   * their rings before any of them fills its receive ring. On an error the caller closes the session.
   *
   * @throws DriverError `NET_MTU`, `DRIVER_NO_QUEUE`, `DRIVER_DEVICE_TYPE`; QueueTooSmallError; DmaError `DMA_ALLOC`; MemoryError
   *   `MEMORY_EXHAUSTED`
   */
  constructor(session: DeviceSession, options: NetDriverOptions = {}) {
    super(session, DEVICE_ID_NET, options)
    const { mode = 'map', queueSize = 256, observer = {} } = options
    const { features, transport } = session
    this.mode = mode
    this.observer = observer
    this.hasStatus = features.has(VIRTIO_NET_F_STATUS)
    const { mac, mtu, linkUp } = transport.readConfig((config) => ({
      mac: features.has(VIRTIO_NET_F_MAC)
        ? Uint8Array.from({ length: 6 }, (_, i) => config.read8(NET_CONFIG_MAC + i))
        : null,
      mtu: features.has(VIRTIO_NET_F_MTU) ? config.read16(NET_CONFIG_MTU) : ETHERNET_MTU,
      linkUp: this.hasStatus ? (config.read16(NET_CONFIG_STATUS) & NET_S_LINK_UP) !== 0 : true,
    }))
    if (mtu < NET_MTU_MIN)
      throw new DriverError(
        'NET_MTU',
        this.name,
        `the device's MTU of ${mtu} is below ${NET_MTU_MIN} (virtio 1.4 §5.1.4.1)`,
        { mtu },
      )
    this.mac = mac === null || isStation(mac) ? mac : this.noMac(mac)
    this.mtu = mtu
    this.linkUp = linkUp
    this.maxFrame = mtu + ETHERNET_HEADER_SIZE

    const pool = mode === 'pool'
    const place = pool ? SEGMENT_DEVICE : SEGMENT_GUEST
    const bytes = this.receiveCapacity
    const receive = session.openQueue({ index: NET_RECEIVE_QUEUE, label: 'receive', size: queueSize, standing: true })
    const transmit = session.openQueue({
      index: NET_TRANSMIT_QUEUE,
      label: 'transmit',
      size: queueSize,
      longestChain: pool ? 1 : 2,
    })
    const posted = { mode, label: 'receive', count: receive.size, bytes, direction: FROM_DEVICE } as const
    const sent = { mode, label: 'transmit', count: transmit.size, bytes, direction: TO_DEVICE } as const
    this.receive = new ReceiveQueue(receive, frameBuffers(session, posted), place, bytes, this.counters)
    this.transmit = new TransmitQueue(transmit, frameBuffers(session, sent), {
      name: this.name,
      memory: session.memory,
      mtu,
      place,
    })

    this.checkPostable(pool)
    session.start()
    receive.disarm()
    transmit.disarm()
    // The receive buffers wait for it.
    this.wake()
  }

  /**
   * A buffer of the driver's to put a frame into, or -1 where all are in use (`drain` follows). There are as many as the
   * transmit queue has entries, within 4 MiB (`pool` mode: 1 MiB). It goes back by itself once it was sent; `release` it
   * if it is not sent.
   */
  acquire(): number {
    if (this.session.closed) return -1
    const buffer = this.transmit.buffers.acquire()
    if (buffer < 0) {
      this.sendStatus = QUEUE_FULL
      this.blocked = true
      this.starved = true
    }
    return buffer
  }

  release(buffer: number): void {
    if (this.transmit.buffers.held[buffer] === BUFFER_LENT) {
      throw new DriverError(
        'NET_BUFFER_LENT',
        this.name,
        `buffer ${buffer} is with the device; it goes back by itself once it was sent`,
        { buffer },
      )
    }
    this.transmit.buffers.release(buffer)
    // Within a poll it is a listener that gives it back, who was just told and knows of it.
    if (this.starved && !this.polling) this.wake()
  }

  /** Where the frame of an acquired buffer begins: a byte offset in {@link bufferRegion}. */
  bufferOffset(buffer: number): number {
    return this.transmit.buffers.offset[buffer] + HEADROOM
  }

  get bufferRegion(): Buffers['region'] {
    return this.transmit.buffers.region
  }

  /**
   * Sends the frames of a batch, with one notification at most. Returns how many were taken, from row 0 on;
   * `sendStatus` says why not all. A taken frame's memory belongs to the driver until `sent` reports its token.
   *
   * @throws DriverError `NET_FRAME_LENGTH` for a frame that is empty or above the MTU (VLAN tags not counted), `NET_FRAME_PLACE` in `pool` mode
   *   for a frame that is not in
   *   a buffer of the driver's; nothing is sent then
   */
  send(batch: FrameBatch): number {
    if (this.broken !== null || this.session.closed) {
      this.sendStatus = QUEUE_BROKEN
      return 0
    }
    if (this.paused) {
      this.sendStatus = QUEUE_FULL
      this.blocked = true
      return 0
    }
    const { counters, transmit } = this
    const idle = this.timed && transmit.queue.outstanding === 0
    const n = transmit.send(batch, this.observer.sent !== undefined)
    this.sendStatus = transmit.status
    if (n > 0) {
      counters.framesSent += n
      counters.bytesSent += transmit.bytes
      if (idle) {
        this.progressAt = this.now()
        this.watch()
      }
    }
    if (n < batch.count) this.noticeBlocked(transmit.status)
    return n
  }

  /**
   * Copies one frame into a buffer of the driver's and sends it. Returns false where there is no room now (`drain`
   * follows). For convenience; batches go through {@link send}.
   *
   * @throws DriverError `NET_FRAME_LENGTH`
   */
  sendCopy(frame: Uint8Array, token = 0): boolean {
    this.transmit.checkLength(frame.length, frame, 0)
    if (this.broken !== null || this.session.closed) {
      this.sendStatus = QUEUE_BROKEN
      return false
    }
    const buffer = this.acquire()
    if (buffer < 0) return false
    const region = this.bufferRegion
    region.refresh()
    region.u8.set(frame, this.bufferOffset(buffer))
    const batch = this.single
    batch.buffer[0] = buffer
    batch.length[0] = frame.length
    batch.token[0] = token
    batch.count = 1
    if (this.send(batch) === 1) return true
    this.transmit.buffers.release(buffer)
    return false
  }

  /**
   * Resets one of the two queues alone (virtio 1.4 §2.6.1); nothing that was agreed changes, and the other queue keeps
   * what it has. Frames on their way out are lost, or were sent: their tokens are told as `sent`. Receive buffers are
   * posted anew. Until it is done `send` takes nothing, and `drain` follows.
   *
   * @throws what `DeviceSession.resetQueue` throws; the device is broken then, unless RING_RESET was not agreed
   */
  resetQueue(which: 'receive' | 'transmit'): Promise<void> {
    const { receive, transmit } = this
    return which === 'receive'
      ? this.restart(receive.queue, () => receive.drop())
      : this.restart(transmit.queue, () => this.tellSent(transmit.drop()))
  }

  protected override work(budget: number): number {
    let done = this.reapTransmit(budget)
    if (!this.session.closed) done += this.reapReceive(budget)
    // With nothing of its own in flight no completion will come: it was another device that held what this one needed.
    if (this.blocked && !this.session.closed && this.transmit.queue.outstanding === 0) {
      this.drain()
      if (this.transmit.queue.outstanding > 0) done++
    }
    return done
  }

  protected override arm(): boolean {
    // Whoever waits for `sent`, or for a buffer, waits for the second one.
    const received = this.receive.arm()
    return this.transmit.arm() || received
  }

  protected override configurationChanged(): void {
    if (!this.hasStatus) return
    const read = (config: ConfigReader): boolean => (config.read16(NET_CONFIG_STATUS) & NET_S_LINK_UP) !== 0
    const up = this.session.transport.readConfig(read)
    if (up === this.linkUp) return
    this.linkUp = up
    this.tell(() => this.observer.link?.(up))
  }

  protected override onBroken(error: DeviceBrokenError): void {
    this.tell(() => this.observer.broken?.(error))
  }

  protected override unansweredSince(): number {
    return this.transmit.queue.outstanding > 0 ? this.progressAt : Infinity
  }

  // What the backend would have to split into more pieces than it ever has is refused for good, at each poll.
  private checkPostable(pool: boolean): void {
    const { limits, name } = this.session.backend
    const bytes = NET_HEADER_SIZE + this.receiveCapacity
    const pieces = Math.ceil(bytes / limits.maxMappingLength)
    if (pool || pieces === 1 || pieces <= limits.assuredMappings) return
    const message = `${name} can never lend the ${bytes} bytes of a receive buffer (${pieces} mappings, ${limits.assuredMappings} assured): nothing will be received; give it more memory or lower the MTU of ${this.mtu}`
    warn(this.observer, { code: 'NET_NO_RECEIVE', part: this.name, message, details: { mtu: this.mtu, bytes, pieces } })
  }

  private noMac(mac: Uint8Array): null {
    const message = `the device's address ${hexMac(mac)} is none that a station can have (zero, or a group's); it is ignored`
    warn(this.observer, { code: 'NET_MAC', part: this.name, message, details: { mac: [...mac] } })
    return null
  }

  // Bytes of a frame that a receive buffer holds: never less than what virtio 1.4 §5.1.9.3.1 asks for.
  private get receiveCapacity(): number {
    return Math.max(this.maxFrame, ETHERNET_MTU + ETHERNET_HEADER_SIZE) + TAGS
  }

  private reapTransmit(budget: number): number {
    const { transmit } = this
    const n = transmit.reap(budget)
    if (n === 0) return 0
    if (this.timed) this.progressAt = this.now()
    this.tellSent(transmit.settle(n))
    if (this.blocked) this.drain()
    return n
  }

  private tellSent(count: number): void {
    if (count > 0 && this.observer.sent !== undefined)
      this.tell(() => this.observer.sent?.(this.transmit.tokens, count))
  }

  private drain(): void {
    this.blocked = false
    this.starved = false
    if (this.observer.drain !== undefined) this.tell(() => this.observer.drain?.())
  }

  private reapReceive(budget: number): number {
    const { receive } = this
    const n = receive.reap(budget)
    if (n > 0) {
      if (receive.frames.count > 0 && this.observer.frames !== undefined) observe(this.deliver, receive.frames)
      receive.recycle(n)
    }
    if (!this.session.closed) receive.post()
    return n
  }

  private noticeBlocked(status: number): void {
    if (status === QUEUE_FULL || status === DMA_EXHAUSTED) this.blocked = true
    // Permanent. If it was the queue that broke, `poll` says so.
    else this.wake()
  }

  private readonly deliver = (batch: ReceivedFrames): void => this.observer.frames?.(batch)

  private tell(what: () => void): void {
    observe(what, undefined)
  }
}

// Not zero and not a group's: the lowest bit of the first byte says so.
function isStation(mac: Uint8Array): boolean {
  return (mac[0] & 1) === 0 && mac.some((byte) => byte !== 0)
}

function hexMac(mac: Uint8Array): string {
  return Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':')
}
