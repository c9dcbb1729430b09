import { ACCESS_READ, ACCESS_WRITE, ADDRESS_HIGH_LIMIT, type BusPort, copy, Region } from '@guestdma/memory'
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_SIZE,
  MAX_CHAIN_BYTES,
  MAX_QUEUE_SIZE,
} from '@guestdma/spec'
import type { QueueFaultReason } from '../faults/faults.ts'
import {
  ChainTable,
  MAX_SEGMENTS,
  ONE_READABLE,
  ONE_WRITABLE,
  ROW,
  ROW_FETCHED,
  ROW_ID,
  ROW_WRITE,
  SEGMENT,
  SEGMENT_FLAGS,
  SEGMENT_LENGTH,
  SEGMENT_OFFSET,
} from './chain-table.ts'
import type { DeviceRing, DeviceRingFormats, RingPosition, RingSetup } from './device-ring.ts'
import { PackedDeviceRing } from './packed.ts'
import { RingArea, type RingOwner } from './ring-area.ts'
import { SplitDeviceRing } from './split.ts'
import { CHAIN_BYTES, CHAIN_STEPS } from './work.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const STRIDE = ROW
const ID = ROW_ID
const FETCHED = ROW_FETCHED
const WRITE = ROW_WRITE
const DESCRIPTOR = SEGMENT
const LENGTH = SEGMENT_LENGTH
const FLAGS = SEGMENT_FLAGS
const OFFSET = SEGMENT_OFFSET
const ALL_READABLE = ONE_READABLE
const ALL_WRITABLE = ONE_WRITABLE
const READ_ACCESS = ACCESS_READ
const WRITE_ACCESS = ACCESS_WRITE
const F_NEXT = DESCRIPTOR_F_NEXT
const F_WRITE = DESCRIPTOR_F_WRITE
const F_INDIRECT = DESCRIPTOR_F_INDIRECT
const NEXT_OR_INDIRECT = F_NEXT | F_INDIRECT
const HIGH_LIMIT = ADDRESS_HIGH_LIMIT
const STEPS = CHAIN_STEPS
const BYTES = CHAIN_BYTES
const TWO_32 = 2 ** 32
// Multiplying by this moves the high half of an address down; it is exact, and cheaper than a division.
const HIGH_HALF = 2 ** -32
const GIB = 2 ** 30
const PAGE = 4096
// Words of `seen`: where the window begins, as halves; its last byte, counted from there, or -1; its access kinds.
const SEEN_LOW = 0
const SEEN_HIGH = 1
const SEEN_TOP = 2
const SEEN_ACCESS = 3
// Where it is in its region, as halves.
const SEEN_OFFSET = 4

/** In place of what a port grants: it was not asked yet. */
const UNASKED = -1

/** What `take` returns when there is no chain: none available, or the queue is broken. */
export const NO_CHAIN = -1

/** `next` has 16 bits, so a longer indirect table holds entries that nothing can name. */
const MAX_INDIRECT_BYTES = 65536 * DESCRIPTOR_SIZE

/**
 * The device's side of one virtqueue of either format (virtio 1.4 §2.6): takes available chains, pushes used ones.
 *
 * Nothing in the ring is trusted. A format loads each shared word once and puts chains down in private words; here each
 * buffer is resolved through the port before `take` returns, so a device acts on a whole chain or on none. What is
 * malformed sets `broken`: from then on nothing is taken, and only what was pushed before is still published. Nothing
 * here throws, and every loop is bounded by the queue size.
 *
 * A zero-length element is legal (§2.7 forbids none, and §2.7.4.1 forbids assumptions about framing): it counts towards
 * the chain's length, its address is not looked at, and it yields no segment.
 *
 * Use: `update`, then `take` and `push` until `NO_CHAIN`, then `flushAndRearm`, and again where there is {@link more}.
 */
export class RingWalker implements RingOwner {
  declare readonly chains: ChainTable
  declare readonly port: BusPort
  /**
   * Of the last `take`, `takeMore` or `takeBatch`: how many chains more than it returned the work was worth, by
   * {@link CHAIN_STEPS} and {@link CHAIN_BYTES}. A batch ends with the first chain that is worth several. Copies of a
   * ring in pieces count with the first chain that is taken after them.
   */
  extra = 0
  broken: QueueFaultReason | null = null
  /** With `broken`: the head of the chain at fault or -1, the offending number, and its bound. */
  brokenHead = -1
  brokenValue = 0
  brokenLimit = 0

  declare private readonly split: DeviceRing
  declare private readonly packed: DeviceRing
  declare private ring: DeviceRing
  // An indirect table that is looked at: where it is, and a copy of one that is not aligned.
  declare private readonly tableArea: RingArea
  declare private aligned: Region
  private readonly seen = new Int32Array(6)
  private size = 1
  private indirect = false
  private inOrder = false
  private paused = false
  // In order: number of the next chain to complete, modulo 2^16.
  private completed = 0
  // In order: completions by number, held until all earlier ones came. -1: still outstanding.
  private heldWritten = new Float64Array(0)
  private heldHead = new Int32Array(0)
  private heldMask = 0

  /** `formats`: who brings a ring format of its own. */
  constructor(maxSize: number, port: BusPort, formats: Partial<DeviceRingFormats> = {}) {
    const nowhere = new Region(new ArrayBuffer(0), 'no ring')
    this.port = port
    this.chains = new ChainTable(maxSize, nowhere)
    this.split = formats.split?.(this) ?? new SplitDeviceRing(this)
    this.packed = formats.packed?.(this) ?? new PackedDeviceRing(this)
    this.ring = this.split
    this.tableArea = new RingArea(nowhere)
    this.aligned = nowhere
  }

  /** A queue that was just enabled (virtio 1.4 §2.6.1). False: `broken` says why, or the port does not know yet. */
  start(setup: RingSetup, maxSize: number): boolean {
    const { inOrder, packed, size } = setup
    this.broken = null
    this.paused = false
    this.completed = 0
    this.ring = packed ? this.packed : this.split
    this.chains.clear()
    if (size < 1 || size > maxSize || size > MAX_QUEUE_SIZE) {
      this.fail('queue-size', -1, size, maxSize)
      return false
    }
    if (!this.ring.start(setup)) return false
    this.size = size
    this.indirect = setup.indirect
    this.inOrder = inOrder
    let places = 1
    while (places < size) places *= 2
    this.heldMask = places - 1
    this.heldHead = new Int32Array(inOrder ? places : 0)
    this.heldWritten = new Float64Array(inOrder ? places : 0).fill(-1)
    return this.attach(setup)
  }

  /** A queue that was reset or disabled: nothing is left to take or to publish. */
  stop(): void {
    this.chains.clear()
    this.ring.stop()
  }

  /** Takes nothing more, whatever the driver makes available, until the next `start`. */
  pause(): void {
    this.paused = true
    this.giveBack()
  }

  /**
   * Resolves the three areas; again whenever the port's epoch changed. False: `broken` says why, or the port does not
   * know yet, and nothing may be asked of the ring before this is called again.
   */
  attach(setup: RingSetup): boolean {
    return this.ring.attach(setup)
  }

  /** Where the used side stands in memory: where an earlier server of the queue left it. */
  get storedUsed(): number {
    return this.ring.storedUsed
  }

  /** Chains that were marked used and that no `flush` published yet. */
  get unpublished(): number {
    return this.ring.unpublished
  }

  /** Chains that are known of and not taken yet. */
  get ready(): number {
    const { next, to } = this.chains
    return this.paused ? 0 : to - next + this.ring.ready
  }

  /** Looks, once, whether the driver made chains available. Returns how many can be taken. */
  update(): number {
    if (this.broken !== null || this.paused) return 0
    const { next, to } = this.chains
    return to - next + this.ring.update()
  }

  /** Forgets the rows of `chains` and takes the next chain into row 0. Returns 0 or {@link NO_CHAIN}. */
  take(): number {
    return this.takeBatch(1) === 1 ? 0 : NO_CHAIN
  }

  /** Forgets the rows of `chains` and takes up to `limit` chains into rows 0 and up. Returns how many. */
  takeBatch(limit: number): number {
    // What was taken before can be given back no more.
    this.chains.forget()
    return this.append(limit)
  }

  /** Takes the next chain into a further row and returns it, or {@link NO_CHAIN}. */
  takeMore(): number {
    return this.append(1) === 1 ? this.chains.next - 1 - this.chains.row0 : NO_CHAIN
  }

  /** Gives the last `rows` chains back, untouched: the next `take` finds them again. */
  untake(rows: number): void {
    this.chains.next -= rows
  }

  /**
   * Marks a chain used, in memory but not yet for the driver to see. `written` counts from the first device-writable
   * byte on. `whole`: all of the writable part was written, or there is none; only such an element may be left out of
   * an in-order batch.
   */
  push(head: number, written: number, whole: boolean): void {
    this.ring.push(head, written, whole)
  }

  /** As many calls of `push`: for rows `first` and up, of which `written[0]` bytes and up were written. */
  pushRows(first: number, count: number, written: Int32Array): void {
    this.ring.pushRows(this.chains, first, count, written)
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
    const { chains, heldHead, heldMask, heldWritten } = this
    const next = chains.numberOf(chains.next)
    heldHead[position & heldMask] = head
    heldWritten[position & heldMask] = written
    while (this.completed !== next) {
      const place = this.completed & heldMask
      if (heldWritten[place] < 0) return
      this.push(heldHead[place], heldWritten[place], false)
      heldWritten[place] = -1
      this.completed = (this.completed + 1) & 0xffff
    }
  }

  /** Publishes what was pushed. Returns whether the driver wants a notification (§2.7.7.2, §2.8.22). */
  flush(): boolean {
    return this.ring.flush()
  }

  /**
   * Before waiting: asks for a notification at the next chain that becomes available (§2.7.10). Returns whether one
   * came in the meantime.
   */
  rearm(): boolean {
    return this.broken === null && this.ring.rearm() && !this.paused
  }

  /**
   * {@link flush} and {@link rearm}, with one barrier for both where the format can, for a device that has taken all
   * there is. Returns what `flush` does; {@link more} holds what `rearm` returns.
   */
  flushAndRearm(): boolean {
    return this.broken === null ? this.ring.flushAndRearm() : this.ring.flush()
  }

  /** Of the last {@link flushAndRearm}: chains came in the meantime. */
  get more(): boolean {
    return this.broken === null && !this.paused && this.ring.more && this.chains.next === this.chains.to
  }

  /** Where the queue stands; nothing may be outstanding except what only waits for `flush`. */
  save(): RingPosition {
    this.giveBack()
    return this.ring.save()
  }

  /** Continues where `save` stood; after `start`. */
  restore(position: RingPosition): void {
    this.ring.restore(position)
  }

  /** Breaks the queue, also from outside for what only the device type can judge. Returns {@link NO_CHAIN}. */
  fail(reason: QueueFaultReason, head: number, value: number, limit: number): number {
    if (this.broken === null) {
      this.broken = reason
      this.brokenHead = head
      this.brokenValue = value
      this.brokenLimit = limit
    }
    return NO_CHAIN
  }

  /** For the format. */
  refused(reason: QueueFaultReason, head: number, length: number): number {
    // Where the port does not know yet, that is no fault: the chain stays where it is.
    return this.port.pending === true ? NO_CHAIN : this.fail(reason, head, length, 0)
  }

  /**
   * Replaces all rows by one that consists of `count` device-writable spans, resolved as the port grants them now. For
   * a completion that comes long after its chain was taken; the row has no position. False: the port refused, and
   * `broken` is set, or it does not know yet.
   */
  reresolve(addresses: Float64Array, lengths: Uint32Array, count: number, head: number): boolean {
    const { chains, port } = this
    chains.forget()
    const row = chains.to
    const first = chains.segments
    let writable = 0
    for (let i = 0; i < count; i++) {
      port.request[0] = addresses[i]
      if (!this.pieces(first, lengths[i], port.resolve(lengths[i], WRITE_ACCESS), WRITE_ACCESS, head)) return false
      writable += lengths[i]
    }
    chains.row0 = row
    chains.columns[row * STRIDE + ID] = head
    chains.describe(row, first, first, chains.segments, 0, writable)
    return true
  }

  private giveBack(): void {
    this.ring.unfetch(this.chains)
    this.chains.to = this.chains.next
  }

  // Takes chains. The inner loop takes those of one plain descriptor that lies where the last one did, and calls nothing:
  // the engine then keeps what it knows of the arrays.
  private append(limit: number): number {
    this.extra = 0
    if (this.broken !== null || this.paused) return 0
    const { chains, port, ring } = this
    if (chains.next === chains.to && !this.load()) return 0
    // Code that the device called since the last chain may have grown a memory.
    if (port.region.u8.length === 0) port.refresh()
    const extra = ring.copies
    this.extra = extra
    ring.copies = 0
    const from = chains.next
    const ready = chains.to - from
    const count = ready < limit ? ready : limit
    const { columns } = chains
    const { seen } = this
    let taken = 0
    this.look()
    for (;;) {
      const { regions, words } = chains
      const windowLow = seen[SEEN_LOW]
      const windowHigh = seen[SEEN_HIGH]
      const windowTop = seen[SEEN_TOP]
      const windowAccess = seen[SEEN_ACCESS]
      const offsetLow = seen[SEEN_OFFSET]
      const offsetHigh = seen[SEEN_OFFSET + 1]
      const { region } = port
      for (; taken < count; taken++) {
        const at = (from + taken) * STRIDE
        const segment = columns[at + FETCHED]
        const k = segment * DESCRIPTOR
        const low = words[k]
        const high = words[(k + 1) | 0]
        const length = words[(k + LENGTH) | 0]
        const flags = words[(k + FLAGS) | 0]
        const into = (low - windowLow) | 0
        const access = 1 + ((flags & F_WRITE) >> 1)
        if (
          (flags & NEXT_OR_INDIRECT) !== 0 ||
          length <= 0 ||
          length >= BYTES ||
          into < 0 ||
          into > windowTop ||
          length > ((windowTop - into + 1) | 0) ||
          high !== ((windowHigh + (low >>> 0 < windowLow >>> 0 ? 1 : 0)) | 0) ||
          (windowAccess & access) === 0 ||
          regions[segment] !== region
        )
          break
        const offset = (offsetLow + into) | 0
        words[(k + OFFSET) | 0] = offset
        words[(k + OFFSET + 1) | 0] = (offsetHigh + (offset >>> 0 < offsetLow >>> 0 ? 1 : 0)) | 0
        columns[at + WRITE] = access === 2 ? ALL_WRITABLE : ALL_READABLE
      }
      if (taken === count || !this.other(from + taken)) break
      taken++
      if (this.extra !== extra) break
    }
    if (this.inOrder) {
      for (let i = 0; i < taken; i++) this.heldWritten[chains.numberOf(from + i) & this.heldMask] = -1
    }
    chains.next = from + taken
    return taken
  }

  private load(): boolean {
    const { chains, ring } = this
    // Many chains for one frame, of many descriptors each.
    if (chains.next > chains.row0 && chains.segments >= MAX_SEGMENTS)
      return this.reject('segments', -1, chains.segments, MAX_SEGMENTS)
    return ring.fetch(chains, chains.room) > 0
  }

  // Any other chain. False: `broken` is set, or the port does not know yet.
  private other(row: number): boolean {
    const { chains, port } = this
    const segment = chains.columns[row * STRIDE + FETCHED]
    const k = segment * DESCRIPTOR
    const high = chains.words[k + 1]
    const length = chains.words[k + LENGTH]
    const flags = chains.words[k + FLAGS]
    if ((flags & NEXT_OR_INDIRECT) !== 0 || length <= 0 || length >= BYTES || high < 0 || high >= HIGH_LIMIT)
      return this.chain(row, UNASKED)
    port.request[0] = high * TWO_32 + (chains.words[k] >>> 0)
    const granted = port.resolve(length, (1 + ((flags & F_WRITE) >> 1)) as 1 | 2)
    // A window of a page or less is not worth it: the next buffer lies in another one.
    if (port.window[1] > PAGE) this.look()
    if (granted !== length) return this.chain(row, granted)
    chains.place(segment, port)
    chains.columns[row * STRIDE + WRITE] = (flags & F_WRITE) === 0 ? ALL_READABLE : ALL_WRITABLE
    return true
  }

  // What lies in the port's last window needs no call. As halves, since integers are compared faster than doubles: of a
  // large window that part which the address that was asked for lies in. (As an argument that would be an allocation.)
  private look(): void {
    const { port, seen } = this
    const { request, window } = port
    const address = request[0]
    let base = window[0]
    let length = window[1]
    let offset = window[2]
    if (length > GIB) {
      const skip = Math.max(0, address - (address % GIB) - base)
      base += skip
      offset += skip
      length = Math.min(length - skip, GIB)
    }
    seen[SEEN_LOW] = base | 0
    seen[SEEN_HIGH] = (base * HIGH_HALF) | 0
    seen[SEEN_TOP] = Math.max(length, 0) - 1
    seen[SEEN_ACCESS] = window[3]
    seen[SEEN_OFFSET] = offset | 0
    seen[SEEN_OFFSET + 1] = (offset * HIGH_HALF) | 0
  }

  // A chain in full generality (virtio 1.4 §2.7.5.3, §2.8.7). `known`: what the port grants of its first buffer, where it
  // was asked already. False: `broken` is set, or the port does not know yet.
  private chain(row: number, known: number): boolean {
    const { chains, port, size } = this
    const head = chains.columns[row * STRIDE + ID]
    let k = chains.columns[row * STRIDE + FETCHED]
    let first = k
    // Where the next segment goes: where its descriptor is, for as long as each of them is one.
    let segment = k
    let total = 0
    let readable = 0
    let readableSegments = -1
    let copied = 0
    let elements = 0
    let inTable = false
    let flags = F_NEXT
    for (; (flags & F_NEXT) !== 0; k++) {
      const at = k * DESCRIPTOR
      const { words } = chains
      const low = words[at] >>> 0
      const high = words[at + 1] >>> 0
      const length = words[at + LENGTH] >>> 0
      flags = words[at + FLAGS]
      if ((flags & F_INDIRECT) !== 0) {
        if (inTable) return this.reject('indirect-nested', head, elements, 0)
        if (!this.indirect) return this.reject('indirect-feature', head, elements, 0)
        if ((flags & F_NEXT) !== 0) return this.reject('indirect-next', head, elements, 0)
        if (length === 0 || (length & 15) !== 0 || length > MAX_INDIRECT_BYTES) {
          return this.reject('indirect-length', head, length, MAX_INDIRECT_BYTES)
        }
        // The WRITE flag of this descriptor is ignored (§2.7.5.3.2).
        const area = this.tableArea
        if (!area.resolve(port, low, high, length, READ_ACCESS)) {
          this.refused('indirect-unreachable', head, length)
          return false
        }
        if (area.scattered) {
          area.pull()
          copied = length / DESCRIPTOR_SIZE
        }
        this.align(area, length)
        const table = chains.segments
        const entries = this.ring.fetchTable(area, length / DESCRIPTOR_SIZE, head, chains)
        if (entries < 0) return false
        chains.segments += entries
        if (segment === first) first = segment = table
        else {
          first = chains.move(first, segment)
          segment = chains.segments
        }
        k = table - 1
        flags = F_NEXT
        inTable = true
        continue
      }
      // An indirect table counts by its elements.
      if (++elements > size) return this.reject('chain-length', head, elements, size)
      if (total + length > MAX_CHAIN_BYTES) return this.reject('chain-bytes', head, total + length, MAX_CHAIN_BYTES)
      let access: 1 | 2 = READ_ACCESS
      if ((flags & F_WRITE) !== 0) {
        access = WRITE_ACCESS
        if (readableSegments < 0) {
          readableSegments = segment - first
          readable = total
        }
      } else if (readableSegments >= 0) return this.reject('order', head, elements - 1, 0)
      total += length
      if (high >= HIGH_LIMIT && length > 0) {
        port.outOfReach?.(high, low, length, access)
        return this.reject('buffer-unreachable', head, elements - 1, 0)
      }
      port.request[0] = high * TWO_32 + low
      const ask = known === UNASKED || elements > 1
      const granted = length === 0 ? 0 : ask ? port.resolve(length, access) : known
      if (segment === k && granted === length && length > 0) {
        chains.place(segment, port)
        segment++
        continue
      }
      if (segment === k) first = chains.move(first, segment)
      if (length > 0 && !this.pieces(first, length, granted, access, head)) {
        if (this.broken === null) this.askFor(k, flags)
        return false
      }
      segment = chains.segments
    }
    const write = readableSegments < 0 ? segment : first + readableSegments
    if (readableSegments < 0) readable = total
    this.extra += ((elements + copied + segment - first) / STEPS + total / BYTES) | 0
    chains.describe(row, first, write, segment, readable, total - readable)
    return true
  }

  // The port does not know yet where a buffer is: it is asked for the rest of the chain as well, so that one answer does
  // not wait for the other. `flags`: those of descriptor k, which it does not know.
  private askFor(k: number, flags: number): void {
    const { chains, port } = this
    while ((flags & F_NEXT) !== 0) {
      k++
      const { words } = chains
      const at = k * DESCRIPTOR
      const high = words[at + 1] >>> 0
      const length = words[at + LENGTH] >>> 0
      flags = words[at + FLAGS]
      if (length === 0 || high >= HIGH_LIMIT) continue
      port.request[0] = high * TWO_32 + (words[at] >>> 0)
      // A table is read, whatever its WRITE flag says.
      port.resolve(length, (flags & (F_WRITE | F_INDIRECT)) === F_WRITE ? WRITE_ACCESS : READ_ACCESS)
    }
  }

  // The spec aligns no indirect table; a format loads aligned words.
  private align(area: RingArea, length: number): void {
    if (area.offset % 4 === 0) {
      if (area.region.u32.length === 0) area.region.refresh()
      return
    }
    if (this.aligned.length < length) {
      let bytes = 4096
      while (bytes < length) bytes *= 2
      this.aligned = new Region(new ArrayBuffer(bytes), 'copy of an indirect table')
    }
    if (area.region.u8.length === 0) area.region.refresh()
    copy(this.aligned, 0, area.region, area.offset, length)
    area.region = this.aligned
    area.offset = 0
  }

  private reject(reason: QueueFaultReason, head: number, value: number, limit: number): false {
    this.fail(reason, head, value, limit)
    return false
  }

  // Puts a buffer down behind all other segments, in as many pieces as the port grants; the first `granted` bytes of it
  // are known, at `request[0]`. `first`: where the chain's segments begin.
  private pieces(first: number, length: number, granted: number, access: 1 | 2, head: number): boolean {
    const { chains, port } = this
    for (;;) {
      if (granted <= 0) {
        this.refused('buffer-unreachable', head, length)
        return false
      }
      const count = chains.segments - first
      if (count >= MAX_SEGMENTS) return this.reject('segments', head, count, MAX_SEGMENTS)
      chains.put(port, granted)
      length -= granted
      if (length <= 0) return true
      port.request[0] += granted
      granted = port.resolve(length, access)
    }
  }
}
