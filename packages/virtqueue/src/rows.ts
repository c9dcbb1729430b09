import { DMA_OK, type DmaMappings } from '@guestdma/dma'
import {
  CHAIN_INFO,
  CHAIN_MANY,
  CHAIN_MAPPED,
  CHAIN_ROWS,
  CHAIN_TABLE,
  CHAIN_WRITABLE,
  type ChainAccount,
} from './account.ts'
import type { GuardedBackend } from './guarded-backend.ts'

/** Words of a row in {@link QueueRows.links}, of chains with several: the next one of the chain, and flags. */
export const LINK: number = 2
export const LINK_NEXT: number = 0
/** `CHAIN_MAPPED` and `CHAIN_WRITABLE`, as they are of this row. */
export const LINK_FLAGS: number = 1

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const OK = DMA_OK
const INFO = CHAIN_INFO
const ROWS = CHAIN_ROWS
const TABLE = CHAIN_TABLE
const MAPPED = CHAIN_MAPPED
const WRITABLE = CHAIN_WRITABLE
const MANY = CHAIN_MANY
const STRIDE = LINK
const NEXT = LINK_NEXT
const FLAGS = LINK_FLAGS

/**
 * The rows of a queue. A row is what one mapping and one descriptor have in common. Row r < size is one of the ring's
 * descriptors; row size + t·capacity + e is entry e of indirect table t. A chain's id is the first row that it takes of
 * the ring; what a split ring writes into its available ring is that number too, which the specification calls the head
 * there.
 *
 * Between two calls every row r < size is in one place: among the free ones, among those that wait for `recycle`, in an
 * outstanding or prepared chain, or in one that was added and not published. So is every table.
 */
export class QueueRows {
  /** Rows of the ring, and those of all tables. */
  declare readonly mappings: DmaMappings
  declare readonly links: Int32Array
  /**
   * Free rows, as a ring from `freeAt` on: with IN_ORDER they come back, and so go out, in the order of the descriptors
   * (virtio 1.4 §2.7.5). Behind the free ones are those that wait for `recycle`.
   */
  declare readonly freeRows: Uint16Array
  declare readonly freeMask: number
  freeAt = 0
  free = 0
  recyclable = 0
  /** Free tables, the next one last. */
  declare readonly freeTables: Uint32Array
  freeTableCount = 0
  /** Entries of a table. */
  declare readonly tableCapacity: number

  declare private readonly size: number
  declare private readonly account: ChainAccount
  declare private readonly guarded: GuardedBackend

  /** `mappings` have `size` rows, and `tables` times `tableCapacity`. */
  constructor(
    size: number,
    tables: number,
    tableCapacity: number,
    mappings: DmaMappings,
    account: ChainAccount,
    guarded: GuardedBackend,
  ) {
    this.size = size
    this.tableCapacity = tableCapacity
    this.mappings = mappings
    this.account = account
    this.guarded = guarded
    this.links = new Int32Array(STRIDE * (size + tables * tableCapacity))
    this.freeMask = account.orderMask
    this.freeRows = new Uint16Array(this.freeMask + 1)
    this.freeTables = new Uint32Array(tables)
    this.freeAll()
  }

  freeAll(): void {
    const { freeRows, freeTables, size } = this
    for (let row = 0; row < size; row++) freeRows[row] = row
    for (let table = 0; table < freeTables.length; table++) freeTables[table] = freeTables.length - 1 - table
    this.freeAt = this.recyclable = 0
    this.free = size
    this.freeTableCount = freeTables.length
  }

  recycle(): void {
    this.free += this.recyclable
    this.recyclable = 0
  }

  /** The first row of an indirect table. */
  firstOf(table: number): number {
    return this.size + table * this.tableCapacity
  }

  /**
   * Takes back what a chain has beside its first row: the others, or its table. `free`: how far `freeRows` is filled.
   * Returns how far it is then.
   */
  takeBackRest(id: number, free: number): number {
    const { freeMask, freeRows, links } = this
    const { chains } = this.account
    if (this.takeBackTable(id)) return free
    let row = id
    for (let i = 1; i < chains[4 * id + ROWS]; i++) {
      row = links[STRIDE * row + NEXT]
      freeRows[free++ & freeMask] = row
    }
    return free
  }

  /** Of a chain with several rows: takes its table back, if it has one. */
  takeBackTable(id: number): boolean {
    const table = this.account.chains[4 * id + TABLE]
    if (table < 0) return false
    this.freeTables[this.freeTableCount++] = table
    return true
  }

  /** Unmaps what is mapped of a chain. Returns a status. */
  unmapChain(id: number, written: number): number {
    const { chains } = this.account
    const info = chains[4 * id + INFO]
    if ((info & MANY) === 0) return (info & MAPPED) === 0 ? OK : this.guarded.unmap(id, written)
    const table = chains[4 * id + TABLE]
    return this.unmapRows(table < 0 ? id : this.firstOf(table), chains[4 * id + ROWS], written)
  }

  /** As {@link unmapChain}. Written bytes fill the writable rows in their order: virtio 1.4 §2.7.8, §2.8.4. */
  unmapRows(first: number, count: number, written: number): number {
    const { links, mappings: m } = this
    let status: number = OK
    let row = first
    let left = written
    for (let i = 0; i < count; i++) {
      const flags = links[STRIDE * row + FLAGS]
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
      row = links[STRIDE * row + NEXT]
    }
    return status
  }
}
