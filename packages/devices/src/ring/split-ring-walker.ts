import { ACCESS_READ, ACCESS_WRITE, ADDRESS_HIGH_LIMIT, type BusPort, Region } from '@guestdma/memory'
import {
  AVAILABLE_F_NO_INTERRUPT,
  AVAILABLE_RING_ALIGN,
  availableRingBytes,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_SIZE,
  DESCRIPTOR_TABLE_ALIGN,
  descriptorTableBytes,
  MAX_CHAIN_BYTES,
  MAX_QUEUE_SIZE,
  USED_RING_ALIGN,
  usedRingBytes,
} from '@guestdma/spec'
import type { QueueFaultReason } from '../faults/faults.ts'
import { ChainTable, ONE_READABLE, ONE_WRITABLE, ROW, ROW_FIRST, ROW_HEAD, ROW_WRITE } from './chain-table.ts'
import { RingArea, type RingWord } from './ring-area.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const STRIDE = ROW
const HEAD = ROW_HEAD
const FIRST = ROW_FIRST
const WRITE = ROW_WRITE
const ALL_READABLE = ONE_READABLE
const ALL_WRITABLE = ONE_WRITABLE
const READ_ACCESS = ACCESS_READ
const WRITE_ACCESS = ACCESS_WRITE
const F_NEXT = DESCRIPTOR_F_NEXT
const F_WRITE = DESCRIPTOR_F_WRITE
const F_INDIRECT = DESCRIPTOR_F_INDIRECT
const HIGH_LIMIT = ADDRESS_HIGH_LIMIT

/** What `take` returns when there is no chain: none available, or the queue is broken. */
export const NO_CHAIN = -1

/** `next` has 16 bits, so a longer indirect table holds entries that nothing can name. */
const MAX_INDIRECT_BYTES = 65536 * DESCRIPTOR_SIZE

const TWO_32 = 2 ** 32
// Bytes in the available area and in the used area (§2.7.6, §2.7.8).
const AVAILABLE_INDEX = 2
const AVAILABLE_RING = 4
const USED_INDEX = 2
const USED_RING = 4
/**
 * What one chain may cost within a budget that counts chains: descriptors and pieces together, and bytes. A chain that
 * is larger counts as several. 64 KiB is a frame of the largest MTU; Linux sends block requests of 256 descriptors.
 */
export const CHAIN_STEPS = 64
export const CHAIN_BYTES = 65536
const STEPS = CHAIN_STEPS
const BYTES = CHAIN_BYTES

// None of them: the chain is one descriptor that the device may only read.
const PLAIN_MASK = DESCRIPTOR_F_NEXT | DESCRIPTOR_F_WRITE | DESCRIPTOR_F_INDIRECT
// Below this an offset is a small integer to the engine.
const NEAR = 0x7fff_0000
// Neither: the chain is one descriptor.
const NEXT_OR_INDIRECT = F_NEXT | F_INDIRECT
// In `peeked`, behind the descriptor at the head of a chain: the index of the one after it, and its four words.
const SECOND = 5
const NO_SECOND = 0xffff_ffff
// The port was not asked yet. (0: it refused.)
const NOT_ASKED = -1

/** Answers of {@link PlainTaker.plain}. */
export const PLAIN_TAKEN = 0
export const PLAIN_LAST = 1
export const PLAIN_LEFT = 2
export const PLAIN_VOID = 3

/** Takes chains of one device-readable descriptor as they come off the ring, without a row for each. */
export interface PlainTaker {
  /**
   * Bytes [offset, offset + length) of `region` are a whole chain. `PLAIN_TAKEN`: done with it. `PLAIN_LAST`: done with
   * it, but look no further. `PLAIN_LEFT`: not touched; the chain stays. `PLAIN_VOID`: the queue was reset meanwhile.
   */
  plain(region: Region, offset: number, length: number, head: number): number
}

/** How the negotiated features and the driver's registers shape a ring. */
export interface RingSetup {
  readonly size: number
  /** Device addresses as halves: descriptor low, high, driver low, high, device low, high. */
  readonly areas: Uint32Array
  readonly indirect: boolean
  readonly eventIndex: boolean
  readonly inOrder: boolean
  /** With `inOrder`: one used element for a run of buffers that were used completely (§2.7.9). */
  readonly batchUsed: boolean
}

/**
 * The device's side of one split virtqueue (virtio 1.4 §2.7): takes available chains, pushes used ones.
 *
 * Nothing in the ring is trusted. Every shared field is loaded once per decision; a chain's descriptors are copied into
 * the private columns of {@link ChainTable} and each buffer is resolved through the port before `take` returns, so a
 * device acts on a whole chain or on none. What is malformed sets `broken`: from then on nothing is taken, and only
 * what was pushed before is still published. Nothing here throws, and every loop is bounded by the queue size.
 *
 * A zero-length element is legal (§2.7 forbids none, and §2.7.4.1 forbids assumptions about framing): it counts towards
 * the chain's length, its address is not looked at, and it yields no segment.
 *
 * Use: `update`, then `take` and `push` until `NO_CHAIN`, then `flushAndRearm`, and again where there is {@link more}.
 */
export class SplitRingWalker {
  declare readonly chains: ChainTable
  /**
   * Of the last `take`, `takeMore`, `takeBatch` or `takePlain`: how many chains more than it returned the work was worth,
   * by {@link CHAIN_STEPS} and {@link CHAIN_BYTES}. A batch ends with the first chain that is worth several. Copies of a
   * ring in pieces count with the first chain that is taken after them.
   */
  extra = 0
  /** Of the last {@link flushAndRearm}: chains came in the meantime. */
  more = false
  broken: QueueFaultReason | null = null
  /** With `broken`: the head of the chain at fault or -1, the offending number, and its bound. */
  brokenHead = -1
  brokenValue = 0
  brokenLimit = 0

  declare private port: BusPort
  private size = 1
  private indirect = false
  private eventIndex = false
  private inOrder = false
  private batchUsed = false

  // Free-running 16-bit indices. published <= used <= next <= available.
  private available = 0
  private next = 0
  private used = 0
  private published = 0
  // Where the last used element stands; later ones of the same batch may take its place.
  private slot = 0
  private replaceable = false

  // The three areas, and where to work on them, as elements of the views of a region.
  declare private readonly tableArea: RingArea
  declare private readonly driverArea: RingArea
  declare private readonly deviceArea: RingArea
  declare private table: Region
  private tableWord = 0
  declare private driver: Region
  private driverHalf = 0
  declare private device: Region
  private deviceWord = 0
  // An area is in pieces: copies have to be brought up to date. What that cost since the last chain was taken, in chains.
  private scattered = false
  private copies = 0
  // An indirect table that is in pieces.
  declare private readonly indirectArea: RingArea
  // The four words that both sides look at, in memory itself: the available index, what says whether the driver wants a
  // notification (used_event or the flags), the used index, and avail_event.
  declare private readonly availableIndex: RingWord
  declare private readonly asked: RingWord
  declare private readonly usedIndex: RingWord
  declare private readonly event: RingWord
  // Whether the areas stand for what the port last granted.
  private attached = false
  private paused = false

  // A chain that takePlain left: its position, and its head and descriptor as they were loaded, so that they are loaded
  // once.
  private peekedAt = -1
  private readonly peeked = new Uint32Array(10)

  // In order: completions by available position, held until all earlier ones came. -1: still outstanding.
  private heldWritten = new Float64Array(0)
  private heldHead = new Int32Array(0)

  constructor(maxSize: number, port: BusPort) {
    this.port = port
    const nowhere = new Region(new ArrayBuffer(0), 'no ring')
    this.chains = new ChainTable(maxSize, nowhere)
    this.table = nowhere
    this.driver = nowhere
    this.device = nowhere
    this.tableArea = new RingArea(nowhere)
    this.driverArea = new RingArea(nowhere)
    this.deviceArea = new RingArea(nowhere)
    this.indirectArea = new RingArea(nowhere)
    this.availableIndex = { region: nowhere, half: 0 }
    this.asked = { region: nowhere, half: 0 }
    this.usedIndex = { region: nowhere, half: 0 }
    this.event = { region: nowhere, half: 0 }
  }

  /** A queue that was just enabled: all indices are 0 (virtio 1.4 §2.6.1). False: `broken` says why. */
  start(setup: RingSetup, maxSize: number): boolean {
    const { size } = setup
    this.available = this.next = this.used = this.published = this.slot = 0
    this.replaceable = false
    this.paused = false
    this.copies = 0
    this.broken = null
    this.chains.rows = this.chains.segments = 0
    this.peekedAt = -1
    if (size < 1 || size > maxSize || size > MAX_QUEUE_SIZE || (size & (size - 1)) !== 0) {
      this.fail('queue-size', -1, size, maxSize)
      return false
    }
    this.size = size
    this.indirect = setup.indirect
    this.eventIndex = setup.eventIndex
    this.inOrder = setup.inOrder
    this.batchUsed = setup.inOrder && setup.batchUsed
    this.heldHead = new Int32Array(setup.inOrder ? size : 0)
    this.heldWritten = new Float64Array(setup.inOrder ? size : 0).fill(-1)
    return this.attach(setup)
  }

  /** A queue that was reset or disabled: nothing is left to take or to publish. */
  stop(): void {
    this.available = this.next = this.used = this.published = 0
    this.chains.rows = this.chains.segments = 0
    this.peekedAt = -1
    this.attached = false
  }

  /** Takes nothing more, whatever the driver makes available, until the next `start`. */
  pause(): void {
    this.paused = true
    this.available = this.next
  }

  /** Chains that were marked used and that no `flush` published yet. */
  get unpublished(): number {
    return (this.used - this.published) & 0xffff
  }

  /** The used index as it stands in memory: where an earlier server of the queue left it. */
  get storedUsed(): number {
    const { region, half } = this.usedIndex
    if (region.u16.length === 0) region.refresh()
    return region.loadShared(half)
  }

  /**
   * Resolves the three areas; again whenever the port's epoch changed. False: `broken` says why, or the port does not
   * know yet, and nothing may be asked of the ring before this is called again.
   */
  attach({ areas, size }: RingSetup): boolean {
    this.attached = false
    const { deviceArea, driverArea, tableArea } = this
    const bytes = descriptorTableBytes(size)
    if (!this.area(tableArea, areas[0], areas[1], bytes, DESCRIPTOR_TABLE_ALIGN, 4, READ_ACCESS)) return false
    if (!this.area(driverArea, areas[2], areas[3], availableRingBytes(size), AVAILABLE_RING_ALIGN, 2, READ_ACCESS)) {
      return false
    }
    if (!this.area(deviceArea, areas[4], areas[5], usedRingBytes(size), USED_RING_ALIGN, 4, WRITE_ACCESS)) return false
    if (
      !driverArea.find(AVAILABLE_INDEX, this.availableIndex) ||
      !driverArea.find(this.eventIndex ? AVAILABLE_RING + 2 * size : 0, this.asked) ||
      !deviceArea.find(USED_INDEX, this.usedIndex) ||
      !deviceArea.find(USED_RING + 8 * size, this.event)
    ) {
      this.fail('ring-alignment', -1, 1, 2)
      return false
    }
    this.table = tableArea.region
    this.tableWord = integer(tableArea.offset / 4)
    this.driver = driverArea.region
    this.driverHalf = integer(driverArea.offset / 2)
    this.device = deviceArea.region
    this.deviceWord = integer((deviceArea.offset + USED_RING) / 4)
    this.scattered = tableArea.scattered || driverArea.scattered || deviceArea.scattered
    if (this.scattered) this.pull()
    this.attached = true
    return true
  }

  // Copies what the driver wrote, where an area is in pieces.
  private pull(): void {
    const { driverArea, size, tableArea } = this
    const pieces = tableArea.pull() + driverArea.pull()
    let bytes = tableArea.scattered ? descriptorTableBytes(size) : 0
    if (driverArea.scattered) bytes += availableRingBytes(size)
    this.copies += (pieces / STEPS + bytes / BYTES) | 0
  }

  /** Chains that were seen and not taken yet. */
  get ready(): number {
    return (this.available - this.next) & 0xffff
  }

  /** Loads the available index, once. Returns how many chains can be taken. */
  update(): number {
    if (this.broken !== null) return 0
    const { region, half } = this.availableIndex
    if (region.u16.length === 0) region.refresh()
    return this.accept(region.loadShared(half))
  }

  // Believes an available index, or breaks the queue. Returns how many chains can be taken.
  private accept(index: number): number {
    if (this.paused) return 0
    const { region } = this.availableIndex
    if (region.meter !== null) region.meter.load(2, 1)
    const size = this.size
    // At most `size` chains may be outstanding as the driver sees it, and the index never goes back (§2.7.6.1).
    const outstanding = (index - this.published) & 0xffff
    const fresh = (index - this.next) & 0xffff
    if (outstanding > size || fresh > size) {
      this.fail('available-index', -1, index, size)
      return 0
    }
    if (this.scattered && index !== this.available) this.pull()
    this.available = index
    return fresh
  }

  /** Forgets the rows of `chains` and takes the next chain into row 0. Returns 0 or {@link NO_CHAIN}. */
  take(): number {
    return this.takeBatch(1) === 1 ? 0 : NO_CHAIN
  }

  /** Forgets the rows of `chains` and takes up to `limit` chains into rows 0 and up. Returns how many. */
  takeBatch(limit: number): number {
    const chains = this.chains
    chains.rows = 0
    chains.segments = 0
    return this.append(limit)
  }

  /**
   * Hands up to `limit` chains of one device-readable descriptor, inside the port's last window, to `taker`. Stops at
   * the first chain that is anything else: that one is `takeBatch`'s, which begins with what was loaded of it. Returns
   * how many were taken, for `pushRows`, or -1 where the queue was reset under way.
   */
  takePlain(limit: number, taker: PlainTaker): number {
    this.peekedAt = -1
    this.extra = 0
    if (this.broken !== null || this.available === this.next || this.inOrder) return 0
    const { chains, driver, port, size, table } = this
    if (driver.u16.length === 0 || port.region.u8.length === 0) port.refresh()
    if (table.u32.length === 0) table.refresh()
    const { request, window } = port
    let region = port.region
    let windowBase = window[0]
    let windowLength = (window[3] & READ_ACCESS) !== 0 && region.length < NEAR ? window[1] : 0
    let windowOffset = window[2]
    const ready = (this.available - this.next) & 0xffff
    const count = ready < limit ? ready : limit
    const mask = size - 1
    const ring = driver.u16
    const ringHalf = this.driverHalf + 2
    const words = table.u32
    const base = this.tableWord
    const columns = chains.columns
    const start = this.next
    let n = 0
    let answer = PLAIN_TAKEN
    while (n < count && answer === PLAIN_TAKEN) {
      // Code that the taker called may have grown a memory: then the views are gone, and the next call starts anew.
      if (ring.length === 0 || words.length === 0) break
      const head = ring[ringHalf + ((start + n) & mask)]
      const word = base + (head << 2)
      if (head >= size) {
        this.keepPeeked((start + n) & 0xffff, head, 0, 0, 0, 0)
        break
      }
      const low = words[word]
      const high = words[word + 1]
      const length = words[word + 2]
      const flagsAndNext = words[word + 3]
      let into = high * TWO_32 + low - windowBase
      if (
        (flagsAndNext & PLAIN_MASK) !== 0 ||
        length === 0 ||
        high >= HIGH_LIMIT ||
        !(into >= 0 && into + length <= windowLength)
      ) {
        this.keepPeeked((start + n) & 0xffff, head, low, high, length, flagsAndNext)
        if ((flagsAndNext & PLAIN_MASK) !== 0 || length === 0 || high >= HIGH_LIMIT) break
        // A port that translates has many small windows, and is asked for the next.
        request[0] = high * TWO_32 + low
        const granted = port.resolve(length, READ_ACCESS)
        if (granted <= 0) {
          this.refused('buffer-unreachable', head, length)
          break
        }
        region = port.region
        if (granted < length || region.length >= NEAR) break
        windowBase = window[0]
        windowLength = (window[3] & READ_ACCESS) !== 0 ? window[1] : 0
        windowOffset = window[2]
        into = request[0] - windowBase
        if (!(into >= 0 && into + length <= windowLength)) {
          // The port does not say what is around its grant.
          windowBase = request[0]
          windowLength = length
          windowOffset = port.offset
          into = 0
        }
        this.peekedAt = -1
      }
      answer = taker.plain(region, (windowOffset + into) | 0, length, head)
      if (answer === PLAIN_VOID) return -1
      if (answer === PLAIN_LEFT) {
        this.keepPeeked((start + n) & 0xffff, head, low, high, length, flagsAndNext)
        break
      }
      columns[n * STRIDE + HEAD] = head
      n++
    }
    this.next = (start + n) & 0xffff
    if (n > 0) {
      this.extra = this.copies
      this.copies = 0
    }
    if (driver.meter !== null) driver.meter.load(2, n)
    if (table.meter !== null) table.meter.load(4, 4 * n)
    return n
  }

  private keepPeeked(
    position: number,
    head: number,
    low: number,
    high: number,
    length: number,
    flagsAndNext: number,
  ): void {
    this.peekedAt = position
    this.peeked[0] = head
    this.peeked[1] = low
    this.peeked[2] = high
    this.peeked[3] = length
    this.peeked[4] = flagsAndNext
  }

  /** Takes the next chain into a further row and returns it, or {@link NO_CHAIN}. */
  takeMore(): number {
    return this.append(1) === 1 ? this.chains.rows - 1 : NO_CHAIN
  }

  /** Gives the last `rows` chains back, untouched: the next `take` finds them again. */
  untake(rows: number): void {
    this.next = (this.next - rows) & 0xffff
  }

  /**
   * Marks a chain used, in memory but not yet for the driver to see. `written` counts from the first device-writable
   * byte on. `whole`: all of the writable part was written, or there is none; only such an element may be left out of
   * an in-order batch.
   */
  push(head: number, written: number, whole: boolean): void {
    const used = this.used
    const device = this.device
    if (device.u32.length === 0) device.refresh()
    const words = device.u32
    if (!this.replaceable) this.slot = used
    const word = this.deviceWord + ((this.slot & (this.size - 1)) << 1)
    words[word] = head
    words[word + 1] = written
    if (device.meter !== null) device.meter.store(4, 2)
    this.used = (used + 1) & 0xffff
    this.replaceable = whole && this.batchUsed
  }

  /** Marks the chains of rows 0 to `rows` - 1 used, of which nothing was written: as many calls of `push`. */
  pushRows(rows: number): void {
    const columns = this.chains.columns
    if (this.batchUsed) {
      for (let row = 0; row < rows; row++) this.push(columns[row * STRIDE + HEAD] & 0xffff, 0, true)
      return
    }
    const device = this.device
    if (device.u32.length === 0) device.refresh()
    const words = device.u32
    const first = this.deviceWord
    const mask = this.size - 1
    let used = this.used
    for (let row = 0; row < rows; row++) {
      const word = first + ((used & mask) << 1)
      words[word] = columns[row * STRIDE + HEAD] & 0xffff
      words[word + 1] = 0
      used = (used + 1) & 0xffff
    }
    this.used = used
    if (device.meter !== null) device.meter.store(4, 2 * rows)
  }

  /**
   * As `push`, for chains that are completed in any order. In order, it is held until all chains taken before it are
   * completed (§2.7.9).
   */
  complete(head: number, position: number, written: number, whole: boolean): void {
    if (!this.inOrder) {
      this.push(head, written, whole)
      return
    }
    const mask = this.size - 1
    this.heldHead[position & mask] = head
    this.heldWritten[position & mask] = written
    while (this.used !== this.next) {
      const slot = this.used & mask
      if (this.heldWritten[slot] < 0) return
      this.push(this.heldHead[slot], this.heldWritten[slot], false)
      this.heldWritten[slot] = -1
    }
  }

  /** Publishes what was pushed with one index store. Returns whether the driver wants a notification (§2.7.7.2). */
  flush(): boolean {
    const used = this.used
    const old = this.published
    if (used === old || !this.attached) return false
    const { asked, usedIndex } = this
    const { region: device } = usedIndex
    const { region: driver } = asked
    if (device.u16.length === 0) device.refresh()
    if (driver.u16.length === 0) driver.refresh()
    if (this.scattered) this.usedElements(old, used, false)
    // Elements first, then the index that publishes them, then the question whether the driver wants to know.
    const answer = device.storeThenLoad(usedIndex.half, used, driver, asked.half)
    this.published = used
    this.replaceable = false
    if (device.meter !== null) device.meter.store(2, 1)
    if (driver.meter !== null) driver.meter.load(2, 1)
    if (device.onDeviceWrite !== null || this.scattered) this.reportUsed(old, used)
    if (!this.eventIndex) return (answer & AVAILABLE_F_NO_INTERRUPT) === 0
    // One of the elements old .. used - 1 was written at index `answer`, modulo 2^16.
    return ((used - answer - 1) & 0xffff) < ((used - old) & 0xffff)
  }

  /**
   * Before waiting: asks for a notification at the next chain that becomes available (§2.7.10). Returns whether one
   * came in the meantime. The event lies behind what was seen, and not behind what was taken: chains that are left in
   * the ring were made available already, and the driver's index will not pass them again.
   */
  rearm(): boolean {
    if (this.broken !== null) return false
    // Without the event index the used ring's flags stay 0, as the driver initialised them: it always notifies.
    if (!this.eventIndex) return false
    const { availableIndex, event } = this
    const { region: device } = event
    const { region: driver } = availableIndex
    if (device.u16.length === 0) device.refresh()
    if (driver.u16.length === 0) driver.refresh()
    const seen = this.available
    const index = device.storeThenLoad(event.half, seen, driver, availableIndex.half)
    if (device.meter !== null) device.meter.store(2, 1)
    if (device.onDeviceWrite !== null) device.onDeviceWrite(event.half * 2, 2)
    return this.accept(index) > 0 && index !== seen
  }

  /**
   * {@link flush} and {@link rearm} with one barrier for both, for a device that has taken all there is. Returns what
   * `flush` does; {@link more} holds what `rearm` returns.
   */
  flushAndRearm(): boolean {
    const together = this.eventIndex && this.broken === null && this.used !== this.published && this.attached
    if (!together) {
      const wanted = this.flush()
      this.more = this.rearm()
      return wanted
    }
    const { available: seen, availableIndex, event } = this
    const { region: device } = event
    if (device.u16.length === 0) device.refresh()
    device.storeAhead(event.half, seen)
    if (device.meter !== null) device.meter.store(2, 1)
    const wanted = this.flush()
    this.more = false
    // What listens to writes may have stopped the queue, or grown its memory.
    if (device.onDeviceWrite !== null) device.onDeviceWrite(event.half * 2, 2)
    if (!this.attached) return wanted
    const { region: driver } = availableIndex
    if (driver.u16.length === 0) driver.refresh()
    // Behind the barrier of the used index.
    const index = driver.loadShared(availableIndex.half)
    this.more = this.accept(index) > 0 && index !== seen
    return wanted
  }

  /** The indices as plain numbers; nothing may be outstanding except what only waits for `flush`. */
  save(): { next: number; used: number; published: number } {
    this.replaceable = false
    return { next: this.next, used: this.used, published: this.published }
  }

  /** Continues where `save` stood; after `start`. */
  restore(state: { readonly next: number; readonly used: number; readonly published: number }): void {
    this.available = this.next = state.next & 0xffff
    this.used = state.used & 0xffff
    this.published = state.published & 0xffff
  }

  /** Breaks the queue from outside, for what only the device type can judge. Returns {@link NO_CHAIN}. */
  fail(reason: QueueFaultReason, head: number, value: number, limit: number): number {
    if (this.broken === null) {
      this.broken = reason
      this.brokenHead = head
      this.brokenValue = value
      this.brokenLimit = limit
    }
    return NO_CHAIN
  }

  // The port gave nothing. Where it does not know yet, that is no fault: what was taken so far stays taken, and the chain
  // stays in the ring.
  private refused(reason: QueueFaultReason, head: number, length: number): number {
    return this.port.pending === true ? NO_CHAIN : this.fail(reason, head, length, 0)
  }

  /**
   * Replaces all rows by one that consists of `count` device-writable spans, resolved as the port grants them now. For
   * a completion that comes long after its chain was taken. False: the port refused, and `broken` is set, or it does not
   * know yet.
   */
  reresolve(addresses: Float64Array, lengths: Uint32Array, count: number, head: number, position: number): boolean {
    const chains = this.chains
    chains.rows = 0
    let segment = 0
    let writable = 0
    for (let i = 0; i < count; i++) {
      this.port.request[0] = addresses[i]
      segment = this.pieces(segment, lengths[i], this.port.resolve(lengths[i], WRITE_ACCESS), WRITE_ACCESS, head)
      if (segment < 0) return false
      writable += lengths[i]
    }
    chains.add(head, position, 0, 0, segment, 0, writable)
    return true
  }

  // Copies chains into rows: virtio 1.4 §2.7.5. Here only chains of one plain descriptor; whatever is longer, unusual
  // or wrong goes on in walk(), which decides. All state is local, since a field would be loaded again after each call
  // that is not inlined.
  private append(limit: number): number {
    this.extra = 0
    if (this.broken !== null || this.available === this.next) return 0
    const extra = this.copies
    this.extra = extra
    this.copies = 0
    const { chains, driver, port, size, table } = this
    // Code that the device called since the last chain may have grown a memory.
    if (driver.u16.length === 0 || port.region.u8.length === 0) port.refresh()
    if (table.u32.length === 0) table.refresh()
    const ready = (this.available - this.next) & 0xffff
    const count = ready < limit ? ready : limit
    const mask = size - 1
    const ring = driver.u16
    const ringHalf = this.driverHalf + 2
    const words = table.u32
    const base = this.tableWord
    const { request, window } = port
    const peeked = this.peeked
    const held = this.heldWritten
    const { bytes, columns } = chains
    let { lengths, spans, regions, segments: segment } = chains
    // The port's last window: what lies in it needs no call.
    let windowBase = window[0]
    let windowLength = window[1]
    let windowOffset = window[2]
    let windowAccess = window[3] | 0
    let region = port.region
    let row = chains.rows
    let next = this.next
    let taken = 0
    for (; taken < count; taken++) {
      const known = next === this.peekedAt
      const head = known ? peeked[0] : ring[ringHalf + (next & mask)]
      if (head >= size) {
        this.fail('head', head, head, size)
        break
      }
      const word = base + (head << 2)
      const low = known ? peeked[1] : words[word]
      const high = known ? peeked[2] : words[word + 1]
      const length = known ? peeked[3] : words[word + 2]
      const flagsAndNext = known ? peeked[4] : words[word + 3]
      let granted = NOT_ASKED
      if (
        (flagsAndNext & NEXT_OR_INDIRECT) === 0 &&
        length !== 0 &&
        length < BYTES &&
        high < HIGH_LIMIT &&
        segment < lengths.length
      ) {
        const writes = (flagsAndNext & F_WRITE) !== 0
        const access = writes ? 2 : 1
        const address = high * TWO_32 + low
        let into = address - windowBase
        if (into >= 0 && into + length <= windowLength && (windowAccess & access) !== 0) granted = length
        else {
          request[0] = address
          granted = port.resolve(length, access)
          windowBase = window[0]
          windowLength = window[1]
          windowOffset = window[2]
          windowAccess = window[3] | 0
          region = port.region
          into = address - windowBase
        }
        if (granted === length) {
          // Comparing costs less than the store's write barrier.
          if (regions[segment] !== region) regions[segment] = region
          lengths[segment] = length
          spans[segment * 2] = windowLength === 0 ? port.offset : windowOffset + into
          spans[segment * 2 + 1] = address
          const at = row * STRIDE
          columns[at + HEAD] = (next << 16) | head
          columns[at + FIRST] = segment
          // One segment: its length says how many bytes there are.
          columns[at + WRITE] = writes ? ALL_WRITABLE : ALL_READABLE
          if (held.length !== 0) held[next & mask] = -1
          segment++
          row++
          next = (next + 1) & 0xffff
          continue
        }
      }
      peeked[SECOND] = NO_SECOND
      // A request and its answer: two descriptors, both in the window.
      if ((flagsAndNext & (NEXT_OR_INDIRECT | F_WRITE)) === F_NEXT && segment + 1 < lengths.length) {
        const index = flagsAndNext >>> 16
        const second = base + (index << 2)
        const into = high * TWO_32 + low - windowBase
        const both = index < size && length !== 0 && high < HIGH_LIMIT && windowAccess === 3
        const low2 = both ? words[second] : 0
        const high2 = both ? words[second + 1] : HIGH_LIMIT
        const size2 = both ? words[second + 2] : 0
        const flags2 = both ? words[second + 3] : 0
        const address2 = high2 * TWO_32 + low2
        const into2 = address2 - windowBase
        if (both) {
          // Loaded once: if this is no such pair, walk() goes on with them.
          peeked[SECOND] = index
          peeked[SECOND + 1] = low2
          peeked[SECOND + 2] = high2
          peeked[SECOND + 3] = size2
          peeked[SECOND + 4] = flags2
        }
        if (
          (flags2 & (NEXT_OR_INDIRECT | F_WRITE)) === F_WRITE &&
          size2 !== 0 &&
          high2 < HIGH_LIMIT &&
          into >= 0 &&
          into + length <= windowLength &&
          into2 >= 0 &&
          into2 + size2 <= windowLength &&
          length + size2 < BYTES
        ) {
          if (regions[segment] !== region) regions[segment] = region
          if (regions[segment + 1] !== region) regions[segment + 1] = region
          lengths[segment] = length
          lengths[segment + 1] = size2
          spans[segment * 2] = windowOffset + into
          spans[segment * 2 + 1] = high * TWO_32 + low
          spans[segment * 2 + 2] = windowOffset + into2
          spans[segment * 2 + 3] = address2
          const at = row * STRIDE
          columns[at + HEAD] = (next << 16) | head
          columns[at + FIRST] = segment
          columns[at + WRITE] = segment + 1
          bytes[row * 2] = length
          bytes[row * 2 + 1] = size2
          if (held.length !== 0) held[next & mask] = -1
          if (table.meter !== null) table.meter.load(4, 4)
          segment += 2
          row++
          next = (next + 1) & 0xffff
          continue
        }
      }
      chains.rows = row
      chains.segments = segment
      if (!this.walk(head, next, low, high, length, flagsAndNext, granted)) break
      ;({ lengths, spans, regions, segments: segment } = chains)
      windowBase = window[0]
      windowLength = window[1]
      windowOffset = window[2]
      windowAccess = window[3] | 0
      region = port.region
      row = chains.rows
      if (held.length !== 0) held[next & mask] = -1
      next = (next + 1) & 0xffff
      if (this.extra !== extra) {
        taken++
        break
      }
    }
    this.next = next
    this.peekedAt = -1
    chains.rows = row
    chains.segments = segment
    if (driver.meter !== null) driver.meter.load(2, taken)
    if (table.meter !== null) table.meter.load(4, 4 * taken)
    return taken
  }

  // A chain in full generality (virtio 1.4 §2.7.5.3), from its first descriptor on, which was loaded already. `granted`
  // is what the port gave for it, if it was asked. Appends a row and returns true. False: `broken` is set, or the port
  // does not know yet.
  private walk(
    head: number,
    position: number,
    low: number,
    high: number,
    length: number,
    flagsAndNext: number,
    granted: number,
  ): boolean {
    const { chains, peeked, port, size } = this
    const first = chains.segments
    let segment = first
    let index = head
    let elements = 1
    let total = 0
    let readable = 0
    let writeFrom = -1
    let table = this.table
    let base = this.tableWord
    let unaligned = -1
    let entries = size
    let inTable = false
    let copied = 0
    for (;;) {
      if ((flagsAndNext & F_INDIRECT) !== 0) {
        if (inTable) return this.reject('indirect-nested', head, index, 0)
        if (!this.indirect) return this.reject('indirect-feature', head, index, 0)
        if ((flagsAndNext & F_NEXT) !== 0) return this.reject('indirect-next', head, index, 0)
        if (length === 0 || (length & 15) !== 0 || length > MAX_INDIRECT_BYTES) {
          return this.reject('indirect-length', head, length, MAX_INDIRECT_BYTES)
        }
        // The WRITE flag of this descriptor is ignored (§2.7.5.3.2). The spec aligns no indirect table.
        const area = this.indirectArea
        if (!area.resolve(port, low, high, length, READ_ACCESS)) {
          this.refused('indirect-unreachable', head, length)
          return false
        }
        if (area.scattered) {
          area.pull()
          copied = length / DESCRIPTOR_SIZE
        }
        const { offset } = area
        table = area.region
        unaligned = (offset & 3) === 0 ? -1 : offset
        base = integer(offset / 4)
        entries = length / DESCRIPTOR_SIZE
        index = 0
        inTable = true
        // It refers to the elements and is none itself.
        elements--
      } else {
        if (elements > size) return this.reject('chain-length', head, elements, size)
        if (total + length > MAX_CHAIN_BYTES) return this.reject('chain-bytes', head, total + length, MAX_CHAIN_BYTES)
        let access: 1 | 2 = READ_ACCESS
        if ((flagsAndNext & F_WRITE) !== 0) {
          access = WRITE_ACCESS
          if (writeFrom < 0) {
            writeFrom = segment
            readable = total
          }
        } else if (writeFrom >= 0) return this.reject('order', head, index, 0)
        total += length
        if (length !== 0) {
          if (high >= HIGH_LIMIT) {
            port.outOfReach?.(high, low, length, access)
            return this.reject('buffer-unreachable', head, index, 0)
          }
          if (granted === NOT_ASKED) {
            port.request[0] = high * TWO_32 + low
            granted = port.resolve(length, access)
          }
          segment = this.pieces(segment, length, granted, access, head)
          if (segment < 0) return false
        }
        if ((flagsAndNext & F_NEXT) === 0) break
        index = flagsAndNext >>> 16
        if (index >= entries) return this.reject('next', head, index, entries)
      }
      granted = NOT_ASKED
      elements++
      if (elements === 2 && !inTable && peeked[SECOND] === index) {
        peeked[SECOND] = NO_SECOND
        low = peeked[SECOND + 1]
        high = peeked[SECOND + 2]
        length = peeked[SECOND + 3]
        flagsAndNext = peeked[SECOND + 4]
      } else if (unaligned < 0) {
        const words = table.u32
        const word = base + (index << 2)
        low = words[word]
        high = words[word + 1]
        length = words[word + 2]
        flagsAndNext = words[word + 3]
      } else {
        const view = table.view
        const at = unaligned + DESCRIPTOR_SIZE * index
        low = view.getUint32(at, true)
        high = view.getUint32(at + 4, true)
        length = view.getUint32(at + 8, true)
        flagsAndNext = view.getUint32(at + 12, true)
      }
      if (table.meter !== null) table.meter.load(4, 4)
    }
    this.extra += ((elements + copied + segment - first) / STEPS + total / BYTES) | 0
    if (writeFrom < 0) chains.add(head, position, first, segment, segment, total, 0)
    else chains.add(head, position, first, writeFrom, segment, readable, total - readable)
    return true
  }

  private reject(reason: QueueFaultReason, head: number, value: number, limit: number): false {
    this.fail(reason, head, value, limit)
    return false
  }

  // A buffer that the port grants in several pieces, or that needs more room. `request[0]` and `granted` stand at its
  // beginning.
  private pieces(segment: number, length: number, granted: number, access: 1 | 2, head: number): number {
    const { chains, port } = this
    for (;;) {
      if (granted <= 0) return this.refused('buffer-unreachable', head, length)
      if (segment >= chains.lengths.length && !chains.grow()) return this.fail('segments', head, segment, segment)
      chains.regions[segment] = port.region
      chains.lengths[segment] = granted
      chains.spans[segment * 2] = port.offset
      chains.spans[segment * 2 + 1] = port.request[0]
      segment++
      length -= granted
      if (length <= 0) return segment
      port.request[0] += granted
      granted = port.resolve(length, access)
    }
  }

  private area(
    area: RingArea,
    low: number,
    high: number,
    bytes: number,
    align: number,
    needs: number,
    access: 1 | 2,
  ): boolean {
    if (low % align !== 0) this.fail('ring-alignment', -1, low, align)
    else if (!area.resolve(this.port, low, high, bytes, access)) this.refused('ring-unreachable', -1, bytes)
    else if (area.offset % needs !== 0) this.fail('ring-alignment', -1, area.offset, needs)
    else return true
    return false
  }

  private reportUsed(from: number, to: number): void {
    this.usedElements(from, to, true)
    this.deviceArea.report(USED_INDEX, 2)
  }

  // Reports elements `from` to `to` - 1 of the used ring, or writes them to the pieces that it is in: one span or two.
  private usedElements(from: number, to: number, report: boolean): void {
    const { deviceArea, size } = this
    const first = from & (size - 1)
    const count = (to - from) & 0xffff
    const straight = Math.min(count, size - first)
    if (report) deviceArea.report(USED_RING + 8 * first, 8 * straight)
    else deviceArea.push(USED_RING + 8 * first, 8 * straight)
    if (count === straight) return
    if (report) deviceArea.report(USED_RING, 8 * (count - straight))
    else deviceArea.push(USED_RING, 8 * (count - straight))
  }
}

// An element index as an integer for the engine too, not as the double that its computation gave. Beyond 2^31 it has to
// stay one.
function integer(value: number): number {
  return value <= 0x7fffffff ? value | 0 : value
}
