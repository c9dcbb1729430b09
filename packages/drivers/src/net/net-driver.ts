import {
  BUFFER_ACQUIRED,
  BUFFER_FREE,
  BUFFER_LENT,
  BufferPool,
  type Buffers,
  DMA_EXHAUSTED,
  DMA_OK,
  type DmaDirection,
  FROM_DEVICE,
  TO_DEVICE,
} from '@guestdma/dma'
import { observe } from '@guestdma/memory'
import {
  DEVICE_ID_NET,
  ETHERNET_HEADER_SIZE,
  ETHERNET_MTU,
  ETHERTYPE_VLAN,
  ETHERTYPE_VLAN_STACKED,
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
  VLAN_TAG_SIZE,
  VLAN_TAGS_MAX,
} from '@guestdma/spec'
import type { ConfigReader } from '@guestdma/transport'
import { QUEUE_BROKEN, QUEUE_FULL, SEGMENT_DEVICE, SEGMENT_GUEST, type Virtqueue } from '@guestdma/virtqueue'
import { type DeviceBrokenError, DriverError, type WarningObserver, warn } from '../driver/errors.ts'
import { RamBuffers } from '../driver/ram-buffers.ts'
import { type DeviceSession, QUEUE_FEATURES } from '../driver/session.ts'
import { VirtioDriver, type WaitingOptions } from '../driver/virtio-driver.ts'
import { FrameBatch, NO_BUFFER, ReceivedFrames } from './frames.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const HEADER = NET_HEADER_SIZE
const NONE = NO_BUFFER
const OK = DMA_OK
const ACQUIRED = BUFFER_ACQUIRED
const LENT = BUFFER_LENT
const FREE = BUFFER_FREE

/** What {@link NetDriver} understands. Bits that decide the DMA backend are added when it is chosen. */
export const NET_FEATURES: FeatureSet = FeatureSet.of(
  ...QUEUE_FEATURES,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_STATUS,
  VIRTIO_NET_F_MTU,
)

/**
 * `map`: frames lie in guest RAM and each is lent for one transfer. `pool`: frames lie in memory that the device always
 * sees.
 */
export type BufferMode = 'map' | 'pool'

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

/** Running totals. Bytes count frames, without the virtio header. */
export interface NetDriverCounters {
  framesSent: number
  bytesSent: number
  framesReceived: number
  bytesReceived: number
  /**
   * Received buffers that held no valid frame: shorter than the header, an offload nobody agreed on, nothing delivered.
   */
  malformed: number
  /**
   * Receive buffers that could not be posted at the last try. All of them: the pool has no room for any, and nothing
   * will be received.
   */
  unposted: number
}

// In `sent`: a frame in the caller's memory, whose token is to be told.
const CALLERS = -2

// Flag NEEDS_CSUM, and all of gso_type, which is the next byte.
const OFFLOADS = 0xff01

// Where in a pool buffer the frame begins: the virtio header sits right before it, and the frame is aligned.
const HEADROOM = 16

// Bytes of the VLAN tags that a frame may carry beyond the MTU.
const TAGS = VLAN_TAG_SIZE * VLAN_TAGS_MAX
const ETHERTYPE_OFFSET = 12

// Bytes of the buffers of one direction. They cost memory although the link is silent, so large MTUs get fewer of them:
// of guest RAM, and of memory that the device sees all the time, of which a pool has 4 MiB by default.
const MAX_RAM_BYTES = 4 << 20
const MAX_POOL_BYTES = 1 << 20

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
  sendStatus: number = OK

  declare private readonly observer: NetObserver
  declare private readonly hasStatus: boolean
  private blocked = false
  // Somebody waits for a buffer, which may come back from the user as well as from the device.
  private starved = false
  // An armed queue stays so until something completes.
  private receiveArmed = false
  private transmitArmed = false
  // With a deadline: when the device last completed a frame, or was given the first of those that it has.
  private progressAt = 0
  // Bytes of the batch that was checked last.
  private checked = 0
  // Frames in flight for which `sent` keeps an account. The entries of all others are `NO_BUFFER`.
  private accounted = 0
  private readonly single = new FrameBatch(1)

  declare private readonly transmit: Virtqueue
  declare private readonly transmitBuffers: Buffers
  // The kind of a segment in the caller's memory's header, and of one in a buffer of the driver's.
  declare private readonly transmitHeaders: number
  declare private readonly place: number
  declare private readonly transmitBase: Float64Array
  // Pairs by id: the frame's buffer and its token.
  declare private readonly sent: Int32Array
  declare private readonly tokens: Uint32Array
  // Buffers of the driver's among the frames that a poll completes.
  declare private readonly sentBuffers: Uint32Array
  declare private readonly staged: Float64Array

  declare private readonly receive: Virtqueue
  declare private readonly receiveBuffers: Buffers
  declare private readonly receiveBase: Float64Array
  declare private readonly postedBuffer: Uint32Array
  declare private readonly posting: Uint32Array
  // By buffer: where its frame begins, in bytes of the region, and its header, in halves of a word.
  declare private readonly frameOffset: Float64Array
  declare private readonly headerHalf: Uint32Array | Float64Array
  // Buffers that came back with the batch at hand.
  declare private readonly returned: Uint32Array
  declare private readonly postedAddress: Float64Array
  declare private readonly postedLength: Uint32Array
  declare private readonly received: ReceivedFrames

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
    const { features, backend, transport } = session
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
    this.place = pool ? SEGMENT_DEVICE : SEGMENT_GUEST
    this.receive = session.openQueue({ index: NET_RECEIVE_QUEUE, label: 'receive', size: queueSize, standing: true })
    this.transmit = session.openQueue({
      index: NET_TRANSMIT_QUEUE,
      label: 'transmit',
      size: queueSize,
      longestChain: pool ? 1 : 2,
    })

    const bytes = HEADROOM + this.receiveCapacity
    const toFrame = (address: number): number => address + HEADROOM
    const most = Math.floor((pool ? MAX_POOL_BYTES : MAX_RAM_BYTES) / bytes)
    const makeBuffers = (
      label: string,
      size: number,
      direction: DmaDirection,
    ): [buffers: Buffers, base: Float64Array] => {
      const count = Math.min(size, most)
      if (pool) {
        const buffers = new BufferPool(backend, { name: `${this.name} ${label}`, count, bytes, direction })
        return [buffers, buffers.device.map(toFrame)]
      }
      const buffers = new RamBuffers(session.memory, session.ram, { name: `${this.name} ${label}`, count, bytes })
      session.onRelease(() => buffers.dispose())
      return [buffers, buffers.guest.map(toFrame)]
    }
    ;[this.receiveBuffers, this.receiveBase] = makeBuffers('receive', this.receive.size, FROM_DEVICE)
    ;[this.transmitBuffers, this.transmitBase] = makeBuffers('transmit', this.transmit.size, TO_DEVICE)

    this.sent = new Int32Array(2 * this.transmit.size).fill(NONE)
    this.tokens = new Uint32Array(this.transmit.size)
    this.sentBuffers = new Uint32Array(this.transmit.size)
    this.postedBuffer = new Uint32Array(this.receive.size)
    this.posting = new Uint32Array(this.receive.size)
    this.returned = new Uint32Array(this.receive.size)
    this.frameOffset = this.receiveBuffers.offset.map(toFrame)
    const halves = this.frameOffset.map((offset) => (offset - HEADER) / 2)
    this.headerHalf = halves.some((half) => half > 0xffff_ffff) ? halves : Uint32Array.from(halves)
    this.received = new ReceivedFrames(this.receiveBuffers.region, this.receive.size)
    // Only a frame in the caller's own memory has its header elsewhere. With no offload agreed it is all zero (virtio
    // 1.4 §5.1.9.2), as its cell is from the start.
    this.transmitHeaders = pool ? SEGMENT_DEVICE : this.transmit.cells(HEADER, TO_DEVICE).kind
    this.staged = new Float64Array(this.transmit.size)
    this.postedLength = new Uint32Array(this.receive.size).fill(this.receiveCapacity)
    this.postedAddress = new Float64Array(this.receive.size)

    this.checkPostable(pool)
    session.start()
    this.receive.disarm()
    this.transmit.disarm()
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
    const buffer = this.transmitBuffers.acquire()
    if (buffer < 0) {
      this.sendStatus = QUEUE_FULL
      this.blocked = true
      this.starved = true
    }
    return buffer
  }

  release(buffer: number): void {
    if (this.transmitBuffers.held[buffer] === LENT) {
      throw new DriverError(
        'NET_BUFFER_LENT',
        this.name,
        `buffer ${buffer} is with the device; it goes back by itself once it was sent`,
        { buffer },
      )
    }
    this.transmitBuffers.release(buffer)
    // Within a poll it is a listener that gives it back, who was just told and knows of it.
    if (this.starved && !this.polling) this.wake()
  }

  /** Where the frame of an acquired buffer begins: a byte offset in {@link bufferRegion}. */
  bufferOffset(buffer: number): number {
    return this.transmitBuffers.offset[buffer] + HEADROOM
  }

  get bufferRegion(): Buffers['region'] {
    return this.transmitBuffers.region
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
    this.checked = 0
    const borrowed = this.check(batch)
    const { count, length } = batch
    const framed = (borrowed === count || batch.headed) && count <= this.transmit.size
    this.sendStatus = OK
    const idle = this.timed && this.transmit.outstanding === 0
    const n = framed ? this.addFramed(batch, borrowed > 0) : this.addUnframed(batch)
    const published = n === 0 ? OK : this.transmit.publish()
    if (published !== OK) {
      this.sendStatus = published
      this.forget()
      this.keep(batch, 0)
      if (published === DMA_EXHAUSTED && n > 1) return this.sendFewer(batch, n >> 1)
      this.noticeBlocked(published)
      return 0
    }
    if (idle) {
      this.progressAt = this.now()
      this.watch()
    }
    let bytes = this.checked
    if (n < count) {
      this.keep(batch, n)
      for (let i = n; i < count; i++) bytes -= length[i]
    }
    this.counters.framesSent += n
    this.counters.bytesSent += bytes
    if (n < count) this.noticeBlocked(this.sendStatus)
    return n
  }

  // The backend had no room for all of a batch, and may have it for some.
  private sendFewer(batch: FrameBatch, most: number): number {
    const { count } = batch
    batch.count = most
    const sent = this.send(batch)
    batch.count = count
    this.sendStatus = DMA_EXHAUSTED
    this.noticeBlocked(DMA_EXHAUSTED)
    return sent
  }

  /**
   * Copies one frame into a buffer of the driver's and sends it. Returns false where there is no room now (`drain`
   * follows). For convenience; batches go through {@link send}.
   *
   * @throws DriverError `NET_FRAME_LENGTH`
   */
  sendCopy(frame: Uint8Array, token = 0): boolean {
    if (!this.fits(frame.length, frame, 0)) throw this.badLength(frame.length)
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
    this.transmitBuffers.release(buffer)
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
    return which === 'receive'
      ? this.restart(this.receive, () => this.dropReceive())
      : this.restart(this.transmit, () => this.dropTransmit())
  }

  protected override work(budget: number): number {
    let done = this.reapTransmit(budget)
    if (!this.session.closed) done += this.reapReceive(budget)
    // With nothing of its own in flight no completion will come: it was another device that held what this one needed.
    if (this.blocked && !this.session.closed && this.transmit.outstanding === 0) {
      this.drain()
      if (this.transmit.outstanding > 0) done++
    }
    return done
  }

  protected override arm(): boolean {
    let more = false
    if (!this.receiveArmed) {
      this.receiveArmed = true
      if (this.receive.arm()) more = true
    }
    // Whoever waits for `sent`, or for a buffer, waits for this.
    if (!this.transmitArmed) {
      this.transmitArmed = true
      if (this.transmit.arm()) more = true
    }
    return more
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
    return this.transmit.outstanding > 0 ? this.progressAt : Infinity
  }

  // What the backend would have to split into more pieces than it ever has is refused for good, at each poll.
  private checkPostable(pool: boolean): void {
    const { limits, name } = this.session.backend
    const bytes = HEADER + this.receiveCapacity
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

  // Frames with their header right before them, as in all buffers of the driver's: one segment.
  private addFramed({ address, buffer, length, token, count }: FrameBatch, borrowed: boolean): number {
    const { transmit: queue, sent, transmitBase: base, place, staged, observer } = this
    if (borrowed) for (let i = 0; i < count; i++) staged[i] = buffer[i] === NONE ? address[i] : base[buffer[i]]
    const n = queue.addEach(count, borrowed ? staged : address, length, HEADER, place, false)
    this.sendStatus = queue.addStatus
    // Nothing to give back, nobody to tell: no account is kept, and completing the frame costs nothing either.
    if (!borrowed && observer.sent === undefined) return n
    const ids = queue.added
    for (let i = 0; i < n; i++) {
      const at = 2 * ids[i]
      sent[at] = buffer[i] === NONE ? CALLERS : buffer[i]
      sent[at + 1] = token[i]
    }
    this.accounted += n
    return n
  }

  // Frames some of which have no room for a header before them: it is a segment of its own.
  private addUnframed({ address, buffer, length, token, count }: FrameBatch): number {
    const { transmit: queue, sent, transmitBase: base, transmitHeaders, place, observer } = this
    const { segments } = queue
    for (let i = 0; i < count; i++) {
      const own = buffer[i]
      if (own === NONE) {
        segments.kind[0] = transmitHeaders
        segments.address[0] = 0
        segments.length[0] = HEADER
        segments.kind[1] = SEGMENT_GUEST
        segments.address[1] = address[i]
        segments.length[1] = length[i]
      } else {
        segments.kind[0] = place
        segments.address[0] = base[own] - HEADER
        segments.length[0] = length[i] + HEADER
      }
      const id = queue.add(own === NONE ? 2 : 1, 0)
      if (id < 0) {
        this.sendStatus = id
        return i
      }
      if (own === NONE && observer.sent === undefined) continue
      sent[2 * id] = own === NONE ? CALLERS : own
      sent[2 * id + 1] = token[i]
      this.accounted++
    }
    return count
  }

  private reapTransmit(budget: number): number {
    const queue = this.transmit
    const n = queue.reap(budget)
    if (n === 0) return 0
    this.transmitArmed = false
    if (this.timed) this.progressAt = this.now()
    const told = this.accounted > 0 ? this.settle(n) : 0
    queue.recycle()
    if (told > 0 && this.observer.sent !== undefined) this.tellSent(told)
    if (this.blocked) this.drain()
    return n
  }

  // All receive buffers that are not free are with the device.
  private dropReceive(): void {
    const { receiveBuffers } = this
    this.receiveArmed = false
    for (let buffer = 0; buffer < receiveBuffers.held.length; buffer++) {
      if (receiveBuffers.held[buffer] !== FREE) receiveBuffers.release(buffer)
    }
  }

  private dropTransmit(): void {
    const { sent, tokens, transmitBuffers } = this
    this.transmitArmed = false
    let told = 0
    for (let at = 0; at < sent.length; at += 2) {
      if (sent[at] === NONE) continue
      if (sent[at] !== CALLERS) transmitBuffers.release(sent[at])
      sent[at] = NONE
      tokens[told++] = sent[at + 1]
    }
    this.accounted = 0
    if (told > 0 && this.observer.sent !== undefined) this.tellSent(told)
  }

  // Gives the buffers of completed frames back, and collects their tokens.
  private settle(n: number): number {
    const { sent, sentBuffers, tokens } = this
    const ids = this.transmit.completed.id
    let told = 0
    let own = 0
    for (let i = 0; i < n; i++) {
      const at = ids[i] << 1
      const buffer = sent[at]
      if (buffer === NONE) continue
      sent[at] = NONE
      tokens[told] = sent[(at + 1) | 0]
      told = (told + 1) | 0
      if (buffer === CALLERS) continue
      sentBuffers[own] = buffer
      own = (own + 1) | 0
    }
    this.transmitBuffers.releaseEach(sentBuffers, 0, own)
    this.accounted -= told
    return told
  }

  private tellSent(count: number): void {
    this.tell(() => this.observer.sent?.(this.tokens, count))
  }

  private drain(): void {
    this.blocked = false
    this.starved = false
    if (this.observer.drain !== undefined) this.tell(() => this.observer.drain?.())
  }

  private reapReceive(budget: number): number {
    const queue = this.receive
    const n = queue.hasUsed ? queue.reap(budget) : 0
    if (n > 0) {
      this.receiveArmed = false
      this.collect(n)
      if (this.received.count > 0 && this.observer.frames !== undefined) observe(this.deliver, this.received)
      this.receiveBuffers.releaseEach(this.returned, 0, n)
      queue.recycle()
    }
    if (this.session.closed) return n
    if (this.receiveBuffers.available > 0) this.postReceiveBuffers()
    return n
  }

  // Turns completed chains into frames. The header is loaded once: in memory that the device still sees it may change.
  private collect(n: number): void {
    const { id: ids, written: lengths, status } = this.receive.completed
    const { offset, length } = this.received
    const { counters, frameOffset, headerHalf, postedBuffer, returned } = this
    const u16 = this.receiveBuffers.region.u16
    let frames = 0
    let bytes = 0
    for (let i = 0; i < n; i++) {
      const written = lengths[i]
      const buffer = postedBuffer[ids[i]]
      returned[i] = buffer
      // NEEDS_CSUM and any gso_type would be an offload that nobody agreed on; other flags are ignored (virtio 1.4
      // §5.1.9.4.2).
      if (status[i] !== OK || written <= HEADER || (u16[headerHalf[buffer]] & OFFLOADS) !== 0) {
        counters.malformed++
        continue
      }
      offset[frames] = frameOffset[buffer]
      length[frames] = written - HEADER
      bytes += written - HEADER
      frames++
    }
    this.received.count = frames
    counters.framesReceived += frames
    counters.bytesReceived += bytes
  }

  // A buffer that cannot be posted now stays on the stack and is tried again at the next poll.
  private postReceiveBuffers(): void {
    let wanted = this.receiveBuffers.available
    // Where the backend has no room for all of them, it may have it for some.
    while (wanted > 0 && this.post(wanted) === DMA_EXHAUSTED) wanted = this.receive.undone >> 1
  }

  private post(wanted: number): number {
    const queue = this.receive
    const buffers = this.receiveBuffers
    const { postedAddress, receiveBase: base } = this
    const { postedBuffer, posting } = this
    buffers.acquireEach(posting, wanted)
    for (let i = 0; i < wanted; i++) postedAddress[i] = base[posting[i]]
    const n = queue.addEach(wanted, postedAddress, this.postedLength, HEADER, this.place, true)
    const { added } = queue
    for (let i = 0; i < n; i++) postedBuffer[added[i]] = posting[i]
    buffers.releaseEach(posting, n, wanted)
    this.counters.unposted = buffers.available
    const published = queue.publish()
    if (published === OK) return OK
    for (let i = 0; i < queue.undone; i++) buffers.release(postedBuffer[queue.undoneId[i]])
    this.counters.unposted = buffers.available
    return published
  }

  // Checks a batch and marks its buffers as lent. Returns how many of its frames lie in buffers of the driver's.
  private check(batch: FrameBatch): number {
    const { buffer, length, count } = batch
    const { maxFrame } = this
    const { held } = this.transmitBuffers
    let borrowed = 0
    let bytes = 0
    for (let i = 0; i < count; i++) {
      const size = length[i]
      bytes += size
      if ((size === 0 || size > maxFrame) && !this.fitsWithTags(batch, i)) {
        this.keep(batch, 0, i)
        throw this.badLength(size)
      }
      const own = buffer[i]
      if (own === NONE) continue
      borrowed++
      if (held[own] === ACQUIRED) held[own] = LENT
      else {
        this.keep(batch, 0, i)
        const message = `frame ${i} names buffer ${own}, which is not one that acquire() returned`
        throw new DriverError('NET_FRAME_PLACE', this.name, message, { row: i, buffer: own })
      }
    }
    if (borrowed < count && this.mode === 'pool') {
      this.keep(batch, 0)
      const message = "a frame is not in a buffer of the driver's; in pool mode, acquire() one and fill it"
      throw new DriverError('NET_FRAME_PLACE', this.name, message)
    }
    this.checked = bytes
    return borrowed
  }

  // No account is left of frames that were never published.
  private forget(): void {
    const { sent, transmit } = this
    for (let i = 0; i < transmit.undone; i++) {
      const at = 2 * transmit.undoneId[i]
      if (sent[at] === NONE) continue
      sent[at] = NONE
      this.accounted--
    }
  }

  // The buffers of rows that were not sent after all are the caller's again.
  private keep({ buffer, count }: FrameBatch, from: number, to: number = count): void {
    const { held } = this.transmitBuffers
    for (let i = from; i < to; i++) if (buffer[i] !== NONE) held[buffer[i]] = ACQUIRED
  }

  // Row `i` is longer than a frame without VLAN tags may be.
  private fitsWithTags({ address, buffer, length }: FrameBatch, i: number): boolean {
    const own = buffer[i]
    if (own !== NONE) {
      this.bufferRegion.refresh()
      return this.fits(length[i], this.bufferRegion.u8, this.bufferOffset(own))
    }
    const { memory } = this.session
    const least = ETHERNET_HEADER_SIZE + TAGS
    if (memory.locate(address, i, least) < least) return false
    memory.region.refresh()
    return this.fits(length[i], memory.region.u8, memory.offset)
  }

  // Whether a frame of `length` bytes that begins at `bytes[at]` is within the MTU, which does not count VLAN tags.
  private fits(length: number, bytes: Uint8Array, at: number): boolean {
    let tags = 0
    while (tags < TAGS && isTag(bytes, at + ETHERTYPE_OFFSET + tags)) tags += VLAN_TAG_SIZE
    return length > 0 && length <= this.maxFrame + tags
  }

  private badLength(length: number): DriverError {
    const { maxFrame, mtu, name } = this
    const message = `a frame of ${length} bytes: must be 1 to ${maxFrame} (MTU ${mtu}), and 4 more for each VLAN tag`
    return new DriverError('NET_FRAME_LENGTH', name, message, { length, maxFrame })
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

function isTag(bytes: Uint8Array, at: number): boolean {
  const type = (bytes[at] << 8) | bytes[at + 1]
  return type === ETHERTYPE_VLAN || type === ETHERTYPE_VLAN_STACKED
}
