import {
  BIDIRECTIONAL,
  DMA_OK,
  DMA_TOO_LONG,
  type DmaDirection,
  DmaMappings,
  type DmaRegion,
  FROM_DEVICE,
  TO_DEVICE,
} from '@guestdma/dma'
import { attempt, type DeviceAddress } from '@guestdma/memory'
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_RING_ALIGN,
  descriptorRingBytes,
  EVENT_SUPPRESSION_ALIGN,
  EVENT_SUPPRESSION_SIZE,
  MAX_CHAIN_BYTES,
  MAX_QUEUE_SIZE,
  PACKED_DESCRIPTOR_ADDRESS,
  PACKED_DESCRIPTOR_FLAGS,
  PACKED_DESCRIPTOR_LENGTH,
  PACKED_DESCRIPTOR_SIZE,
  VIRTIO_F_INDIRECT_DESC,
} from '@guestdma/spec'
import {
  type CellArea,
  Completions,
  QUEUE_BROKEN,
  QUEUE_FULL,
  QueueTooSmallError,
  SEGMENT_CELL,
  SEGMENT_GUEST,
  Segments,
  type Virtqueue,
  type VirtqueueCounters,
  VirtqueueError,
  type VirtqueueOptions,
} from '@guestdma/virtqueue'
import { type NaiveDescriptor, NaivePackedRing } from './naive-packed-ring.ts'

interface Piece {
  readonly row: number
  readonly length: number
  readonly writable: boolean
  readonly mapped: boolean
  address: number
}

interface Chain {
  readonly id: number
  readonly pieces: readonly Piece[]
  readonly posted: number
  /** The indirect table, or -1. */
  readonly table: number
  readonly descriptors: number
}

/**
 * A packed virtqueue over `NaivePackedRing`: short, slow, and only for trying the suite. It keeps what it published in
 * objects of its own. Chains cannot be prepared.
 */
export class NaivePackedVirtqueue implements Virtqueue {
  readonly name: string
  readonly index: number
  readonly size: number
  readonly segments: Segments
  readonly completed: Completions
  readonly counters: VirtqueueCounters = { added: 0, published: 0, notified: 0, completed: 0, clamped: 0 }
  readonly areas: Virtqueue['areas']
  readonly added: Uint16Array
  readonly undoneId: Uint16Array
  addStatus = 0
  undone = 0
  free: number
  broken: VirtqueueError | null = null
  protected ring: NaivePackedRing
  private readonly makeRing: () => NaivePackedRing
  private readonly options: VirtqueueOptions
  private readonly memory: DmaRegion[] = []
  private readonly areaOfCells: CellArea[] = []
  private readonly mappings: DmaMappings
  private readonly freeIds: number[]
  private readonly freeRows: number[]
  private readonly freeTables: number[]
  private readonly capacity: number
  private pending: Chain[] = []
  private retired: Chain[] = []
  private readonly chains = new Map<number, Chain>()

  constructor(options: VirtqueueOptions, makeRing: typeof NaivePackedRing = NaivePackedRing) {
    const { name, index, size, backend, features, longestChain = 1, standing = false } = options
    if (!Number.isInteger(size) || size < 1 || size > MAX_QUEUE_SIZE)
      throw new VirtqueueError('VIRTQUEUE_SIZE', name, `${size} is no size of a packed queue`)
    if (longestChain > size) throw new QueueTooSmallError(name, size, longestChain)
    this.options = options
    this.name = name
    this.index = index
    this.size = size
    this.free = size
    this.segments = new Segments(size)
    this.completed = new Completions(size)
    this.added = new Uint16Array(size)
    this.undoneId = new Uint16Array(size)
    const tables = features.has(VIRTIO_F_INDIRECT_DESC) ? (options.indirect?.tables ?? 0) : 0
    this.capacity = Math.min(options.indirect?.capacity ?? 0, size)
    const rows = size + tables * this.capacity
    this.mappings = new DmaMappings(rows, standing)
    this.freeIds = Array.from({ length: size }, (_, i) => i)
    this.freeRows = Array.from({ length: rows }, (_, i) => i)
    this.freeTables = Array.from({ length: tables }, (_, i) => i)
    const alloc = (length: number, align: number, direction: DmaDirection): DmaRegion => {
      const region = backend.alloc(length, align, direction, 'ring')
      this.memory.push(region)
      return region
    }
    try {
      const ring = alloc(descriptorRingBytes(size), DESCRIPTOR_RING_ALIGN, BIDIRECTIONAL)
      const driver = alloc(EVENT_SUPPRESSION_SIZE, EVENT_SUPPRESSION_ALIGN, TO_DEVICE)
      const device = alloc(EVENT_SUPPRESSION_SIZE, EVENT_SUPPRESSION_ALIGN, FROM_DEVICE)
      if (tables > 0) alloc(tables * descriptorRingBytes(this.capacity), DESCRIPTOR_RING_ALIGN, TO_DEVICE)
      this.areas = { descriptor: ring.device, driver: driver.device, device: device.device }
      this.makeRing = () => new makeRing(size, features, { ring, driver, device })
      this.ring = this.makeRing()
    } catch (error) {
      for (const region of this.memory) attempt([], () => backend.free(region))
      throw error
    }
  }

  get outstanding(): number {
    return this.chains.size
  }

  get hasUsed(): boolean {
    return this.ring.hasUsed
  }

  cells(bytes: number, direction: DmaDirection): CellArea {
    const stride = Math.ceil(bytes / 8) * 8
    const memory = this.options.backend.alloc(stride * this.size, 8, direction, 'ring')
    this.memory.push(memory)
    this.areaOfCells.push({ kind: SEGMENT_CELL + this.areaOfCells.length, stride, memory })
    return this.areaOfCells[this.areaOfCells.length - 1]
  }

  add(readable: number, writable: number): number {
    if (this.broken !== null) return QUEUE_BROKEN
    const { backend, indirect } = this.options
    const count = readable + writable
    if (count > this.size) return DMA_TOO_LONG
    const lengths = [...this.segments.length.subarray(0, count)]
    if (count === 0 || lengths.includes(0)) throw new VirtqueueError('VIRTQUEUE_SEGMENT', this.name, 'it is empty')
    if (lengths.reduce((sum, length) => sum + length, 0) > MAX_CHAIN_BYTES) return DMA_TOO_LONG
    const limit = backend.limits.maxMappingLength
    const needed = lengths.reduce((sum, l, i) => sum + (this.isGuest(i) ? Math.ceil(l / limit) : 1), 0)
    if (needed > this.size) return DMA_TOO_LONG
    const inTable = needed >= (indirect?.from ?? 3) && needed <= this.capacity && this.freeTables.length > 0
    const descriptors = inTable ? 1 : needed
    if (descriptors > this.free) return QUEUE_FULL

    const id = this.freeIds.shift() as number
    const table = inTable ? (this.freeTables.shift() as number) : -1
    const pieces = Array.from({ length: count }, (_, i) => this.piecesOf(i, i >= readable, id)).flat()
    const posted = pieces.reduce((sum, { length, writable: into }) => sum + (into ? length : 0), 0)
    const chain = { id, pieces, posted, table, descriptors }
    this.free -= descriptors
    for (const [i, piece] of pieces.entries()) {
      const status = this.map(piece)
      if (status === DMA_OK) continue
      this.giveBack({ ...chain, pieces: pieces.slice(0, i) }, 0)
      this.release(chain)
      if (i > 0) this.commitUnmaps()
      return status
    }
    this.pending.push(chain)
    this.counters.added++
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
    this.addStatus = DMA_OK
    for (let n = 0; n < count; n++) {
      this.segments.address[0] = addresses[n] - lead
      this.segments.length[0] = lengths[n] + lead
      this.segments.kind[0] = kind
      const id = this.add(writable ? 0 : 1, writable ? 1 : 0)
      if (id < 0) {
        this.addStatus = id
        return n
      }
      this.added[n] = id
    }
    return count
  }

  prepare(): number {
    throw new VirtqueueError('VIRTQUEUE_PREPARE', this.name, 'it prepares nothing')
  }

  addPrepared(): void {
    this.prepare()
  }

  publish(): number {
    this.undone = 0
    if (this.broken !== null) return QUEUE_BROKEN
    if (this.pending.length === 0) return DMA_OK
    const batch = this.pending
    this.pending = []
    const status = this.options.backend.commitMaps()
    if (status !== DMA_OK) {
      for (const chain of batch) {
        this.undoneId[this.undone++] = chain.id
        this.giveBack(chain, 0)
        this.release(chain)
      }
      this.commitUnmaps()
      return status
    }
    for (const chain of batch) this.chains.set(chain.id, chain)
    this.counters.published += batch.length
    const wanted = this.ring.publish(batch.map((chain) => ({ id: chain.id, descriptors: this.descriptorsOf(chain) })))
    if (!wanted) return DMA_OK
    this.counters.notified++
    this.options.doorbell(this.index, this.ring.position)
    return DMA_OK
  }

  reap(budget: number): number {
    this.recycle()
    let n = 0
    while (n < budget && this.broken === null) {
      const used = this.ring.peekUsed()
      if (used === null) break
      const { id, written } = used
      const last = this.chains.get(id)
      if (last === undefined) {
        this.break(id < this.size ? 'VIRTQUEUE_USED_TWICE' : 'VIRTQUEUE_USED_ID', `used id ${id}`)
        break
      }
      if (written > last.posted) this.counters.clamped++
      for (const each of this.ring.complete(id)) {
        const chain = this.chains.get(each) as Chain
        this.chains.delete(each)
        this.completed.id[n] = each
        this.completed.written[n] = each === id ? Math.min(written, chain.posted) : chain.posted
        this.completed.status[n] = this.giveBack(chain, this.completed.written[n])
        this.retired.push(chain)
        n++
      }
    }
    if (n > 0 && !this.commitUnmaps()) {
      this.retired = []
      return 0
    }
    this.counters.completed += n
    return n
  }

  recycle(): void {
    for (const chain of this.retired) this.release(chain)
    this.retired = []
  }

  arm(): boolean {
    return this.broken === null && this.ring.arm()
  }

  disarm(): void {
    this.ring.disarm()
  }

  reset(): void {
    const chains = [...this.pending, ...this.chains.values()]
    this.broken = null
    for (const chain of chains) this.giveBack(chain, 0)
    if (!this.commitUnmaps()) throw this.broken
    for (const chain of [...this.retired, ...chains]) this.release(chain)
    this.pending = []
    this.retired = []
    this.chains.clear()
    for (const { region, offset, length } of this.memory.slice(0, 3)) region.u8.fill(0, offset, offset + length)
    this.ring = this.makeRing()
  }

  dispose(): void {
    for (const chain of [...this.pending, ...this.chains.values()]) this.giveBack(chain, 0)
    this.commitUnmaps()
    this.pending = []
    this.chains.clear()
    for (const region of this.memory.splice(0)) this.options.backend.free(region)
    this.break('VIRTQUEUE_DISPOSED', 'it was disposed')
  }

  private isGuest(segment: number): boolean {
    return this.segments.kind[segment] === SEGMENT_GUEST
  }

  private piecesOf(segment: number, writable: boolean, id: number): Piece[] {
    const kind = this.segments.kind[segment]
    const mapped = kind === SEGMENT_GUEST
    let address = this.segments.address[segment]
    if (kind >= SEGMENT_CELL) {
      const { memory, stride } = this.areaOfCells[kind - SEGMENT_CELL]
      address += memory.device + stride * id
    }
    const limit = mapped ? this.options.backend.limits.maxMappingLength : Number.POSITIVE_INFINITY
    const pieces: Piece[] = []
    for (let left = this.segments.length[segment]; left > 0; ) {
      const length = Math.min(left, limit)
      pieces.push({ row: mapped ? (this.freeRows.shift() as number) : -1, length, writable, mapped, address })
      address += length
      left -= length
    }
    return pieces
  }

  private map(piece: Piece): number {
    const { mappings: m, options } = this
    const { row, mapped } = piece
    if (!mapped) return DMA_OK
    m.guest[row] = piece.address
    m.length[row] = piece.length
    m.direction[row] = piece.writable ? FROM_DEVICE : TO_DEVICE
    const status = options.backend.map(m, row)
    piece.address = m.device[row]
    return status
  }

  // The ring's descriptors of a chain; what is in a table is written there.
  private descriptorsOf({ pieces, table }: Chain): NaiveDescriptor[] {
    const flags = ({ writable }: Piece): number => (writable ? DESCRIPTOR_F_WRITE : 0)
    if (table < 0) return pieces.map((piece) => ({ address: piece.address, length: piece.length, flags: flags(piece) }))
    const { region, offset, device } = this.memory[3]
    const from = table * descriptorRingBytes(this.capacity)
    for (const [i, piece] of pieces.entries()) {
      const at = offset + from + PACKED_DESCRIPTOR_SIZE * i
      region.view.setBigUint64(at + PACKED_DESCRIPTOR_ADDRESS, BigInt(piece.address), true)
      region.view.setUint32(at + PACKED_DESCRIPTOR_LENGTH, piece.length, true)
      region.view.setUint16(at + PACKED_DESCRIPTOR_FLAGS, flags(piece), true)
    }
    const length = descriptorRingBytes(pieces.length)
    return [{ address: (device + from) as DeviceAddress, length, flags: DESCRIPTOR_F_INDIRECT }]
  }

  // Unmaps; written bytes fill the writable pieces in their order.
  private giveBack({ pieces }: Chain, written: number): number {
    let left = written
    let status: number = DMA_OK
    for (const { row, length, writable, mapped } of pieces) {
      const here = writable ? Math.min(left, length) : 0
      left -= here
      if (!mapped) continue
      const answer = this.options.backend.unmap(this.mappings, row, here)
      if (answer !== DMA_OK) status = answer
    }
    return status
  }

  private release({ id, pieces, table, descriptors }: Chain): void {
    this.freeIds.push(id)
    for (const { row } of pieces) if (row >= 0) this.freeRows.push(row)
    if (table >= 0) this.freeTables.push(table)
    this.free += descriptors
  }

  private commitUnmaps(): boolean {
    const status = this.options.backend.commitUnmaps()
    if (status !== DMA_OK) this.break('VIRTQUEUE_COMMIT', `status ${status}`)
    return status === DMA_OK
  }

  private break(
    code: 'VIRTQUEUE_COMMIT' | 'VIRTQUEUE_DISPOSED' | 'VIRTQUEUE_USED_ID' | 'VIRTQUEUE_USED_TWICE',
    what: string,
  ): void {
    this.broken ??= new VirtqueueError(code, this.name, what)
  }
}
