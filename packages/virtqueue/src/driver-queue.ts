import { DMA_OK, type DmaBackend, type DmaDirection, DmaMappings, type DmaRegion, TO_DEVICE } from '@guestdma/dma'
import { attempt, type Region } from '@guestdma/memory'
import {
  DESCRIPTOR_SIZE,
  DESCRIPTOR_TABLE_ALIGN,
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
  CHAIN_WRITABLE,
  ChainAccount,
  STATE_FREE,
  STATE_MASK,
  STATE_OUTSTANDING,
} from './account.ts'
import { ChainBatch } from './batch.ts'
import { CellAreas } from './cells.ts'
import type { DescriptorList, DriverRing, RingFormat } from './driver-ring.ts'
import { QueueTooSmallError, type VIRTQUEUE_CODES, VirtqueueError } from './errors.ts'
import { GuardedBackend } from './guarded-backend.ts'
import { packedFormat } from './packed.ts'
import { QueueRows } from './rows.ts'
import { splitFormat } from './split.ts'
import {
  type CellArea,
  Completions,
  QUEUE_BROKEN,
  SEGMENT_GUEST,
  type Segments,
  type Virtqueue,
  type VirtqueueCounters,
  type VirtqueueOptions,
} from './virtqueue.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const OK = DMA_OK
const INFO = CHAIN_INFO
const POSTED = CHAIN_POSTED
const STATE = STATE_MASK
const FREE = STATE_FREE
const OUTSTANDING = STATE_OUTSTANDING
const PREPARED = CHAIN_PREPARED
const MAPPED = CHAIN_MAPPED
const WRITABLE = CHAIN_WRITABLE
const MANY = CHAIN_MANY

/**
 * The driver's half of a virtqueue (virtio 1.4 §2.6), of either ring format.
 *
 * What is added goes through a {@link ChainBatch} into the ring, and what comes back is taken off it in {@link reap}.
 * Nothing that the device can write is read back: what is outstanding, in which order and for how many bytes is kept in
 * private memory ({@link ChainAccount}, {@link QueueRows}), and from the ring come only ids and lengths, each loaded once
 * and judged in `believe`.
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
  undone = 0
  declare readonly undoneId: Uint16Array

  declare private readonly backend: DmaBackend
  declare private readonly guarded: GuardedBackend
  declare private readonly doorbell: (index: number, position: number) => void
  declare private readonly account: ChainAccount
  declare private readonly rows: QueueRows
  declare private readonly cellAreas: CellAreas
  declare private readonly ring: DriverRing
  declare private readonly batch: ChainBatch
  // By id: the descriptors of prepared chains.
  private readonly prepared = new Map<number, DescriptorList>()

  // All that both sides see, and the distinct regions of it.
  declare private readonly held: DmaRegion[]
  declare private readonly regions: readonly Region[]
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
    this.broken = null
    this.counters = { added: 0, published: 0, notified: 0, completed: 0, clamped: 0 }
    this.backend = backend
    this.doorbell = doorbell

    const indirect = features.has(VIRTIO_F_INDIRECT_DESC) ? options.indirect : undefined
    const tables = indirect?.tables ?? 0
    const capacity = Math.min(indirect?.capacity ?? 0, size)

    this.completed = new Completions(size)
    this.account = new ChainAccount(size, features.has(VIRTIO_F_IN_ORDER), (code, message, details) =>
      this.break(code, message, details),
    )
    const mappings = new DmaMappings(size + tables * capacity, standing)
    this.guarded = new GuardedBackend(backend, mappings, {
      name,
      index,
      broken: (error) => {
        this.broken ??= error
      },
    })
    this.rows = new QueueRows(size, tables, capacity, mappings, this.account, this.guarded)
    this.cellAreas = new CellAreas(name)

    this.held = []
    try {
      this.ring = format.ring({
        size,
        eventIndex: features.has(VIRTIO_F_EVENT_IDX),
        account: this.account,
        mappings,
        alloc: (length, align, direction) => this.alloc(length, align, direction),
      })
      const table =
        tables > 0 ? this.alloc(tables * capacity * DESCRIPTOR_SIZE, DESCRIPTOR_TABLE_ALIGN, TO_DEVICE) : null
      this.batch = new ChainBatch({
        name,
        size,
        limits: backend.limits,
        account: this.account,
        rows: this.rows,
        cells: this.cellAreas,
        guarded: this.guarded,
        ring: this.ring,
        indirect: table,
        indirectFrom: Math.max(2, indirect?.from ?? 3),
      })
    } catch (error) {
      const errors = [error]
      for (const region of this.held) attempt(errors, () => backend.free(region))
      throw error
    }
    this.regions = [...new Set(this.held.map(({ region }) => region))]
    this.areas = this.ring.areas
    this.segments = this.batch.segments
    this.added = this.batch.added
    this.undoneId = this.batch.undoneId
  }

  get free(): number {
    return this.rows.free
  }

  get addStatus(): number {
    return this.batch.addStatus
  }

  get outstanding(): number {
    return this.account.outstanding
  }

  get hasUsed(): boolean {
    return this.ring.hasUsed
  }

  cells(bytes: number, direction: DmaDirection): CellArea {
    return this.cellAreas.add(bytes, (stride) => this.alloc(stride * this.size, 8, direction))
  }

  prepare(readable: number, writable: number): number {
    const { account, batch, segments } = this
    for (let i = 0; i < readable + writable; i++) {
      if (segments.kind[i] === SEGMENT_GUEST) this.refusePrepare('a guest address is mapped anew each time')
    }
    if (account.inOrder) this.refusePrepare('IN_ORDER was agreed, and descriptors are used in ring order')
    if (batch.count > 0) this.refusePrepare('chains were added that are not published')
    this.refresh()
    const id = batch.add(readable, readable + writable)
    if (id < 0) this.refusePrepare(`there is no room for it (status ${id})`)
    // Its rows never go back.
    this.prepared.set(id, batch.takeOut())
    account.chains[4 * id + INFO] = (account.chains[4 * id + INFO] & ~STATE) | PREPARED
    return id
  }

  addPrepared(id: number): void {
    if (this.broken !== null) this.refusePrepare('the queue is broken')
    const list = this.prepared.get(id)
    if (list === undefined || (this.account.chains[4 * id + INFO] & STATE) !== FREE)
      this.refusePrepare(`chain ${id} was not prepared, or is outstanding`)
    this.batch.addLaidOut(id, list as DescriptorList)
  }

  add(readable: number, writable: number): number {
    if (this.broken !== null) return QUEUE_BROKEN
    this.refresh()
    return this.batch.add(readable, readable + writable)
  }

  addEach(
    count: number,
    addresses: Float64Array,
    lengths: Uint32Array,
    lead: number,
    kind: number,
    writable: boolean,
  ): number {
    const { batch } = this
    if (this.broken === null) return batch.addEach(count, addresses, lengths, lead, kind, writable)
    batch.addStatus = QUEUE_BROKEN
    return 0
  }

  publish(): number {
    this.undone = 0
    if (this.broken !== null) return QUEUE_BROKEN
    const { account, batch, counters, ring } = this
    const { count } = batch
    if (count === 0) return OK
    counters.added += count
    const status = this.guarded.commitMaps()
    if (status !== OK) {
      this.undone = batch.undo()
      return status
    }
    this.refresh()
    ring.write(batch.listed, batch.descriptors)
    account.outstanding += count
    batch.clear()
    counters.published += count
    if (ring.publish()) {
      counters.notified++
      this.doorbell(this.index, ring.position)
    }
    return OK
  }

  reap(budget: number): number {
    if (this.broken !== null) return 0
    const { account, rows } = this
    if (rows.recyclable > 0) rows.recycle()
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
    this.rows.recycle()
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
    this.batch.clear()
    this.rows.freeAll()
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

  // Unmaps all that is outstanding, published or not. The device uses none of it any more. Throws where something could
  // not be revoked, and the queue is broken then; otherwise it is not.
  private withdraw(): void {
    const { account } = this
    this.broken = null
    this.guarded.misuse = null
    for (let id = 0; id < this.size; id++) {
      if ((account.chains[4 * id + INFO] & STATE) !== OUTSTANDING) continue
      this.rows.unmapChain(id, 0)
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
    const { account, batch, guarded, rows, size } = this
    const { freeMask, freeRows } = rows
    const { id: ids, written: lengths, status: statuses } = this.completed
    const { chains } = account
    const unpublished = batch.count > 0
    let free = rows.freeAt + rows.free + rows.recyclable
    let clamped = 0
    let n = 0
    for (; n < count; n++) {
      const id = ids[n]
      const at = id << 2
      const info = id < size ? chains[at] : FREE
      if ((info & STATE) !== OUTSTANDING || (unpublished && batch.has(id))) {
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
        statuses[n] = rows.unmapChain(id, written)
        free = rows.takeBackRest(id, free)
      } else statuses[n] = (info & MAPPED) === 0 ? OK : guarded.unmap(id, written)
    }
    rows.recyclable = free - rows.freeAt - rows.free
    this.counters.clamped += clamped
    return n
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
