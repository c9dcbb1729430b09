import {
  DMA_OK,
  DMA_TOO_LONG,
  type DmaBackend,
  type DmaDirection,
  DmaMappings,
  type DmaRegion,
  FROM_DEVICE,
  TO_DEVICE,
} from '@guestdma/dma'
import { attempt, type Region } from '@guestdma/memory'
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_SIZE,
  DESCRIPTOR_TABLE_ALIGN,
  MAX_CHAIN_BYTES,
  MAX_QUEUE_SIZE,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
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
  ChainAccount,
  COUNT_SHIFT,
  STATE_FREE,
  STATE_MASK,
  STATE_OUTSTANDING,
} from './account.ts'
import { type DescriptorList, type DriverRing, LISTED_FLAGS, type RingFormat } from './driver-ring.ts'
import { QueueTooSmallError, type VIRTQUEUE_CODES, VirtqueueError } from './errors.ts'
import { GuardedBackend } from './guarded-backend.ts'
import { packedFormat } from './packed.ts'
import { splitFormat } from './split.ts'
import {
  type CellArea,
  Completions,
  QUEUE_BROKEN,
  QUEUE_FULL,
  SEGMENT_CELL,
  SEGMENT_GUEST,
  Segments,
  type Virtqueue,
  type VirtqueueCounters,
  type VirtqueueOptions,
} from './virtqueue.ts'
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

// Words of a row, of chains with several: the next one of the chain, and flags.
const ROW = 2
const ROW_NEXT = 0
const ROW_FLAGS = 1

/**
 * The driver's half of a virtqueue (virtio 1.4 §2.6), of either ring format.
 *
 * Nothing that the device can write is read back: what is outstanding, in which order and for how many bytes is kept in
 * private memory ({@link ChainAccount}), and from the ring come only ids and lengths, each loaded once and judged in
 * {@link reap}.
 *
 * A row is what one mapping and one descriptor have in common. Row r < size is one of the ring's descriptors; row size +
 * t·capacity + e is entry e of indirect table t. A chain's id is the first row that it takes of the ring; what a split
 * ring writes into its available ring is that number too, which the specification calls the head there. `recycle` gives
 * the rows of completed chains back; `undo` those of chains that were never published.
 *
 * Between two calls every row r < size is in one place: in `free`, among the completed that wait for `recycle`, in an
 * outstanding or prepared chain, or in one that was added and not published.
 *
 * Fields are declared without `undefined` as their first value (`declare`), so that the engine keeps knowing what is in
 * them.
 */
export class DriverQueue implements Virtqueue {
  declare readonly name: string
  declare readonly index: number
  declare readonly size: number
  declare readonly segments: Segments
  declare readonly completed: Completions
  declare readonly added: Uint16Array
  declare readonly counters: VirtqueueCounters
  declare readonly areas: Virtqueue['areas']
  declare broken: VirtqueueError | null
  free = 0
  undone = 0
  addStatus = 0
  declare readonly undoneId: Uint16Array

  declare private readonly backend: DmaBackend
  declare private readonly guarded: GuardedBackend
  declare private readonly doorbell: (index: number, position: number) => void
  declare private readonly maxMappingLength: number
  declare private readonly account: ChainAccount
  declare private readonly ring: DriverRing

  // All that both sides see, and the distinct regions of it.
  declare private readonly held: DmaRegion[]
  declare private readonly regions: readonly Region[]
  declare private readonly cellDevice: Float64Array
  private cellAreas = 0

  declare private readonly mappings: DmaMappings
  declare private readonly rows: Int32Array
  // Free rows, as a ring: with IN_ORDER they come back, and so go out, in the order of the descriptors (§2.7.5). Behind
  // the free ones are those that wait for `recycle`.
  declare private readonly freeRows: Uint16Array
  declare private readonly freeMask: number
  private freeAt = 0
  private recyclable = 0

  declare private readonly indirect: DmaRegion | null
  declare private readonly indirectWord: number
  declare private readonly freeTables: Uint32Array
  declare private readonly tableCapacity: number
  declare private readonly indirectFrom: number
  private freeTableCount = 0

  // The descriptors that were added since the last publication, and one chain's for an indirect table.
  declare private readonly listed: DescriptorList
  declare private readonly tableListed: DescriptorList
  private descriptors = 0
  // Of these chains: how many, and how many free rows they took.
  private pending = 0
  private pendingRows = 0
  // By id: the descriptors of prepared chains.
  private readonly prepared = new Map<number, DescriptorList>()
  private disposed = false

  /**
   * `format`: default by RING_PACKED.
   *
   * @throws VirtqueueError `VIRTQUEUE_SIZE`, `VIRTQUEUE_TOO_SMALL`; DmaError `DMA_ALLOC`
   */
  constructor(
    options: VirtqueueOptions,
    format: RingFormat = options.features.has(VIRTIO_F_RING_PACKED) ? packedFormat : splitFormat,
  ) {
    const { name, index, size, backend, features, doorbell, longestChain = 1, standing = false } = options
    const right = Number.isInteger(size) && size >= 1 ? format.refuseSize(size) : `from 1 to ${MAX_QUEUE_SIZE}`
    if (right !== null) {
      throw new VirtqueueError('VIRTQUEUE_SIZE', name, `queue size ${size} must be ${right}`, { size })
    }
    if (longestChain > size) throw new QueueTooSmallError(name, size, longestChain)
    this.name = name
    this.index = index
    this.size = size
    this.free = size
    this.broken = null
    this.counters = { added: 0, published: 0, notified: 0, completed: 0, clamped: 0 }
    this.backend = backend
    this.doorbell = doorbell
    this.maxMappingLength = backend.limits.maxMappingLength

    const indirect = features.has(VIRTIO_F_INDIRECT_DESC) ? options.indirect : undefined
    const tables = indirect?.tables ?? 0
    this.tableCapacity = Math.min(indirect?.capacity ?? 0, size)
    this.indirectFrom = tables > 0 ? Math.max(2, indirect?.from ?? 3) : MAX_QUEUE_SIZE + 1
    const rows = size + tables * this.tableCapacity

    this.segments = new Segments(size)
    this.completed = new Completions(size)
    this.added = new Uint16Array(size)
    this.undoneId = new Uint16Array(size)
    this.mappings = new DmaMappings(rows, standing)
    this.guarded = new GuardedBackend(backend, this.mappings, {
      name,
      index,
      broken: (error) => {
        this.broken ??= error
      },
    })
    this.rows = new Int32Array(ROW * rows)
    this.account = new ChainAccount(size, features.has(VIRTIO_F_IN_ORDER), (code, message, details) =>
      this.break(code, message, details),
    )
    this.freeMask = this.account.orderMask
    this.freeRows = new Uint16Array(this.freeMask + 1)
    this.freeTables = new Uint32Array(tables)
    this.freeAll()
    this.listed = new Int32Array(size + 1)
    this.tableListed = new Int32Array(this.tableCapacity + 1)

    this.held = []
    try {
      this.ring = format.ring({
        size,
        eventIndex: features.has(VIRTIO_F_EVENT_IDX),
        account: this.account,
        mappings: this.mappings,
        alloc: (length, align, direction) => this.alloc(length, align, direction),
      })
      this.indirect =
        tables > 0 ? this.alloc(tables * this.tableCapacity * DESCRIPTOR_SIZE, DESCRIPTOR_TABLE_ALIGN, TO) : null
    } catch (error) {
      const errors = [error]
      for (const region of this.held) attempt(errors, () => backend.free(region))
      throw error
    }
    this.regions = [...new Set(this.held.map(({ region }) => region))]
    this.areas = this.ring.areas
    this.indirectWord = compact(this.indirect === null ? 0 : this.indirect.offset / 4)
    // Pairs: device address of the first cell, and bytes from one cell to the next.
    this.cellDevice = new Float64Array(2 * MAX_CELL_AREAS)
  }

  get outstanding(): number {
    return this.account.outstanding
  }

  get hasUsed(): boolean {
    return this.ring.hasUsed
  }

  cells(bytes: number, direction: DmaDirection): CellArea {
    const slot = this.cellAreas
    if (slot === MAX_CELL_AREAS)
      throw new VirtqueueError('VIRTQUEUE_CELLS', this.name, `there are ${MAX_CELL_AREAS} cell areas already`, { slot })
    const stride = Math.ceil(bytes / 8) * 8
    const memory = this.alloc(stride * this.size, 8, direction)
    this.cellAreas++
    this.cellDevice[2 * slot] = memory.device
    this.cellDevice[2 * slot + 1] = stride
    return { kind: CELL + slot, stride, memory }
  }

  prepare(readable: number, writable: number): number {
    for (let i = 0; i < readable + writable; i++) {
      if (this.segments.kind[i] === GUEST) this.refusePrepare('a guest address is mapped anew each time')
    }
    if (this.account.inOrder) this.refusePrepare('IN_ORDER was agreed, and descriptors are used in ring order')
    if (this.pending > 0) this.refusePrepare('chains were added that are not published')
    const { account } = this
    this.refresh()
    const id = this.addChain(readable, readable + writable)
    if (id < 0) this.refusePrepare(`there is no room for it (status ${id})`)
    // Its rows never go back.
    this.prepared.set(id, this.listed.slice(0, this.descriptors))
    this.descriptors = this.pending = this.pendingRows = 0
    account.chains[4 * id + INFO] = (account.chains[4 * id + INFO] & ~STATE) | PREPARED
    return id
  }

  addPrepared(id: number): void {
    const { chains } = this.account
    if (this.broken !== null) this.refusePrepare('the queue is broken')
    const list = this.prepared.get(id)
    if (list === undefined || (chains[4 * id + INFO] & STATE) !== STATE_FREE)
      this.refusePrepare(`chain ${id} was not prepared, or is outstanding`)
    const { length } = list as DescriptorList
    for (let i = 0; i < length; i++) this.listed[this.descriptors++] = (list as DescriptorList)[i]
    this.enter(id, chains[4 * id + INFO] | OUTSTANDING)
  }

  add(readable: number, writable: number): number {
    if (this.broken !== null) return QUEUE_BROKEN
    this.refresh()
    return this.addChain(readable, readable + writable)
  }

  addEach(
    count: number,
    addresses: Float64Array,
    lengths: Uint32Array,
    lead: number,
    kind: number,
    writable: boolean,
  ): number {
    this.addStatus = OK
    if (this.broken !== null) {
      this.addStatus = QUEUE_BROKEN
      return 0
    }
    const { account, added, freeAt, freeMask, freeRows, guarded, listed, maxMappingLength: limit, mappings: m } = this
    const { chains, inOrder, order, orderMask } = account
    const mapped = kind === GUEST
    const room = this.free < count ? this.free : count
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
    const number = account.oldest + account.outstanding + this.pending
    for (let i = 0; i < n; i++) {
      const row = added[i]
      listed[first + i] = flags | row
      chains[row << 2] = info
      if (writable) chains[((row << 2) + POSTED) | 0] = sizes[row] | 0
      if (inOrder) order[(number + i) & orderMask] = row
    }
    this.freeAt = (freeAt + n) & freeMask
    this.free -= n
    this.descriptors += n
    this.pending += n
    this.pendingRows += n
    this.addStatus = status
    if (n === plain && n < room) {
      return this.addOdd(n, count, addresses, lengths, lead, kind, writable)
    }
    return n
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
      const id = this.addChain(writable ? 0 : 1, 1)
      if (id < 0) {
        this.addStatus = id
        return n
      }
      added[n] = id
    }
    return count
  }

  private addChain(readable: number, count: number): number {
    const { backend, freeAt, freeMask, freeRows, mappings: m, rows } = this
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
    if (needed > count && needed > backend.limits.assuredMappings) return DMA_TOO_LONG
    const direct = needed < this.indirectFrom || needed > this.tableCapacity || this.freeTableCount === 0
    const taken = direct ? needed : 1
    if (this.free < taken) return QUEUE_FULL

    const id = freeRows[freeAt]
    const table = direct ? -1 : this.freeTables[this.freeTableCount - 1]
    const listed = direct ? this.listed : this.tableListed
    const before = direct ? this.descriptors : 0
    const first = direct ? id : this.size + table * this.tableCapacity
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
            this.undoChain(first, k)
            return status
          }
          rows[ROW * row + ROW_FLAGS] = into ? MAPPED | WRITABLE : MAPPED
          done += piece
        } else {
          m.device[row] = kind < CELL ? addresses[i] : addresses[i] + this.cellAddress(kind, id)
          m.deviceLength[row] = m.length[row] = length
          rows[ROW * row + ROW_FLAGS] = into ? WRITABLE : 0
          done = length
        }
        listed[before + k] = (((into ? F_WRITE : 0) | (k + 1 < needed ? F_NEXT : 0)) << FLAGS) | (direct ? row : k)
        k++
        const next = direct ? freeRows[(freeAt + k) & freeMask] : first + k
        rows[ROW * row + ROW_NEXT] = next
        row = next
      } while (done < length)
    }

    if (direct) this.descriptors += needed
    else this.writeTable(id, first, needed)
    this.freeAt = (freeAt + taken) & freeMask
    this.free -= taken
    this.pendingRows += taken
    const { chains } = this.account
    const at = 4 * id
    chains[at + POSTED] = posted < MAX_POSTED ? posted : MAX_POSTED
    chains[at + ROWS] = needed
    chains[at + TABLE] = table
    this.enter(id, OUTSTANDING | (needed > 1 || !direct ? MANY : rows[ROW * first + ROW_FLAGS]) | (taken << COUNT))
    return id
  }

  // The chain is complete, and follows those that were added before it.
  private enter(id: number, info: number): void {
    const { account } = this
    account.chains[4 * id + INFO] = info
    if (account.inOrder) account.order[(account.oldest + account.outstanding + this.pending) & account.orderMask] = id
    this.pending++
  }

  // Of a chain whose descriptors are rows `first` and up: one descriptor stands in the ring for all of them.
  private writeTable(id: number, first: number, entries: number): void {
    const { mappings, size } = this
    const indirect = this.indirect as DmaRegion
    const bytes = (first - size) * DESCRIPTOR_SIZE
    this.ring.describe(indirect.region, this.indirectWord + bytes / 4, first, this.tableListed, entries)
    if (indirect.region.meter !== null) indirect.region.meter.store(4, 4 * entries)
    mappings.device[id] = indirect.device + bytes
    mappings.deviceLength[id] = entries * DESCRIPTOR_SIZE
    this.listed[this.descriptors++] = (DESCRIPTOR_F_INDIRECT << FLAGS) | id
    this.freeTableCount--
  }

  publish(): number {
    this.undone = 0
    if (this.broken !== null) return QUEUE_BROKEN
    const { account, pending, ring } = this
    if (pending === 0) return OK
    this.counters.added += pending
    const status = this.guarded.commitMaps()
    if (status !== OK) {
      this.undo()
      return status
    }
    this.refresh()
    ring.write(this.listed, this.descriptors)
    account.outstanding += pending
    this.descriptors = 0
    this.pending = 0
    this.pendingRows = 0
    this.counters.published += pending
    if (ring.publish()) {
      this.counters.notified++
      this.doorbell(this.index, ring.position)
    }
    return OK
  }

  reap(budget: number): number {
    if (this.broken !== null) return 0
    if (this.recyclable > 0) this.recycle()
    const { account } = this
    if (account.outstanding === 0 && !this.ring.hasUsed) return 0
    this.refresh()
    const collected = this.ring.collect(this.completed, budget)
    if (collected === 0) return 0
    const n = this.believe(collected)
    if (n === 0 || this.guarded.misuse !== null) return 0
    account.outstanding -= n
    account.oldest = (account.oldest + n) & 0xffff
    this.counters.completed += n
    const status = this.guarded.commitUnmaps()
    if (status !== OK) {
      this.break('VIRTQUEUE_COMMIT', `${this.backend.name} could not revoke ${n} completed chains`, {
        status,
        chains: n,
      })
      return 0
    }
    return n
  }

  recycle(): void {
    this.free += this.recyclable
    this.recyclable = 0
  }

  disarm(): void {
    this.refresh()
    this.ring.disarm()
  }

  arm(): boolean {
    if (this.broken !== null) return false
    this.refresh()
    return this.ring.arm()
  }

  reset(): void {
    if (this.disposed) return
    if (this.prepared.size > 0)
      throw new VirtqueueError('VIRTQUEUE_PREPARE', this.name, 'a queue with prepared chains cannot be reset alone')
    this.withdraw()
    this.account.oldest = 0
    this.descriptors = this.pending = this.pendingRows = 0
    this.freeAll()
    this.refresh()
    this.ring.reset()
  }

  dispose(): void {
    if (this.disposed) return
    this.disposed = true
    const before = this.broken
    let failed: unknown = null
    try {
      this.withdraw()
    } catch (error) {
      failed = error
    }
    this.broken = before ?? this.broken ?? new VirtqueueError('VIRTQUEUE_DISPOSED', this.name, 'the queue was disposed')
    // What could not be revoked must not be used again: its memory stays where it is, since memory goes back only when
    // the device cannot reach it.
    if (failed !== null) throw failed
    const errors: unknown[] = []
    for (const region of this.held.splice(0)) attempt(errors, () => this.backend.free(region))
    if (errors.length > 0) throw errors[0]
  }

  private freeAll(): void {
    const { freeRows, freeTables, size } = this
    for (let row = 0; row < size; row++) freeRows[row] = row
    for (let table = 0; table < freeTables.length; table++) freeTables[table] = freeTables.length - 1 - table
    this.freeAt = this.recyclable = 0
    this.free = size
    this.freeTableCount = freeTables.length
  }

  // Unmaps all that is outstanding, published or not. The device uses none of it any more. Throws where something could
  // not be revoked, and the queue is broken then; otherwise it is not.
  private withdraw(): void {
    const { account } = this
    this.broken = null
    this.guarded.misuse = null
    for (let id = 0; id < this.size; id++) {
      if ((account.chains[4 * id + INFO] & STATE) !== OUTSTANDING) continue
      this.unmapChain(id, 0)
      account.chains[4 * id + INFO] = STATE_FREE
    }
    account.outstanding = 0
    if (this.guarded.commitUnmaps() !== OK) {
      const message = `${this.backend.name} could not revoke what was outstanding; it has to be disposed of before that is used again`
      this.break('VIRTQUEUE_COMMIT', message, {})
    }
    const failed = this.broken as VirtqueueError | null
    if (failed !== null) throw failed
  }

  // The one place where used chains are believed or not, and unmapped. Returns how many are complete.
  private believe(count: number): number {
    const { account, freeMask, freeRows, guarded, size } = this
    const { id: ids, written: lengths, status: statuses } = this.completed
    const { chains } = account
    const unpublished = this.pending > 0
    let free = this.freeAt + this.free + this.recyclable
    let clamped = 0
    let n = 0
    for (; n < count; n++) {
      const id = ids[n]
      const at = id << 2
      const info = id < size ? chains[at] : STATE_FREE
      if ((info & STATE) !== OUTSTANDING || (unpublished && this.isUnpublished(id))) {
        this.refuseUsed(id, (account.oldest + n) & 0xffff)
        break
      }
      const posted = (info & (WRITABLE | MANY)) === 0 ? 0 : chains[(at + POSTED) | 0] >>> 0
      let written = lengths[n]
      if (written > posted) {
        clamped++
        lengths[n] = written = posted
      }
      chains[at] = info & ~STATE
      if ((info & PREPARED) !== 0) {
        statuses[n] = OK
        continue
      }
      // It waits for `recycle`, so that no id is given out before the driver has read what belongs to it.
      freeRows[free & freeMask] = id
      free++
      if ((info & MANY) !== 0) {
        statuses[n] = this.unmapChain(id, written)
        free = this.takeBackRest(id, free)
      } else statuses[n] = (info & MAPPED) === 0 ? OK : guarded.unmap(id, written)
    }
    this.recyclable = free - this.freeAt - this.free
    this.counters.clamped += clamped
    return n
  }

  // The rows of a chain behind its first, or its table. Returns how far `freeRows` is filled then.
  private takeBackRest(id: number, free: number): number {
    const { freeMask, freeRows, rows } = this
    const { chains } = this.account
    const table = chains[4 * id + TABLE]
    if (table >= 0) {
      this.freeTables[this.freeTableCount++] = table
      return free
    }
    let row = id
    for (let i = 1; i < chains[4 * id + ROWS]; i++) {
      row = rows[ROW * row + ROW_NEXT]
      freeRows[free++ & freeMask] = row
    }
    return free
  }

  // Written bytes fill the writable rows in their order: virtio 1.4 §2.7.8, §2.8.4.
  private unmapChain(id: number, written: number): number {
    const { chains } = this.account
    const info = chains[4 * id + INFO]
    if ((info & MANY) === 0) return (info & MAPPED) === 0 ? OK : this.guarded.unmap(id, written)
    const table = chains[4 * id + TABLE]
    return this.unmapRows(table < 0 ? id : this.size + table * this.tableCapacity, chains[4 * id + ROWS], written)
  }

  private unmapRows(first: number, count: number, written: number): number {
    const { mappings: m, rows } = this
    let status: number = OK
    let row = first
    let left = written
    for (let i = 0; i < count; i++) {
      const flags = rows[ROW * row + ROW_FLAGS]
      let here = 0
      if ((flags & WRITABLE) !== 0) {
        const length = m.length[row]
        here = left < length ? left : length
        left -= here
      }
      if ((flags & MAPPED) !== 0) {
        const result = this.guarded.unmap(row, here)
        if (result !== OK) status = result
      }
      row = rows[ROW * row + ROW_NEXT]
    }
    return status
  }

  // Was the chain added since the last publish? The device cannot know of it.
  private isUnpublished(id: number): boolean {
    for (let k = 0; k < this.descriptors; k++) if ((this.listed[k] & 0xffff) === id) return true
    return false
  }

  private cellAddress(kind: number, id: number): number {
    const cell = 2 * (kind - CELL)
    return this.cellDevice[cell] + id * this.cellDevice[cell + 1]
  }

  // Of a chain that could not be completed.
  private undoChain(first: number, count: number): void {
    if (count === 0) return
    this.unmapRows(first, count, 0)
    this.commitUndone()
  }

  // Not Ok: the device may still reach what was unmapped, and only a reset helps.
  private commitUndone(): void {
    const status = this.guarded.commitUnmaps()
    if (status !== OK)
      this.break('VIRTQUEUE_COMMIT', `${this.backend.name} could not revoke what was never published`, { status })
  }

  // Gives everything back that was added since the last publication. The ring knows of nothing.
  private undo(): void {
    const { descriptors, listed, pending, pendingRows } = this
    const { chains } = this.account
    let undone = 0
    for (let k = 0; k < descriptors; k++) {
      // Only the first descriptor of a chain.
      if (k > 0 && (listed[k - 1] & (F_NEXT << FLAGS)) !== 0) continue
      const id = listed[k] & 0xffff
      this.undoneId[undone++] = id
      if ((chains[4 * id + INFO] & PREPARED) === 0) {
        this.unmapChain(id, 0)
        if ((chains[4 * id + INFO] & MANY) !== 0 && chains[4 * id + TABLE] >= 0)
          this.freeTables[this.freeTableCount++] = chains[4 * id + TABLE]
      }
      chains[4 * id + INFO] &= ~STATE
    }
    this.commitUndone()
    // The rows stand where they stood: what came back meanwhile was put behind the free ones.
    this.freeAt = (this.freeAt - pendingRows) & this.freeMask
    this.free += pendingRows
    this.descriptors = 0
    this.pending = 0
    this.pendingRows = 0
    this.undone = pending
  }

  private alloc(length: number, align: number, direction: DmaDirection): DmaRegion {
    const region = this.backend.alloc(length, align, direction, 'ring')
    this.held.push(region)
    return region
  }

  private refresh(): void {
    for (let i = 0; i < this.regions.length; i++) this.regions[i].refresh()
  }

  private refusePrepare(why: string): never {
    throw new VirtqueueError('VIRTQUEUE_PREPARE', this.name, `the chain cannot be prepared: ${why}`)
  }

  private refuseEmpty(segment: number): never {
    throw new VirtqueueError(
      'VIRTQUEUE_SEGMENT',
      this.name,
      `segment ${segment} is empty; a chain is one or more segments of at least one byte`,
      { segment },
    )
  }

  private refuseUsed(id: number, position: number): void {
    if (id >= this.size) {
      this.break('VIRTQUEUE_USED_ID', `used id ${id} at ${position} is outside the queue of ${this.size}`, {
        id,
        position,
        size: this.size,
      })
    } else {
      const state = this.account.chains[4 * id + INFO] & STATE
      this.break('VIRTQUEUE_USED_TWICE', `used id ${id} at ${position} is not the head of an outstanding chain`, {
        id,
        position,
        state,
      })
    }
  }

  private break(code: keyof typeof VIRTQUEUE_CODES, message: string, details: Readonly<Record<string, unknown>>): void {
    // The first reason is the one that explains the others.
    this.broken ??= new VirtqueueError(code, this.name, message, { queue: this.index, ...details })
  }
}

/** Headers and statuses of a request need one area each; eight leave room. */
const MAX_CELL_AREAS = 8

/** Bytes posted are kept in 32 bits; a chain of exactly 2^32 writable bytes counts as one byte less. */
const MAX_POSTED = 0xffff_ffff
