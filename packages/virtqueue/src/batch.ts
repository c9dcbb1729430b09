import { DMA_OK, DMA_TOO_LONG, type DmaLimits, type DmaRegion, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_SIZE,
  MAX_CHAIN_BYTES,
  MAX_QUEUE_SIZE,
} from '@guestdma/spec'
import {
  CHAIN_INFO,
  CHAIN_MANY,
  CHAIN_MAPPED,
  CHAIN_POSTED,
  CHAIN_PREPARED,
  CHAIN_ROWS,
  CHAIN_TABLE,
  CHAIN_WRITABLE,
  type ChainAccount,
  COUNT_SHIFT,
  STATE_MASK,
  STATE_OUTSTANDING,
} from './account.ts'
import type { CellAreas } from './cells.ts'
import { type DescriptorList, type DriverRing, LISTED_FLAGS } from './driver-ring.ts'
import { VirtqueueError } from './errors.ts'
import type { GuardedBackend } from './guarded-backend.ts'
import { LINK, LINK_FLAGS, LINK_NEXT, type QueueRows } from './rows.ts'
import { QUEUE_FULL, SEGMENT_CELL, SEGMENT_GUEST, Segments } from './virtqueue.ts'
import { compact } from './words.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const OK = DMA_OK
const GUEST = SEGMENT_GUEST
const CELL = SEGMENT_CELL
const TO = TO_DEVICE
const FROM = FROM_DEVICE
const F_WRITE = DESCRIPTOR_F_WRITE
const F_NEXT = DESCRIPTOR_F_NEXT
const FLAGS = LISTED_FLAGS
const INFO = CHAIN_INFO
const POSTED = CHAIN_POSTED
const ROWS = CHAIN_ROWS
const TABLE = CHAIN_TABLE
const STATE = STATE_MASK
const OUTSTANDING = STATE_OUTSTANDING
const PREPARED = CHAIN_PREPARED
const MAPPED = CHAIN_MAPPED
const WRITABLE = CHAIN_WRITABLE
const MANY = CHAIN_MANY
const COUNT = COUNT_SHIFT
const ROW = LINK
const ROW_NEXT = LINK_NEXT
const ROW_FLAGS = LINK_FLAGS

/** Bytes posted are kept in 32 bits; a chain of exactly 2^32 writable bytes counts as one byte less. */
const MAX_POSTED = 0xffff_ffff

/** What a batch is made of. */
export interface BatchSetup {
  readonly name: string
  readonly size: number
  readonly limits: DmaLimits
  readonly account: ChainAccount
  readonly rows: QueueRows
  readonly cells: CellAreas
  readonly guarded: GuardedBackend
  readonly ring: DriverRing
  /** All indirect tables, and of how many descriptors on a chain goes into one. */
  readonly indirect: DmaRegion | null
  readonly indirectFrom: number
}

/**
 * The chains of a queue that were added and not published yet: their segments are mapped, their descriptors listed, and
 * they stand in the account. The ring knows of none. Then they are published together, or undone together.
 */
export class ChainBatch {
  declare readonly segments: Segments
  /** Descriptors of all chains, `descriptors` in number. */
  declare readonly listed: DescriptorList
  descriptors = 0
  /** Chains. */
  count = 0
  /** See `Virtqueue`. */
  declare readonly added: Uint16Array
  addStatus: number = OK
  declare readonly undoneId: Uint16Array

  declare private readonly name: string
  declare private readonly size: number
  declare private readonly limits: DmaLimits
  declare private readonly maxMappingLength: number
  declare private readonly account: ChainAccount
  declare private readonly rows: QueueRows
  declare private readonly cells: CellAreas
  declare private readonly guarded: GuardedBackend
  declare private readonly ring: DriverRing
  declare private readonly indirect: DmaRegion | null
  declare private readonly indirectWord: number
  declare private readonly indirectFrom: number
  // One chain's descriptors for an indirect table.
  declare private readonly tableListed: DescriptorList
  // Free rows that the chains took.
  private rowsTaken = 0

  constructor({ name, size, limits, account, rows, cells, guarded, ring, indirect, indirectFrom }: BatchSetup) {
    this.name = name
    this.size = size
    this.limits = limits
    this.maxMappingLength = limits.maxMappingLength
    this.account = account
    this.rows = rows
    this.cells = cells
    this.guarded = guarded
    this.ring = ring
    this.indirect = indirect
    this.indirectWord = compact(indirect === null ? 0 : indirect.offset / 4)
    this.indirectFrom = indirect === null ? MAX_QUEUE_SIZE + 1 : indirectFrom
    this.segments = new Segments(size)
    this.added = new Uint16Array(size)
    this.undoneId = new Uint16Array(size)
    this.listed = new Int32Array(size + 1)
    this.tableListed = new Int32Array(rows.tableCapacity + 1)
  }

  /** Forgets the chains: they were published, or withdrawn. */
  clear(): void {
    this.descriptors = this.count = this.rowsTaken = 0
  }

  /** Whether a chain is in the batch: the device cannot know of it then. */
  has(id: number): boolean {
    for (let k = 0; k < this.descriptors; k++) if ((this.listed[k] & 0xffff) === id) return true
    return false
  }

  /** Takes the one chain of the batch out of it, rows and all. Returns its descriptors. */
  takeOut(): DescriptorList {
    const list = this.listed.slice(0, this.descriptors)
    this.clear()
    return list
  }

  /** Adds a chain whose rows and descriptors were laid out before. */
  addLaidOut(id: number, list: DescriptorList): void {
    for (let i = 0; i < list.length; i++) this.listed[this.descriptors++] = list[i]
    this.enter(id, this.account.chains[4 * id + INFO] | OUTSTANDING)
  }

  /** A chain of the first `count` segments. */
  add(readable: number, count: number): number {
    const { cells, rows } = this
    const { freeAt, freeMask, freeRows, links, mappings: m } = rows
    const { address: addresses, kind: kinds, length: lengths } = this.segments
    const limit = this.maxMappingLength

    let needed = count
    let bytes = 0
    for (let i = 0; i < count; i++) {
      const length = lengths[i]
      if (length === 0) this.refuseEmpty(i)
      bytes += length
      if (length > limit && kinds[i] === GUEST) needed += Math.ceil(length / limit) - 1
    }
    if (count < 1) this.refuseEmpty(0)
    if (needed > this.size || bytes > MAX_CHAIN_BYTES) return DMA_TOO_LONG
    // More pieces than can ever be live at once: waiting would not help.
    if (needed > count && needed > this.limits.assuredMappings) return DMA_TOO_LONG
    const direct = needed < this.indirectFrom || needed > rows.tableCapacity || rows.freeTableCount === 0
    const taken = direct ? needed : 1
    if (rows.free < taken) return QUEUE_FULL

    const id = freeRows[freeAt]
    const table = direct ? -1 : rows.freeTables[rows.freeTableCount - 1]
    const listed = direct ? this.listed : this.tableListed
    const before = direct ? this.descriptors : 0
    const first = direct ? id : rows.firstOf(table)
    let posted = 0
    let row = first
    let k = 0
    for (let i = 0; i < count; i++) {
      const length = lengths[i]
      const kind = kinds[i]
      const into = i >= readable
      if (into) posted += length
      let done = 0
      do {
        if (kind === GUEST) {
          const rest = length - done
          const piece = rest < limit ? rest : limit
          m.guest[row] = addresses[i] + done
          m.length[row] = piece
          m.direction[row] = into ? FROM : TO
          const status = this.guarded.map(row)
          if (status !== OK) {
            // Of a chain that is not complete nothing stays.
            if (k > 0) {
              rows.unmapRows(first, k, 0)
              this.commitUndone()
            }
            return status
          }
          links[ROW * row + ROW_FLAGS] = into ? MAPPED | WRITABLE : MAPPED
          done += piece
        } else {
          m.device[row] = kind < CELL ? addresses[i] : addresses[i] + cells.address(kind, id)
          m.deviceLength[row] = m.length[row] = length
          links[ROW * row + ROW_FLAGS] = into ? WRITABLE : 0
          done = length
        }
        listed[before + k] = (((into ? F_WRITE : 0) | (k + 1 < needed ? F_NEXT : 0)) << FLAGS) | (direct ? row : k)
        k++
        const next = direct ? freeRows[(freeAt + k) & freeMask] : first + k
        links[ROW * row + ROW_NEXT] = next
        row = next
      } while (done < length)
    }

    if (direct) this.descriptors += needed
    else this.writeTable(id, first, needed)
    rows.freeAt = (freeAt + taken) & freeMask
    rows.free -= taken
    this.rowsTaken += taken
    const { chains } = this.account
    const at = 4 * id
    chains[at + POSTED] = posted < MAX_POSTED ? posted : MAX_POSTED
    chains[at + ROWS] = needed
    chains[at + TABLE] = table
    this.enter(id, OUTSTANDING | (needed > 1 || !direct ? MANY : links[ROW * first + ROW_FLAGS]) | (taken << COUNT))
    return id
  }

  addEach(
    count: number,
    addresses: Float64Array,
    lengths: Uint32Array,
    lead: number,
    kind: number,
    writable: boolean,
  ): number {
    const { account, added, guarded, listed, maxMappingLength: limit, rows } = this
    const { chains, inOrder, order, orderMask } = account
    const { freeAt, freeMask, freeRows, mappings: m } = rows
    const mapped = kind === GUEST
    const room = rows.free < count ? rows.free : count
    let status: number = room < count ? QUEUE_FULL : OK
    let n = 0
    // Two loops that call nothing, so that the engine keeps what it knows of the arrays; the backend is called between them.
    const { direction: directions, length: mappedLengths } = m
    const where = mapped ? m.guest : m.device
    const sizes = mapped ? mappedLengths : m.deviceLength
    const direction = (writable ? FROM : TO) | 0
    for (; n < room; n++) {
      const length = lengths[n] + lead
      if (length === 0 || length > limit) break
      const row = freeRows[(freeAt + n) & freeMask]
      added[n] = row
      where[row] = addresses[n] - lead
      sizes[row] = length
      directions[row] = direction
    }
    const plain = n
    if (mapped) {
      n = guarded.mapEach(added, plain)
      if (n < plain) status = guarded.status
    }
    // The bookkeeping of an id is complete before the device can know of it: a completion can never race it.
    const info = OUTSTANDING | (writable ? WRITABLE : 0) | (mapped ? MAPPED : 0) | (1 << COUNT)
    const flags = (writable ? F_WRITE : 0) << FLAGS
    const first = this.descriptors
    const number = account.oldest + account.outstanding + this.count
    for (let i = 0; i < n; i++) {
      const row = added[i]
      listed[first + i] = flags | row
      chains[row << 2] = info
      if (writable) chains[((row << 2) + POSTED) | 0] = sizes[row] | 0
      if (inOrder) order[(number + i) & orderMask] = row
    }
    rows.freeAt = (freeAt + n) & freeMask
    rows.free -= n
    this.descriptors += n
    this.count += n
    this.rowsTaken += n
    this.addStatus = status
    return n === plain && n < room ? this.addOdd(n, count, addresses, lengths, lead, kind, writable) : n
  }

  // A segment that is empty or has to be split takes the general way, and the rest follow it.
  private addOdd(
    from: number,
    count: number,
    addresses: Float64Array,
    lengths: Uint32Array,
    lead: number,
    kind: number,
    writable: boolean,
  ): number {
    const { segments, added } = this
    this.addStatus = OK
    for (let n = from; n < count; n++) {
      if (lengths[n] + lead > MAX_POSTED) {
        this.addStatus = DMA_TOO_LONG
        return n
      }
      segments.address[0] = addresses[n] - lead
      segments.length[0] = lengths[n] + lead
      segments.kind[0] = kind
      const id = this.add(writable ? 0 : 1, 1)
      if (id < 0) {
        this.addStatus = id
        return n
      }
      added[n] = id
    }
    return count
  }

  /** Gives everything back. Returns how many chains that were: their ids are in `undoneId`. */
  undo(): number {
    const { descriptors, listed, rows } = this
    const { chains } = this.account
    let undone = 0
    for (let k = 0; k < descriptors; k++) {
      // Only the first descriptor of a chain.
      if (k > 0 && (listed[k - 1] & (F_NEXT << FLAGS)) !== 0) continue
      const id = listed[k] & 0xffff
      this.undoneId[undone++] = id
      if ((chains[4 * id + INFO] & PREPARED) === 0) {
        rows.unmapChain(id, 0)
        if ((chains[4 * id + INFO] & MANY) !== 0) rows.takeBackTable(id)
      }
      chains[4 * id + INFO] &= ~STATE
    }
    this.commitUndone()
    // The rows stand where they stood: what came back meanwhile was put behind the free ones.
    rows.freeAt = (rows.freeAt - this.rowsTaken) & rows.freeMask
    rows.free += this.rowsTaken
    this.clear()
    return undone
  }

  // The chain is complete, and follows those that were added before it.
  private enter(id: number, info: number): void {
    const { account } = this
    account.chains[4 * id + INFO] = info
    if (account.inOrder) account.order[(account.oldest + account.outstanding + this.count) & account.orderMask] = id
    this.count++
  }

  // Of a chain whose descriptors are rows `first` and up: one descriptor stands in the ring for all of them.
  private writeTable(id: number, first: number, entries: number): void {
    const { mappings } = this.rows
    const indirect = this.indirect as DmaRegion
    const bytes = (first - this.size) * DESCRIPTOR_SIZE
    this.ring.describe(indirect.region, this.indirectWord + bytes / 4, first, this.tableListed, entries)
    if (indirect.region.meter !== null) indirect.region.meter.store(4, 4 * entries)
    mappings.device[id] = indirect.device + bytes
    mappings.deviceLength[id] = entries * DESCRIPTOR_SIZE
    this.listed[this.descriptors++] = (DESCRIPTOR_F_INDIRECT << FLAGS) | id
    this.rows.freeTableCount--
  }

  // Not Ok: the device may still reach what was unmapped, and only a reset helps.
  private commitUndone(): void {
    const { account, guarded } = this
    const status = guarded.commitUnmaps()
    if (status !== OK)
      account.refuse('VIRTQUEUE_COMMIT', `${guarded.name} could not revoke what was never published`, { status })
  }

  private refuseEmpty(segment: number): never {
    throw new VirtqueueError(
      'VIRTQUEUE_SEGMENT',
      this.name,
      `segment ${segment} is empty; a chain is one or more segments of at least one byte`,
      { segment },
    )
  }
}
