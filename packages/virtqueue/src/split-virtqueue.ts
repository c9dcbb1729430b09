import { type DmaBackend, type DmaDirection, DmaMappings, type DmaRegion, DMA_OK, DMA_TOO_LONG, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import type { DeviceAddress } from '@guestdma/memory'
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
  USED_F_NO_NOTIFY,
  USED_RING_ALIGN,
  usedRingBytes,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
} from '@guestdma/spec'
import { QueueTooSmallError, VirtqueueError } from './errors.ts'
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

// States of a chain. Only an OUTSTANDING one may come back through the used ring.
const FREE = 0
const ADDED = 1
const OUTSTANDING = 2
const COMPLETED = 3
const RELEASED = 4

// Flags of a row.
const MAPPED = 1
const WRITABLE = 2

// Multiplying by this moves the high half of an address down; it is exact, and cheaper than a division.
const HIGH_HALF = 2 ** -32

/**
 * The driver's half of a split virtqueue: virtio 1.4 §2.7.
 *
 * Nothing that the device can write is read back: descriptors, the order of publication and the state of each chain live in private columns,
 * and from the used ring come only an index, an id and a length, each loaded once and checked in {@link reap}.
 *
 * Rows: row d < size is descriptor d; row size + t·capacity + e is entry e of indirect table t. `nextRow` links the rows of a chain, and
 * the free descriptors.
 */
export class SplitVirtqueue implements Virtqueue {
  readonly name: string
  readonly index: number
  readonly size: number
  readonly segments: Segments
  readonly completed: Completions
  readonly counters: VirtqueueCounters = { added: 0, published: 0, notified: 0, completed: 0, clamped: 0 }
  readonly areas: { readonly descriptor: DeviceAddress; readonly driver: DeviceAddress; readonly device: DeviceAddress }
  free: number
  outstanding = 0
  undone = 0
  broken: VirtqueueError | null = null

  private readonly backend: DmaBackend
  private readonly doorbell: (index: number, position: number) => void
  private readonly eventIndex: boolean
  private readonly inOrder: boolean
  private readonly mask: number
  private readonly maxMappingLength: number

  private readonly table: DmaRegion
  private readonly available: DmaRegion
  private readonly used: DmaRegion
  private readonly indirect: DmaRegion | null
  private readonly cellAreas: CellArea[] = []
  private readonly cellDevice = new Float64Array(8)
  private readonly cellStride = new Uint32Array(8)

  // Element indices of the fields that are touched per batch.
  private readonly tableWord: number
  private readonly indirectWord: number
  private readonly availableHalf: number
  private readonly usedHalf: number
  private readonly usedWord: number

  private readonly mappings: DmaMappings
  private readonly rowFlags: Uint8Array
  private readonly nextRow: Uint32Array

  // One entry per chain, by id (its head descriptor).
  private readonly state: Uint8Array
  private readonly firstRow: Uint32Array
  private readonly lastRow: Uint32Array
  private readonly rowCount: Uint32Array
  private readonly posted: Float64Array
  private readonly tableOf: Int32Array

  // A private copy of the available ring: which chain went into which position.
  private readonly order: Uint16Array
  private freeHead = 0
  private readonly freeTables: Uint32Array
  private freeTableCount: number
  private readonly tableCapacity: number
  private readonly indirectFrom: number

  private availablePosition = 0
  private publishedPosition = 0
  private usedPosition = 0
  private releasedPosition = 0
  private pendingDescriptors = 0

  /** @throws VirtqueueError `VIRTQUEUE_SIZE`, `VIRTQUEUE_TOO_SMALL`; DmaError `DMA_ALLOC` */
  constructor(options: VirtqueueOptions) {
    const { name, index, size, backend, features, doorbell, longestChain = 1, standing = false } = options
    if (!Number.isInteger(size) || size < 1 || size > MAX_QUEUE_SIZE || (size & (size - 1)) !== 0) {
      throw new VirtqueueError('VIRTQUEUE_SIZE', name, `queue size ${size} is not a power of two from 1 to ${MAX_QUEUE_SIZE} (virtio 1.4 §2.7)`, { size })
    }
    if (longestChain > size) throw new QueueTooSmallError(name, size, longestChain)
    this.name = name
    this.index = index
    this.size = size
    this.mask = size - 1
    this.free = size
    this.backend = backend
    this.doorbell = doorbell
    this.eventIndex = features.has(VIRTIO_F_EVENT_IDX)
    this.inOrder = features.has(VIRTIO_F_IN_ORDER)
    this.maxMappingLength = backend.limits.maxMappingLength

    const indirect = features.has(VIRTIO_F_INDIRECT_DESC) ? options.indirect : undefined
    const tables = indirect?.tables ?? 0
    this.tableCapacity = Math.min(indirect?.capacity ?? 0, size)
    this.indirectFrom = tables > 0 ? (indirect?.from ?? 3) : Number.POSITIVE_INFINITY
    const rows = size + tables * this.tableCapacity

    this.segments = new Segments(size)
    this.completed = new Completions(size)
    this.mappings = new DmaMappings(rows, standing)
    this.rowFlags = new Uint8Array(rows)
    this.nextRow = Uint32Array.from({ length: rows }, (_, row) => (row === size - 1 ? 0 : row + 1))
    this.state = new Uint8Array(size)
    this.firstRow = new Uint32Array(size)
    this.lastRow = new Uint32Array(size)
    this.rowCount = new Uint32Array(size)
    this.posted = new Float64Array(size)
    this.tableOf = new Int32Array(size).fill(-1)
    this.order = new Uint16Array(size)
    this.freeTables = Uint32Array.from({ length: tables }, (_, t) => tables - 1 - t)
    this.freeTableCount = tables

    this.table = backend.alloc(descriptorTableBytes(size), DESCRIPTOR_TABLE_ALIGN, TO_DEVICE, 'ring')
    // The rings are accessed as 16- and 32-bit elements of one view; the used ring's elements begin 4 bytes in.
    this.available = backend.alloc(availableRingBytes(size), Math.max(AVAILABLE_RING_ALIGN, 4), TO_DEVICE, 'ring')
    this.used = backend.alloc(usedRingBytes(size), USED_RING_ALIGN, FROM_DEVICE, 'ring')
    this.indirect = tables > 0 ? backend.alloc(tables * this.tableCapacity * DESCRIPTOR_SIZE, DESCRIPTOR_TABLE_ALIGN, TO_DEVICE, 'ring') : null
    this.areas = { descriptor: this.table.device, driver: this.available.device, device: this.used.device }
    this.tableWord = this.table.offset / 4
    this.indirectWord = this.indirect === null ? 0 : this.indirect.offset / 4
    this.availableHalf = this.available.offset / 2
    this.usedHalf = this.used.offset / 2
    this.usedWord = this.used.offset / 4
  }

  cells(bytes: number, direction: DmaDirection): CellArea {
    const stride = Math.ceil(bytes / 8) * 8
    const slot = this.cellAreas.length
    const memory = this.backend.alloc(stride * this.size, 8, direction, 'ring')
    const area: CellArea = { kind: SEGMENT_CELL + slot, stride, memory }
    this.cellAreas.push(area)
    this.cellDevice[slot] = memory.device
    this.cellStride[slot] = stride
    return area
  }

  add(readable: number, writable: number): number {
    if (this.broken !== null) return QUEUE_BROKEN
    if (this.availablePosition === this.publishedPosition) this.refresh()
    const { address, length: lengths, kind } = this.segments
    const count = readable + writable
    const limit = this.maxMappingLength

    let descriptors = 0
    let bytes = 0
    let posted = 0
    for (let i = 0; i < count; i++) {
      const length = lengths[i]
      if (length === 0) this.refuseEmpty(i)
      bytes += length
      if (i >= readable) posted += length
      descriptors += kind[i] === SEGMENT_GUEST && length > limit ? Math.ceil(length / limit) : 1
    }
    if (descriptors === 0) this.refuseEmpty(0)
    if (descriptors > this.size || bytes > MAX_CHAIN_BYTES) return DMA_TOO_LONG
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
    const rowFlags = this.rowFlags
    const nextRow = this.nextRow

    let row = first
    let last = first
    let left = descriptors
    for (let i = 0; i < count; i++) {
      const direction: DmaDirection = i < readable ? TO_DEVICE : FROM_DEVICE
      const flags = i < readable ? 0 : DESCRIPTOR_F_WRITE
      const owner = kind[i]
      let rest = lengths[i]
      do {
        const word = base + 4 * row
        if (owner === SEGMENT_GUEST) {
          const piece = rest < limit ? rest : limit
          m.guest[row] = address[i] + (lengths[i] - rest)
          m.length[row] = piece
          m.direction[row] = direction
          const status = this.backend.map(m, row)
          if (status !== DMA_OK) {
            this.rewind(first, descriptors - left)
            return status
          }
          rowFlags[row] = i < readable ? MAPPED : MAPPED | WRITABLE
          const device = m.device[row]
          u32[word] = device
          u32[word + 1] = device * HIGH_HALF
          u32[word + 2] = m.deviceLength[row]
          rest -= piece
        } else {
          const device =
            owner < SEGMENT_CELL ? address[i] : this.cellDevice[owner - SEGMENT_CELL] + head * this.cellStride[owner - SEGMENT_CELL] + address[i]
          m.length[row] = rest
          rowFlags[row] = i < readable ? 0 : WRITABLE
          u32[word] = device
          u32[word + 1] = device * HIGH_HALF
          u32[word + 2] = rest
          rest = 0
        }
        last = row
        row = nextRow[row]
        left--
        u32[word + 3] = left > 0 ? flags | DESCRIPTOR_F_NEXT | ((row - bias) << 16) : flags
      } while (rest > 0)
    }

    this.firstRow[head] = first
    this.lastRow[head] = last
    this.rowCount[head] = descriptors
    this.posted[head] = posted
    this.tableOf[head] = tableAt
    if (direct) {
      this.freeHead = row
      this.free -= descriptors
      this.pendingDescriptors += descriptors
    } else {
      this.freeTableCount--
      const word = this.tableWord + 4 * head
      const device = (this.indirect as DmaRegion).device + tableAt * this.tableCapacity * DESCRIPTOR_SIZE
      const main = this.table.region.u32
      main[word] = device
      main[word + 1] = device * HIGH_HALF
      main[word + 2] = descriptors * DESCRIPTOR_SIZE
      main[word + 3] = DESCRIPTOR_F_INDIRECT
      this.freeHead = nextRow[head]
      this.free--
      this.pendingDescriptors += descriptors + 1
    }

    // The id's bookkeeping is complete before its place in the ring is: a completion can never race it.
    this.state[head] = ADDED
    const position = this.availablePosition
    this.order[position & this.mask] = head
    this.available.region.u16[this.availableHalf + 2 + (position & this.mask)] = head
    this.availablePosition = (position + 1) & 0xffff
    this.counters.added++
    return head
  }

  publish(): number {
    if (this.broken !== null) return QUEUE_BROKEN
    this.undone = 0
    const old = this.publishedPosition
    const position = this.availablePosition
    const count = (position - old) & 0xffff
    if (count === 0) return DMA_OK
    const status = this.backend.commitMaps()
    if (status !== DMA_OK) {
      this.undo(old, count)
      return status
    }
    const { order, state, mask } = this
    for (let i = 0; i < count; i++) state[order[(old + i) & mask]] = OUTSTANDING
    this.outstanding += count
    this.publishedPosition = position
    this.meterPublish(count)
    // Descriptors and ring entries first, then the index that makes them available: virtio 1.4 §2.7.13.
    this.available.region.u16[this.availableHalf + 1] = position
    this.counters.published += count

    // The index first, then the question whether the device wants to know: virtio 1.4 §2.7.13.4.1.
    const used = this.used.region.u16
    const wanted = this.eventIndex
      ? crosses(used[this.usedHalf + 2 + 4 * this.size], position, old)
      : (used[this.usedHalf] & USED_F_NO_NOTIFY) === 0
    if (wanted) {
      this.counters.notified++
      this.doorbell(this.index, position)
    }
    return DMA_OK
  }

  reap(budget: number): number {
    if (this.broken !== null) return 0
    this.refresh()
    const u32 = this.used.region.u32
    const { usedWord, mask, size, state, order } = this
    let position = this.usedPosition
    // Each of these is loaded once; the device may change it right after.
    const arrivedIndex = this.used.region.u16[this.usedHalf + 1]
    let arrived = (arrivedIndex - position) & 0xffff
    if (arrived === 0) return 0
    if (arrived > this.outstanding) {
      this.break('VIRTQUEUE_USED_INDEX', `the used index went from ${position} to ${arrivedIndex}, but only ${this.outstanding} chains are outstanding`, {
        from: position,
        to: arrivedIndex,
        outstanding: this.outstanding,
      })
      return 0
    }

    let n = 0
    while (arrived > 0 && n < budget) {
      const word = usedWord + 1 + ((position & mask) << 1)
      const id = u32[word]
      const written = u32[word + 1]
      if (id >= size || state[id] !== OUTSTANDING) {
        this.refuseUsed(id, position)
        break
      }
      if (this.inOrder && order[position & mask] !== id) {
        // One element may stand for a batch; what it skips was used completely: virtio 1.4 §2.7.9.
        const skipped = this.distance(position, id)
        if (skipped >= arrived) {
          this.break('VIRTQUEUE_USED_ORDER', `used id ${id} at ${position} skips ${skipped} chains, but only ${arrived} were used`, { id, position, skipped })
          break
        }
        for (let i = 0; i < skipped; i++) {
          const older = order[position & mask]
          this.complete(older, this.posted[older], n++)
          position = (position + 1) & 0xffff
        }
        arrived -= skipped
      }
      this.complete(id, written, n++)
      position = (position + 1) & 0xffff
      arrived--
    }
    if (n === 0) return 0
    this.outstanding -= n
    this.usedPosition = position
    this.counters.completed += n
    if (this.used.region.meter !== null) {
      this.used.region.meter.load(2, 1)
      this.used.region.meter.load(4, 2 * n)
    }
    const status = this.backend.commitUnmaps()
    if (status !== DMA_OK) {
      this.break('VIRTQUEUE_COMMIT', `${this.backend.name} could not revoke ${n} completed chains`, { status, chains: n })
      return 0
    }
    return n
  }

  release(id: number): void {
    if (this.state[id] !== COMPLETED) {
      throw new VirtqueueError('VIRTQUEUE_RELEASE', this.name, `id ${id} is not a completed chain`, { id, state: this.state[id] })
    }
    if (this.inOrder) {
      // Descriptors are used in ring order, so they also come back in ring order: virtio 1.4 §2.7.5.
      this.state[id] = RELEASED
      const { state, order, mask } = this
      let oldest = order[this.releasedPosition & mask]
      while (this.releasedPosition !== this.usedPosition && state[oldest] === RELEASED) {
        this.reclaim(oldest)
        this.releasedPosition = (this.releasedPosition + 1) & 0xffff
        oldest = order[this.releasedPosition & mask]
      }
      return
    }
    const last = this.tableOf[id] < 0 ? this.lastRow[id] : id
    this.nextRow[last] = this.freeHead
    this.freeHead = id
    this.reclaim(id)
  }

  disarm(): void {
    const u16 = this.available.region.u16
    // An event that lies 65,535 completions ahead is as good as none.
    if (this.eventIndex) u16[this.availableHalf + 2 + this.size] = this.usedPosition - 1
    else u16[this.availableHalf] = AVAILABLE_F_NO_INTERRUPT
  }

  arm(): boolean {
    if (this.broken !== null) return false
    this.refresh()
    const u16 = this.available.region.u16
    if (this.eventIndex) u16[this.availableHalf + 2 + this.size] = this.usedPosition
    else u16[this.availableHalf] = 0
    // The device may have gone on before it saw this: virtio 1.4 §2.7.14.
    return this.used.region.u16[this.usedHalf + 1] !== this.usedPosition
  }

  dispose(): void {
    for (let id = 0; id < this.size; id++) {
      if (this.state[id] !== ADDED && this.state[id] !== OUTSTANDING) continue
      this.unmapRows(this.firstRow[id], this.rowCount[id], 0)
      this.state[id] = FREE
    }
    this.backend.commitUnmaps()
    this.outstanding = 0
    this.broken ??= new VirtqueueError('VIRTQUEUE_DISPOSED', this.name, 'the queue was disposed')
    for (const region of [this.table, this.available, this.used]) this.backend.free(region)
    if (this.indirect !== null) this.backend.free(this.indirect)
    for (const { memory } of this.cellAreas) this.backend.free(memory)
    this.cellAreas.length = 0
  }

  private complete(id: number, length: number, n: number): void {
    let written = length
    if (written > this.posted[id]) {
      written = this.posted[id]
      this.counters.clamped++
    }
    this.completed.id[n] = id
    this.completed.written[n] = written
    this.completed.status[n] = this.unmapRows(this.firstRow[id], this.rowCount[id], written)
    this.state[id] = COMPLETED
  }

  // Written bytes fill the writable segments in their order: virtio 1.4 §2.7.8.
  private unmapRows(first: number, count: number, written: number): number {
    const m = this.mappings
    let status: number = DMA_OK
    let row = first
    let left = written
    for (let i = 0; i < count; i++) {
      const flags = this.rowFlags[row]
      let here = 0
      if ((flags & WRITABLE) !== 0) {
        const length = m.length[row]
        here = left < length ? left : length
        left -= here
      }
      if ((flags & MAPPED) !== 0) {
        const result = this.backend.unmap(m, row, here)
        if (result !== DMA_OK) status = result
      }
      row = this.nextRow[row]
    }
    return status
  }

  private rewind(first: number, count: number): void {
    if (count === 0) return
    this.unmapRows(first, count, 0)
    this.backend.commitUnmaps()
  }

  private undo(from: number, count: number): void {
    // Youngest first, so that the free descriptors end up in the order that they had.
    for (let i = count - 1; i >= 0; i--) {
      const id = this.order[(from + i) & this.mask]
      this.unmapRows(this.firstRow[id], this.rowCount[id], 0)
      const last = this.tableOf[id] < 0 ? this.lastRow[id] : id
      if (!this.inOrder) this.nextRow[last] = this.freeHead
      this.freeHead = id
      this.reclaim(id)
      this.completed.id[i] = id
    }
    this.backend.commitUnmaps()
    this.availablePosition = from
    this.pendingDescriptors = 0
    this.undone = count
  }

  private reclaim(id: number): void {
    this.state[id] = FREE
    const table = this.tableOf[id]
    if (table < 0) {
      this.free += this.rowCount[id]
      return
    }
    this.tableOf[id] = -1
    this.freeTables[this.freeTableCount++] = table
    this.free++
  }

  // How many positions `id` was published after `position`; at least the number of outstanding chains where it was not.
  private distance(position: number, id: number): number {
    let steps = 0
    while (steps < this.outstanding && this.order[(position + steps) & this.mask] !== id) steps++
    return steps
  }

  private refresh(): void {
    this.table.region.refresh()
    this.available.region.refresh()
    this.used.region.refresh()
    if (this.indirect !== null) this.indirect.region.refresh()
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

  private refuseEmpty(segment: number): never {
    throw new VirtqueueError('VIRTQUEUE_SEGMENT', this.name, `segment ${segment} is empty; a chain is one or more segments of at least one byte`, { segment })
  }

  private refuseUsed(id: number, position: number): void {
    if (id >= this.size) {
      this.break('VIRTQUEUE_USED_ID', `used id ${id} at ${position} is outside the queue of ${this.size}`, { id, position, size: this.size })
    } else {
      this.break('VIRTQUEUE_USED_TWICE', `used id ${id} at ${position} is not the head of an outstanding chain`, { id, position, state: this.state[id] })
    }
  }

  private break(code: string, message: string, details: Readonly<Record<string, unknown>>): void {
    this.broken = new VirtqueueError(code, this.name, message, { queue: this.index, ...details })
  }
}
