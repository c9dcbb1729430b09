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
import { attempt, type DeviceAddress, type Region } from '@guestdma/memory'
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
  USED_ELEMENT_SIZE,
  USED_F_NO_NOTIFY,
  USED_RING_ALIGN,
  usedRingBytes,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
} from '@guestdma/spec'
import { QueueTooSmallError, type VIRTQUEUE_CODES, VirtqueueError } from './errors.ts'
import { crosses } from './event-index.ts'
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

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const OK = DMA_OK
const F_WRITE = DESCRIPTOR_F_WRITE
const F_NEXT = DESCRIPTOR_F_NEXT
const GUEST = SEGMENT_GUEST
const CELL = SEGMENT_CELL
const TO = TO_DEVICE
const FROM = FROM_DEVICE

// State of a chain. Only an OUTSTANDING one may come back through the used ring.
const FREE = 0
const OUTSTANDING = 1

// The private bookkeeping is one Int32Array, since every further typed array that a function touches costs it a handful
// of checks and loads: first the rows, then the chains by id, then the ids in the order of publication.
const ROW = 2
const NEXT = 0
const FLAGS = 1

const CHAIN = 8
/**
 * State (2 bits), the flags of a chain of one descriptor (from bit 2), and how many descriptors it has (from bit 8).
 */
const INFO = 0
const POSTED = 1
// Only where there is more than one descriptor; a chain of one is its head.
const FIRST = 2
const LAST = 3
const TABLE = 4

const STATE_MASK = 3
const FLAGS_SHIFT = 2
const COUNT_SHIFT = 8

// Flags of a row.
const MAPPED = 1
const WRITABLE = 2

// Flag of a chain, beside its state: it was laid out for good, and nothing of it is mapped.
const PREPARED = 1 << 5

// A chain of one descriptor that the device may only read: nothing was posted for it to write, and POSTED is not kept.
const READ_ONLY_MASK = ~(STATE_MASK | (MAPPED << FLAGS_SHIFT))
const READ_ONLY = 1 << COUNT_SHIFT

// Multiplying by this moves the high half of an address down; it is exact, and cheaper than a division.
const HIGH_HALF = 2 ** -32

/**
 * The driver's half of a split virtqueue: virtio 1.4 §2.7.
 *
 * Nothing that the device can write is read back: descriptors, the order of publication and the state of each chain are
 * kept in private memory, and from the used ring come only an index, an id and a length, each loaded once and checked
 * in {@link reap}.
 *
 * Rows: row d < size is descriptor d; row size + t·capacity + e is entry e of indirect table t. NEXT links the rows of
 * a chain, and the free descriptors.
 *
 * Fields are declared without `undefined` as their first value (`declare`), so that the engine keeps knowing what is in
 * them.
 */
export class SplitVirtqueue implements Virtqueue {
  declare readonly name: string
  declare readonly index: number
  declare readonly size: number
  declare readonly segments: Segments
  declare readonly completed: Completions
  declare readonly added: Uint16Array
  declare readonly counters: VirtqueueCounters
  declare readonly areas: {
    readonly descriptor: DeviceAddress
    readonly driver: DeviceAddress
    readonly device: DeviceAddress
  }
  declare broken: VirtqueueError | null
  free = 0
  outstanding = 0
  undone = 0
  addStatus = 0
  declare readonly undoneId: Uint16Array

  declare private readonly backend: DmaBackend
  declare private readonly doorbell: (index: number, position: number) => void
  declare private readonly eventIndex: boolean
  declare private readonly inOrder: boolean
  declare private readonly mask: number
  declare private readonly maxMappingLength: number

  declare private readonly table: DmaRegion
  declare private readonly available: DmaRegion
  declare private readonly used: DmaRegion
  declare private readonly indirect: DmaRegion | null
  // The distinct regions of all of these.
  declare private readonly regions: readonly Region[]
  declare private readonly cellAreas: CellArea[]
  declare private readonly cellDevice: Float64Array

  // Element indices of the fields that are touched.
  declare private readonly tableWord: number
  declare private readonly indirectWord: number
  declare private readonly availableHalf: number
  declare private readonly usedHalf: number
  declare private readonly usedWord: number

  declare private readonly mappings: DmaMappings
  declare private readonly book: Int32Array
  declare private readonly chainsAt: number
  declare private readonly orderAt: number
  declare private readonly freeTables: Uint32Array
  declare private readonly tableCapacity: number
  declare private readonly indirectFrom: number
  private freeTableCount = 0
  private freeHead = 0

  private availablePosition = 0
  private publishedPosition = 0
  private usedPosition = 0
  // Completed and not yet recycled: a list linked by NEXT, and how many descriptors it holds.
  private retiredHead = -1
  private retiredLast = -1
  private retiredCount = 0
  private pendingDescriptors = 0
  private disposed = false
  // The first call of the backend's that threw, or answered what is no status.
  private misuse: VirtqueueError | null = null

  /** @throws VirtqueueError `VIRTQUEUE_SIZE`, `VIRTQUEUE_TOO_SMALL`; DmaError `DMA_ALLOC` */
  constructor(options: VirtqueueOptions) {
    const { name, index, size, backend, features, doorbell, longestChain = 1, standing = false } = options
    if (!Number.isInteger(size) || size < 1 || size > MAX_QUEUE_SIZE || (size & (size - 1)) !== 0) {
      throw new VirtqueueError(
        'VIRTQUEUE_SIZE',
        name,
        `queue size ${size} is not a power of two from 1 to ${MAX_QUEUE_SIZE} (virtio 1.4 §2.7)`,
        { size },
      )
    }
    if (longestChain > size) throw new QueueTooSmallError(name, size, longestChain)
    this.name = name
    this.index = index
    this.size = size
    this.mask = size - 1
    this.free = size
    this.broken = null
    this.counters = { added: 0, published: 0, notified: 0, completed: 0, clamped: 0 }
    this.backend = backend
    this.doorbell = doorbell
    this.eventIndex = features.has(VIRTIO_F_EVENT_IDX)
    this.inOrder = features.has(VIRTIO_F_IN_ORDER)
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
    this.chainsAt = ROW * rows
    this.orderAt = this.chainsAt + CHAIN * size
    this.book = new Int32Array(this.orderAt + size)
    for (let row = 0; row < rows; row++) this.book[ROW * row + NEXT] = row === size - 1 ? 0 : row + 1
    this.freeTables = Uint32Array.from({ length: tables }, (_, t) => tables - 1 - t)
    this.freeTableCount = tables

    const held: DmaRegion[] = []
    const alloc = (length: number, align: number, direction: DmaDirection): DmaRegion => {
      held.push(backend.alloc(length, align, direction, 'ring'))
      return held[held.length - 1]
    }
    try {
      this.table = alloc(descriptorTableBytes(size), DESCRIPTOR_TABLE_ALIGN, TO)
      // The rings are accessed as 16- and 32-bit elements of one view; the used ring's elements begin 4 bytes in.
      this.available = alloc(availableRingBytes(size), Math.max(AVAILABLE_RING_ALIGN, 4), TO)
      this.used = alloc(USED_RING_ALIGN + usedRingBytes(size), USED_ELEMENT_SIZE, FROM)
      this.indirect =
        tables > 0 ? alloc(tables * this.tableCapacity * DESCRIPTOR_SIZE, DESCRIPTOR_TABLE_ALIGN, TO) : null
    } catch (error) {
      const errors = [error]
      for (const region of held) attempt(errors, () => backend.free(region))
      throw error
    }
    this.regions = [...new Set(held.map(({ region }) => region))]
    // The ring begins at 4 modulo 8, so that its elements of 8 bytes are aligned and none lies across two pages: behind an
    // IOMMU, QEMU up to 7.2 writes the second half of such an element to a wrong address.
    const usedDevice = (this.used.device + USED_RING_ALIGN) as DeviceAddress
    this.areas = { descriptor: this.table.device, driver: this.available.device, device: usedDevice }
    this.tableWord = compact(this.table.offset / 4)
    this.indirectWord = compact(this.indirect === null ? 0 : this.indirect.offset / 4)
    this.availableHalf = compact(this.available.offset / 2)
    this.usedHalf = compact((this.used.offset + USED_RING_ALIGN) / 2)
    this.usedWord = compact((this.used.offset + USED_RING_ALIGN) / 4)
    this.cellAreas = []
    // Pairs: device address of the first cell, and bytes from one cell to the next.
    this.cellDevice = new Float64Array(2 * MAX_CELL_AREAS)
  }

  cells(bytes: number, direction: DmaDirection): CellArea {
    const slot = this.cellAreas.length
    if (slot === MAX_CELL_AREAS)
      throw new VirtqueueError('VIRTQUEUE_CELLS', this.name, `there are ${MAX_CELL_AREAS} cell areas already`, { slot })
    const stride = Math.ceil(bytes / 8) * 8
    const memory = this.backend.alloc(stride * this.size, 8, direction, 'ring')
    const area: CellArea = { kind: CELL + slot, stride, memory }
    this.cellAreas.push(area)
    this.cellDevice[2 * slot] = memory.device
    this.cellDevice[2 * slot + 1] = stride
    return area
  }

  prepare(readable: number, writable: number): number {
    for (let i = 0; i < readable + writable; i++) {
      if (this.segments.kind[i] === GUEST) this.refusePrepare('a guest address is mapped anew each time')
    }
    if (this.inOrder) this.refusePrepare('IN_ORDER was agreed, and descriptors are used in ring order')
    const position = this.availablePosition
    const pending = this.pendingDescriptors
    this.refresh()
    const id = this.addChain(readable, readable + writable)
    if (id < 0) this.refusePrepare(`there is no room for it (status ${id})`)
    this.availablePosition = position
    this.pendingDescriptors = pending
    const info = this.chainsAt + CHAIN * id + INFO
    this.book[info] = (this.book[info] & ~STATE_MASK) | PREPARED
    return id
  }

  addPrepared(id: number): void {
    const { book, mask } = this
    const position = this.availablePosition
    const driver = this.available.region
    if (driver.u16.length === 0) driver.refresh()
    const info = this.chainsAt + CHAIN * id + INFO
    if (this.broken !== null) this.refusePrepare('the queue is broken')
    if ((book[info] & (STATE_MASK | PREPARED)) !== PREPARED)
      this.refusePrepare(`chain ${id} was not prepared, or is outstanding`)
    book[info] |= OUTSTANDING
    const at = position & mask
    book[this.orderAt + at] = id
    driver.u16[this.availableHalf + 2 + at] = id
    this.availablePosition = (position + 1) & 0xffff
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
    const start = this.availablePosition
    this.refresh()
    // All in locals: what is a field is loaded again after each call that is not inlined. The rate of this loop is that
    // of its accesses to typed arrays, about a nanosecond each, so there is none that could be spared.
    const { backend, book, added, mask, chainsAt, orderAt, maxMappingLength: limit, mappings: m, tableWord } = this
    const u32 = this.table.region.u32
    const ring = this.available.region.u16
    const ringAt = this.availableHalf + 2
    const direction = (writable ? FROM : TO) | 0
    const mapped = kind === GUEST
    const info = OUTSTANDING | (((writable ? WRITABLE : 0) | (mapped ? MAPPED : 0)) << FLAGS_SHIFT) | (1 << COUNT_SHIFT)
    const descriptorFlags = writable ? F_WRITE : 0
    const room = this.free < count ? this.free : count
    let status: number = room < count ? QUEUE_FULL : OK
    let head = this.freeHead
    let n = 0
    for (; n < room; n++) {
      const length = lengths[n] + lead
      if (length === 0 || length > limit) break
      let device = addresses[n] - lead
      let deviceLength = length
      if (mapped) {
        m.guest[head] = device
        m.length[head] = length
        m.direction[head] = direction
        let answer: number
        try {
          answer = backend.map(m, head)
        } catch (error) {
          answer = this.blame('map', error)
        }
        if (answer !== OK) {
          status = this.judge('map', answer)
          break
        }
        device = m.device[head]
        deviceLength = m.deviceLength[head]
      }
      const word = tableWord + 4 * head
      u32[word] = device
      u32[word + 1] = device * HIGH_HALF
      u32[word + 2] = deviceLength
      u32[word + 3] = descriptorFlags
      // The id's bookkeeping is complete before the device can know of it: a completion can never race it.
      const chain = chainsAt + CHAIN * head
      book[chain + INFO] = info
      if (writable) book[chain + POSTED] = length
      const at = (start + n) & mask
      book[orderAt + at] = head
      ring[ringAt + at] = head
      added[n] = head
      head = book[ROW * head + NEXT]
    }
    this.freeHead = head
    this.free -= n
    this.pendingDescriptors += n
    this.availablePosition = (start + n) & 0xffff
    this.addStatus = status
    if (n < room && (status === OK || status === QUEUE_FULL)) {
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
    const position = this.availablePosition
    const segments = this.segments
    const lengths = segments.length
    const kinds = segments.kind
    const addresses = segments.address
    const limit = this.maxMappingLength

    let descriptors = count
    let bytes = 0
    for (let i = 0; i < count; i++) {
      const length = lengths[i]
      if (length === 0) this.refuseEmpty(i)
      bytes += length
      if (length > limit && kinds[i] === GUEST) descriptors += Math.ceil(length / limit) - 1
    }
    if (count < 1) this.refuseEmpty(0)
    if (descriptors > this.size || bytes > MAX_CHAIN_BYTES) return DMA_TOO_LONG
    // More pieces than can ever be live at once: waiting would not help.
    if (descriptors > count && descriptors > this.backend.limits.assuredMappings) return DMA_TOO_LONG
    const direct = descriptors < this.indirectFrom || descriptors > this.tableCapacity || this.freeTableCount === 0
    if (this.free < (direct ? descriptors : 1)) return QUEUE_FULL

    // One loop serves both places: a row's descriptor is at base + 4·row, and a `next` field is a row less `bias`.
    const head = this.freeHead
    const tableAt = direct ? -1 : this.freeTables[this.freeTableCount - 1]
    const first = direct ? head : this.size + tableAt * this.tableCapacity
    const u32 = direct ? this.table.region.u32 : (this.indirect as DmaRegion).region.u32
    const base = direct ? this.tableWord : this.indirectWord - 4 * this.size
    const bias = direct ? 0 : first
    const m = this.mappings
    const book = this.book

    let posted = 0
    let row = first
    let last = first
    let left = descriptors
    for (let i = 0; i < count; i++) {
      const length = lengths[i]
      const kind = kinds[i]
      const into = i >= readable
      if (into) posted += length
      let done = 0
      do {
        const word = base + 4 * row
        if (kind === GUEST) {
          const rest = length - done
          const piece = rest < limit ? rest : limit
          m.guest[row] = addresses[i] + done
          m.length[row] = piece
          m.direction[row] = into ? FROM : TO
          const status = this.map(row)
          if (status !== OK) {
            this.rewind(first, descriptors - left)
            return status
          }
          book[ROW * row + FLAGS] = into ? MAPPED | WRITABLE : MAPPED
          const device = m.device[row]
          u32[word] = device
          u32[word + 1] = device * HIGH_HALF
          u32[word + 2] = m.deviceLength[row]
          done += piece
        } else {
          const device = kind < CELL ? addresses[i] : addresses[i] + this.cellAddress(kind, head)
          m.length[row] = length
          book[ROW * row + FLAGS] = into ? WRITABLE : 0
          u32[word] = device
          u32[word + 1] = device * HIGH_HALF
          u32[word + 2] = length
          done = length
        }
        last = row
        row = book[ROW * row + NEXT]
        left--
        const flags = into ? F_WRITE : 0
        u32[word + 3] = left > 0 ? flags | F_NEXT | ((row - bias) << 16) : flags
      } while (done < length)
    }

    if (direct) {
      this.freeHead = row
      this.free -= descriptors
    } else {
      this.writeIndirect(head, tableAt, descriptors)
    }
    this.pendingDescriptors += descriptors
    const chain = this.chainsAt + CHAIN * head
    book[chain + INFO] = OUTSTANDING | (book[ROW * first + FLAGS] << FLAGS_SHIFT) | (descriptors << COUNT_SHIFT)
    book[chain + POSTED] = posted < MAX_POSTED ? posted : MAX_POSTED
    book[chain + FIRST] = first
    book[chain + LAST] = last
    book[chain + TABLE] = tableAt
    const at = position & this.mask
    book[this.orderAt + at] = head
    this.available.region.u16[this.availableHalf + 2 + at] = head
    this.availablePosition = (position + 1) & 0xffff
    return head
  }

  publish(): number {
    this.undone = 0
    if (this.broken !== null) return QUEUE_BROKEN
    const old = this.publishedPosition
    const position = this.availablePosition
    const count = (position - old) & 0xffff
    if (count === 0) return OK
    this.counters.added += count
    const status = this.commitMaps()
    if (status !== OK) {
      this.undo(old, count)
      return status
    }
    this.refresh()
    this.outstanding += count
    this.publishedPosition = position
    this.meterPublish(count)
    // Descriptors and ring entries first, then the index that makes them available, then the question whether the device
    // wants to know: virtio 1.4 §2.7.13.3, §2.7.13.4.1.
    const { eventIndex, used, usedHalf } = this
    const asked = eventIndex ? usedHalf + 2 + 4 * this.size : usedHalf
    const answer = this.available.region.storeThenLoad(this.availableHalf + 1, position, used.region, asked)
    this.counters.published += count
    if (eventIndex ? crosses(answer, position, old) : (answer & USED_F_NO_NOTIFY) === 0) {
      this.counters.notified++
      this.doorbell(this.index, position)
    }
    return OK
  }

  get hasUsed(): boolean {
    const { u16 } = this.used.region
    // A view that growth detached says nothing.
    return u16.length === 0 || u16[this.usedHalf + 1] !== this.usedPosition
  }

  reap(budget: number): number {
    if (this.broken !== null) return 0
    if (this.retiredCount > 0) this.recycle()
    this.refresh()
    const position = this.usedPosition
    // Loaded once; the device may change it right after.
    const arrivedIndex = this.used.region.loadShared(this.usedHalf + 1)
    const arrived = (arrivedIndex - position) & 0xffff
    if (arrived === 0) return 0
    if (arrived > this.outstanding) {
      this.break(
        'VIRTQUEUE_USED_INDEX',
        `the used index went from ${position} to ${arrivedIndex}, but only ${this.outstanding} chains are outstanding`,
        {
          from: position,
          to: arrivedIndex,
          outstanding: this.outstanding,
        },
      )
      return 0
    }

    const n = this.takeUsed(position, arrived, budget)
    if (n === 0 || this.misuse !== null) return 0
    this.outstanding -= n
    this.usedPosition = (position + n) & 0xffff
    this.counters.completed += n
    if (this.used.region.meter !== null) {
      this.used.region.meter.load(2, 1)
      this.used.region.meter.load(4, 2 * n)
    }
    const status = this.commitUnmaps()
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
    if (this.retiredHead >= 0) {
      this.book[ROW * this.retiredLast + NEXT] = this.freeHead
      this.freeHead = this.retiredHead
      this.retiredHead = -1
    }
    this.free += this.retiredCount
    this.retiredCount = 0
  }

  disarm(): void {
    // An event that lies 65,535 completions ahead is as good as none.
    this.storeEvent(this.usedPosition - 1, AVAILABLE_F_NO_INTERRUPT)
  }

  arm(): boolean {
    if (this.broken !== null) return false
    // The device may have gone on before it saw this: virtio 1.4 §2.7.14.
    return this.storeEvent(this.usedPosition, 0) !== this.usedPosition
  }

  // Says when to interrupt, in the word that was agreed on, and returns the used index as it is after that.
  private storeEvent(event: number, flags: number): number {
    this.refresh()
    const { available, availableHalf, eventIndex, used, usedHalf } = this
    const half = eventIndex ? availableHalf + 2 + this.size : availableHalf
    return available.region.storeThenLoad(half, eventIndex ? event : flags, used.region, usedHalf + 1)
  }

  dispose(): void {
    if (this.disposed) return
    this.disposed = true
    const before = this.broken
    this.broken = null
    this.misuse = null
    for (let id = 0; id < this.size; id++) {
      const chain = this.chainsAt + CHAIN * id
      if ((this.book[chain + INFO] & STATE_MASK) !== OUTSTANDING) continue
      this.unmapChain(id, 0)
      this.book[chain + INFO] = FREE
    }
    this.outstanding = 0
    if (this.commitUnmaps() !== OK) {
      const message = `${this.backend.name} could not revoke what was outstanding; it has to be disposed of before that is used again`
      this.break('VIRTQUEUE_COMMIT', message, {})
    }
    const failed = this.broken as VirtqueueError | null
    this.broken = before ?? failed ?? new VirtqueueError('VIRTQUEUE_DISPOSED', this.name, 'the queue was disposed')
    // What could not be revoked must not be used again: its memory stays where it is, since memory goes back only when
    // the device cannot reach it.
    if (failed !== null) throw failed
    const errors: unknown[] = []
    const regions = [this.table, this.available, this.used, ...this.cellAreas.map(({ memory }) => memory)]
    if (this.indirect !== null) regions.push(this.indirect)
    this.cellAreas.length = 0
    for (const region of regions) attempt(errors, () => this.backend.free(region))
    if (errors.length > 0) throw errors[0]
  }

  // The one place where used elements are believed or not, and their chains unmapped. Id and length are loaded once
  // each; the device may change them right after. Returns how many chains are complete.
  private takeUsed(from: number, arrived: number, budget: number): number {
    const { usedWord, mask, size, book, chainsAt, orderAt, inOrder } = this
    const { id: ids, written: lengths, status: statuses } = this.completed
    const { backend, mappings } = this
    const u32 = this.used.region.u32
    const unpublished = this.availablePosition !== this.publishedPosition
    let clamped = 0
    let n = 0
    while (n < arrived && n < budget) {
      const position = (from + n) & 0xffff
      const word = usedWord + 1 + ((position & mask) << 1)
      const id = u32[word]
      const written = u32[word + 1]
      const chain = chainsAt + CHAIN * id
      const info = id < size ? book[chain + INFO] : FREE
      if ((info & STATE_MASK) !== OUTSTANDING || (unpublished && this.isUnpublished(id))) {
        this.refuseUsed(id, position)
        break
      }
      if (inOrder && book[orderAt + (position & mask)] !== id) {
        // One element may stand for a batch; what it skips was used completely: virtio 1.4 §2.7.9.
        const skipped = this.distance(position, id)
        if (n + skipped >= arrived) {
          this.refuseOrder(id, position, skipped, arrived - n)
          break
        }
        for (const end = n + skipped; n < end; n++) {
          const older = book[orderAt + ((from + n) & mask)]
          ids[n] = older
          lengths[n] = this.postedBy(older)
          statuses[n] = this.unmapChain(older, lengths[n])
          book[chainsAt + CHAIN * older + INFO] &= ~STATE_MASK
          this.retire(older, book[chainsAt + CHAIN * older + INFO] >> COUNT_SHIFT)
        }
      }
      const posted = (info & READ_ONLY_MASK) === READ_ONLY ? 0 : book[chain + POSTED] >>> 0
      if (written > posted) clamped++
      const believed = written > posted ? posted : written
      book[chain + INFO] = info & ~STATE_MASK
      ids[n] = id
      lengths[n] = believed
      n++
      if ((info & PREPARED) !== 0) {
        statuses[n - 1] = OK
        continue
      }
      const descriptors = info >> COUNT_SHIFT
      if (descriptors > 1) statuses[n - 1] = this.unmapChain(id, believed)
      else if ((info & (MAPPED << FLAGS_SHIFT)) === 0) statuses[n - 1] = OK
      else {
        let answer: number
        try {
          answer = backend.unmap(mappings, id, believed)
        } catch (error) {
          answer = this.blame('unmap', error)
        }
        statuses[n - 1] = answer === OK ? OK : this.judge('unmap', answer)
      }
      this.retire(id, descriptors)
    }
    this.counters.clamped += clamped
    return n
  }

  // Completed descriptors wait in a list of their own until `recycle`, so that no id is given out before the driver has
  // read what belongs to it. In-order queues use descriptors in ring order, and they come back in that order: their
  // NEXT stays as it is (virtio 1.4 §2.7.5).
  private retire(id: number, descriptors: number): void {
    if (!this.inOrder) {
      const last = descriptors === 1 ? id : this.lastDescriptor(id)
      if (this.retiredHead < 0) this.retiredLast = last
      else this.book[ROW * last + NEXT] = this.retiredHead
      this.retiredHead = id
    }
    this.retiredCount += descriptors === 1 ? 1 : this.reclaim(this.chainsAt + CHAIN * id, descriptors)
  }

  private postedBy(id: number): number {
    const chain = this.chainsAt + CHAIN * id
    return (this.book[chain + INFO] & READ_ONLY_MASK) === READ_ONLY ? 0 : this.book[chain + POSTED] >>> 0
  }

  private unmapChain(id: number, written: number): number {
    const book = this.book
    const chain = this.chainsAt + CHAIN * id
    const info = book[chain + INFO]
    const count = info >> COUNT_SHIFT
    if (count > 1) return this.unmapRows(book[chain + FIRST], count, written)
    return (info & (MAPPED << FLAGS_SHIFT)) === 0 ? OK : this.unmap(id, written)
  }

  // Was the chain added since the last publish? The device cannot know of it.
  private isUnpublished(id: number): boolean {
    for (let at = this.publishedPosition; at !== this.availablePosition; at = (at + 1) & 0xffff) {
      if (this.book[this.orderAt + (at & this.mask)] === id) return true
    }
    return false
  }

  private cellAddress(kind: number, head: number): number {
    const cell = 2 * (kind - CELL)
    return this.cellDevice[cell] + head * this.cellDevice[cell + 1]
  }

  // The last descriptor of a chain: where the free list is linked to it.
  private lastDescriptor(id: number): number {
    const chain = this.chainsAt + CHAIN * id
    return this.book[chain + INFO] >> COUNT_SHIFT > 1 && this.book[chain + TABLE] < 0 ? this.book[chain + LAST] : id
  }

  // Written bytes fill the writable segments in their order: virtio 1.4 §2.7.8.
  private unmapRows(first: number, count: number, written: number): number {
    const m = this.mappings
    const book = this.book
    let status: number = OK
    let row = first
    let left = written
    for (let i = 0; i < count; i++) {
      const flags = book[ROW * row + FLAGS]
      let here = 0
      if ((flags & WRITABLE) !== 0) {
        const length = m.length[row]
        here = left < length ? left : length
        left -= here
      }
      if ((flags & MAPPED) !== 0) {
        const result = this.unmap(row, here)
        if (result !== OK) status = result
      }
      row = book[ROW * row + NEXT]
    }
    return status
  }

  private writeIndirect(head: number, tableAt: number, descriptors: number): void {
    const u32 = this.table.region.u32
    const word = this.tableWord + 4 * head
    const device = (this.indirect as DmaRegion).device + tableAt * this.tableCapacity * DESCRIPTOR_SIZE
    u32[word] = device
    u32[word + 1] = device * HIGH_HALF
    u32[word + 2] = descriptors * DESCRIPTOR_SIZE
    u32[word + 3] = DESCRIPTOR_F_INDIRECT
    this.freeTableCount--
    this.freeHead = this.book[ROW * head + NEXT]
    this.free--
    this.pendingDescriptors++
  }

  private rewind(first: number, count: number): void {
    if (count === 0) return
    this.unmapRows(first, count, 0)
    this.commitUndone()
  }

  // Not Ok: the device may still reach what was unmapped, and only a reset helps.
  private commitUndone(): void {
    const status = this.commitUnmaps()
    if (status !== OK)
      this.break('VIRTQUEUE_COMMIT', `${this.backend.name} could not revoke what was never published`, { status })
  }

  private undo(from: number, count: number): void {
    const book = this.book
    // Youngest first, so that the free descriptors end up in the order that they had.
    for (let i = count - 1; i >= 0; i--) {
      const id = book[this.orderAt + ((from + i) & this.mask)]
      this.undoneId[i] = id
      if ((book[this.chainsAt + CHAIN * id + INFO] & PREPARED) !== 0) {
        book[this.chainsAt + CHAIN * id + INFO] &= ~STATE_MASK
        continue
      }
      this.unmapChain(id, 0)
      if (!this.inOrder) book[ROW * this.lastDescriptor(id) + NEXT] = this.freeHead
      this.freeHead = id
      const chain = this.chainsAt + CHAIN * id
      const descriptors = book[chain + INFO] >> COUNT_SHIFT
      book[chain + INFO] = FREE
      this.free += this.reclaim(chain, descriptors)
    }
    this.commitUndone()
    this.availablePosition = from
    this.pendingDescriptors = 0
    this.undone = count
  }

  // Gives the indirect table of a chain back, if it has one. Returns how many descriptors of the ring the chain held.
  private reclaim(chain: number, descriptors: number): number {
    const table = this.book[chain + TABLE]
    if (descriptors === 1 || table < 0) return descriptors
    this.freeTables[this.freeTableCount++] = table
    return 1
  }

  // How many positions `id` was published after `position`; at least the number of outstanding chains where it was not.
  private distance(position: number, id: number): number {
    let steps = 0
    while (steps < this.outstanding && this.book[this.orderAt + ((position + steps) & this.mask)] !== id) steps++
    return steps
  }

  private refresh(): void {
    for (let i = 0; i < this.regions.length; i++) this.regions[i].refresh()
  }

  private meterPublish(chains: number): void {
    const meter = this.available.region.meter
    if (meter !== null) {
      meter.store(2, chains + 1)
      meter.store(4, 4 * this.pendingDescriptors)
      meter.load(2, 1)
    }
    this.pendingDescriptors = 0
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

  private refuseOrder(id: number, position: number, skipped: number, used: number): void {
    this.break(
      'VIRTQUEUE_USED_ORDER',
      `used id ${id} at ${position} skips ${skipped} chains, but only ${used} were used`,
      { id, position, skipped },
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
      const state = this.book[this.chainsAt + CHAIN * id + INFO] & STATE_MASK
      this.break('VIRTQUEUE_USED_TWICE', `used id ${id} at ${position} is not the head of an outstanding chain`, {
        id,
        position,
        state,
      })
    }
  }

  // The backend is somebody else's code. One that throws, or answers what is no status, breaks its queue and nobody else's.
  private map(row: number): number {
    try {
      const status = this.backend.map(this.mappings, row)
      return status === OK ? OK : this.judge('map', status)
    } catch (error) {
      return this.blame('map', error)
    }
  }

  private unmap(row: number, written: number): number {
    try {
      const status = this.backend.unmap(this.mappings, row, written)
      return status === OK ? OK : this.judge('unmap', status)
    } catch (error) {
      return this.blame('unmap', error)
    }
  }

  private commitMaps(): number {
    try {
      const status = this.backend.commitMaps()
      return status === OK ? OK : this.judge('commitMaps', status)
    } catch (error) {
      return this.blame('commitMaps', error)
    }
  }

  private commitUnmaps(): number {
    try {
      const status = this.backend.commitUnmaps()
      return status === OK ? OK : this.judge('commitUnmaps', status)
    } catch (error) {
      return this.blame('commitUnmaps', error)
    }
  }

  private judge(method: string, status: number): number {
    return status < 0 ? status : this.blame(method, `${status}, which is no status,`)
  }

  private blame(method: string, error: unknown): number {
    const what = error instanceof Error ? `threw: ${error.message}` : `answered ${String(error)}`
    const { backend, index, name } = this
    const details = { queue: index, backend: backend.name, method }
    this.misuse ??= new VirtqueueError(
      'VIRTQUEUE_BACKEND',
      name,
      `${backend.name}.${method}() ${what}`,
      details,
      error instanceof Error ? { cause: error } : {},
    )
    this.broken ??= this.misuse
    return QUEUE_BROKEN
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

// An integer that came out of floating-point arithmetic stays a heap number in a field; `| 0` makes a small integer of
// it.
function compact(integer: number): number {
  return integer < 2 ** 31 ? integer | 0 : integer
}
