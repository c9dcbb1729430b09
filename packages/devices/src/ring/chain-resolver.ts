import { ACCESS_READ, ACCESS_WRITE, ADDRESS_HIGH_LIMIT, type BusPort, copy, Region } from '@guestdma/memory'
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_SIZE,
  MAX_CHAIN_BYTES,
} from '@guestdma/spec'
import type { QueueFaultReason } from '../faults/faults.ts'
import {
  type ChainTable,
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
import type { DeviceRing, RingSetup } from './device-ring.ts'
import { isReachable, RingArea, type RingOwner } from './ring-area.ts'
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
// Words of `seen`: where the window begins, as halves; its last byte, counted from there, or -1; its access kinds; and
// where it is in its region, as halves.
const SEEN_LOW = 0
const SEEN_HIGH = 1
const SEEN_TOP = 2
const SEEN_ACCESS = 3
const SEEN_OFFSET = 4

/** In place of what a port grants: it was not asked yet. */
const UNASKED = -1

/** `next` has 16 bits, so a longer indirect table holds entries that nothing can name. */
const MAX_INDIRECT_BYTES = 65536 * DESCRIPTOR_SIZE

/**
 * Checks the chains that a ring format loaded, and resolves their buffers through the port: what a device reads and
 * writes (virtio 1.4 §2.7.4, §2.7.5, §2.8.5 to §2.8.8). What breaks a rule breaks the queue.
 */
export class ChainResolver {
  /** See `RingWalker.extra`: whoever asks sets it before. */
  extra = 0
  declare private readonly owner: RingOwner
  declare private readonly port: BusPort
  declare private readonly chains: ChainTable
  declare private ring: DeviceRing
  private size = 1
  private indirect = false
  // Chains of the same batch stand before the one that is looked at.
  private behind = false
  // What lies in a window that the port showed needs no call: where it is, and in which region.
  private readonly seen = new Int32Array(6)
  declare private seenRegion: Region
  // An indirect table that is looked at: where it is, and a copy of one that is not aligned.
  declare private readonly tableArea: RingArea
  declare private aligned: Region

  constructor(owner: RingOwner, chains: ChainTable) {
    const nowhere = new Region(new ArrayBuffer(0), 'no table')
    this.owner = owner
    this.port = owner.port
    this.chains = chains
    this.tableArea = new RingArea(nowhere)
    this.seenRegion = this.aligned = nowhere
  }

  start(ring: DeviceRing, { indirect, size }: RingSetup): void {
    this.ring = ring
    this.indirect = indirect
    this.size = size
  }

  /**
   * Resolves `count` rows of the table's columns from row `from` on, and ends behind one that is worth several chains
   * ({@link extra}). Returns how many it could: before a row that the port does not know yet, or that broke the queue.
   */
  resolve(from: number, count: number): number {
    const { chains, extra } = this
    const { columns } = chains
    const { seen } = this
    let taken = 0
    this.look()
    // The inner loop takes chains of one plain descriptor that lies where the last one did. It calls nothing: the engine
    // then keeps what it knows of the arrays.
    for (;;) {
      const { regions, words } = chains
      const windowLow = seen[SEEN_LOW]
      const windowHigh = seen[SEEN_HIGH]
      const windowTop = seen[SEEN_TOP]
      const windowAccess = seen[SEEN_ACCESS]
      const offsetLow = seen[SEEN_OFFSET]
      const offsetHigh = seen[SEEN_OFFSET + 1]
      const region = this.seenRegion
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
      if (taken === count) break
      const { segments } = chains
      this.behind = taken > 0
      const resolved = this.other(from + taken)
      this.behind = false
      if (!resolved) {
        chains.unclaim(segments)
        break
      }
      taken++
      if (this.extra !== extra) break
    }
    return taken
  }

  // Any other chain. False: `broken` is set, or the port does not know yet.
  private other(row: number): boolean {
    const { columns, words } = this.chains
    const at = row * STRIDE
    const segment = columns[at + FETCHED]
    const k = segment * DESCRIPTOR
    const high = words[k + 1]
    const length = words[k + LENGTH]
    const flags = words[k + FLAGS]
    if ((flags & NEXT_OR_INDIRECT) !== 0 || length <= 0 || length >= BYTES || high < 0 || high >= HIGH_LIMIT)
      return this.chain(row, UNASKED)
    const granted = this.locate(segment, (1 + ((flags & F_WRITE) >> 1)) as 1 | 2)
    if (granted !== length) return this.chain(row, granted)
    columns[at + WRITE] = (flags & F_WRITE) === 0 ? ALL_READABLE : ALL_WRITABLE
    return true
  }

  // Finds out where the buffer of a descriptor is, which becomes a segment where it stands if it is granted in one piece.
  // Returns how many bytes are. Where those are not all of them, the port stands at the buffer's beginning.
  private locate(segment: number, access: 1 | 2): number {
    const { chains, port, seen } = this
    const { regions, words } = chains
    const k = segment * DESCRIPTOR
    const low = words[k]
    const high = words[k + 1]
    const length = words[k + LENGTH]
    const into = (low - seen[SEEN_LOW]) | 0
    const top = seen[SEEN_TOP]
    if (
      into >= 0 &&
      into <= top &&
      length > 0 &&
      length <= ((top - into + 1) | 0) &&
      high === ((seen[SEEN_HIGH] + (low >>> 0 < seen[SEEN_LOW] >>> 0 ? 1 : 0)) | 0) &&
      (seen[SEEN_ACCESS] & access) !== 0
    ) {
      const offset = (seen[SEEN_OFFSET] + into) | 0
      words[k + OFFSET] = offset
      words[k + OFFSET + 1] = seen[SEEN_OFFSET + 1] + (offset >>> 0 < seen[SEEN_OFFSET] >>> 0 ? 1 : 0)
      if (regions[segment] !== this.seenRegion) regions[segment] = this.seenRegion
      return length
    }
    port.request[0] = (high >>> 0) * TWO_32 + (low >>> 0)
    const granted = port.resolve(length >>> 0, access)
    // A window of a page or less is not worth it: the next buffer lies in another one.
    if (port.window[1] > PAGE) this.look()
    if (granted === length >>> 0) chains.place(segment, port)
    return granted
  }

  // Remembers the port's last window. As halves, since integers are compared faster than doubles: of a
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
    this.seenRegion = port.region
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
    // Where the next segment goes: where its descriptor is, for as long as each of them is one. Then behind all others,
    // and so behind all descriptors: it equals `k` no more.
    let segment = k
    let total = 0
    let readable = 0
    let readableSegments = -1
    let copied = 0
    let elements = 0
    let table = -1
    let flags = F_NEXT
    for (; (flags & F_NEXT) !== 0; k++) {
      const at = k * DESCRIPTOR
      const { words } = chains
      const low = words[at] >>> 0
      const high = words[at + 1] >>> 0
      const length = words[at + LENGTH] >>> 0
      flags = words[at + FLAGS]
      if ((flags & F_INDIRECT) !== 0) {
        if (table >= 0) return this.reject('indirect-nested', head, elements, 0)
        if (!this.indirect) return this.reject('indirect-feature', head, elements, 0)
        if ((flags & F_NEXT) !== 0) return this.reject('indirect-next', head, elements, 0)
        if (length === 0 || (length & 15) !== 0 || length > MAX_INDIRECT_BYTES) {
          return this.reject('indirect-length', head, length, MAX_INDIRECT_BYTES)
        }
        // The WRITE flag of this descriptor is ignored (§2.7.5.3.2).
        const area = this.tableArea
        port.request[0] = high * TWO_32 + low
        if (!isReachable(port, low, high, length, READ_ACCESS) || !area.resolve(port, length, READ_ACCESS)) {
          this.owner.refused('indirect-unreachable', head, length)
          return false
        }
        if (area.scattered) {
          area.pull()
          copied = length / DESCRIPTOR_SIZE
        }
        this.align(area, length)
        const entries = this.ring.fetchTable(area, length / DESCRIPTOR_SIZE, head, chains)
        if (entries < 0) return false
        table = chains.claim(entries)
        if (segment === first) first = segment = table
        else {
          first = chains.move(first, segment)
          segment = chains.segments
        }
        k = table - 1
        flags = F_NEXT
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
      if (length > 0 && !isReachable(port, low, high, length, access))
        return this.reject('buffer-unreachable', head, elements - 1, 0)
      const granted = length === 0 ? 0 : known !== UNASKED && elements === 1 ? known : this.locate(k, access)
      if (granted === length && length > 0) {
        if (segment === k) segment++
        else {
          chains.move(k, k + 1)
          segment = chains.segments
        }
        continue
      }
      if (segment === k) first = chains.move(first, segment)
      if (length > 0 && !this.pieces(length, granted, access, head)) {
        if (port.pending === true) this.askFor(k, flags)
        return false
      }
      segment = chains.segments
    }
    // Of a table whose entries are no segments nothing is kept.
    if (table >= 0 && first > table) {
      chains.drop(table, first)
      segment -= first - table
      first = table
    }
    if (chains.extra > MAX_SEGMENTS) return this.overflow(head)
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
    while ((flags & NEXT_OR_INDIRECT) === F_NEXT) {
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
    if ((area.offset & 3) === 0) {
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

  // A chain that has no room behind others is taken alone the next time.
  private overflow(head: number): false {
    return this.behind ? false : this.reject('segments', head, this.chains.extra, MAX_SEGMENTS)
  }

  private reject(reason: QueueFaultReason, head: number, value: number, limit: number): false {
    this.owner.fail(reason, head, value, limit)
    return false
  }

  /**
   * Puts a buffer down behind all other segments, in as many pieces as the port grants; the first `granted` bytes of it
   * are known, at the port's `request[0]`. False: as {@link resolve}.
   */
  pieces(length: number, granted: number, access: 1 | 2, head: number): boolean {
    const { chains, port } = this
    for (;;) {
      if (granted <= 0) {
        this.owner.refused('buffer-unreachable', head, length)
        return false
      }
      if (chains.extra >= MAX_SEGMENTS) return this.overflow(head)
      chains.put(port, granted)
      length -= granted
      if (length <= 0) return true
      port.request[0] += granted
      granted = port.resolve(length, access)
    }
  }
}
