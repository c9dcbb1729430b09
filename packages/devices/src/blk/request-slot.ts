import { Region } from '@guestdma/memory'
import { BLK_S_IOERR, BLK_S_OK, BLK_S_UNSUPP } from '@guestdma/spec'
import type { ChainTable } from '../ring/chain-table.ts'
import type { BlockRequest, BlockStatus } from './block-store.ts'

const SMALLEST_STAGING = 4096
// A request's data begins where its guest address stands modulo 8.
const ALIGN_ROOM = 8
const FIRST_SPANS = 8
const NO_DATA: Uint8Array<ArrayBuffer> = new Uint8Array(0)

// Where a slot stands. A request that was reset away stays with its store, as an orphan, until the store lets go of it.
type SlotState = 'free' | 'pending' | 'done' | 'orphan'

/** What the store was asked for last. */
export type SlotPhase = 'read' | 'write' | 'flush' | 'flush-after-write'

/** Bytes of a staging buffer for `bytes` of data: a power of two, so that buffers are worth keeping. */
export function stagingSize(bytes: number): number {
  let size = SMALLEST_STAGING
  while (size < bytes + ALIGN_ROOM) size *= 2
  return size
}

/** The longest data for which `stagingSize` stays within `limit`, in whole sectors of 512 bytes. */
export function longestData(limit: number): number {
  let size = SMALLEST_STAGING
  while (size * 2 <= limit) size *= 2
  return Math.floor((size - ALIGN_ROOM) / 512) * 512
}

/**
 * What a store sees of a request. One for each call of the store and never used again, so that an answer that comes
 * twice, or late, ends nobody else's request.
 */
export class BlkTicket implements BlockRequest {
  declare readonly sector: number
  declare readonly data: Uint8Array<ArrayBuffer>
  // Until `done` is called.
  declare private slot: BlkSlot | null
  declare private readonly refused: (sector: number) => void

  /** `refused` is told where `done` is called again. */
  constructor(slot: BlkSlot, refused: (sector: number) => void) {
    this.sector = slot.sector
    this.data = slot.phase === 'read' || slot.phase === 'write' ? slot.data : NO_DATA
    this.slot = slot
    this.refused = refused
  }

  /** Whether `done` was not called yet. */
  get open(): boolean {
    return this.slot !== null
  }

  done(status: BlockStatus): void {
    const { slot } = this
    this.slot = null
    if (slot === null) this.refused(this.sector)
    else slot.done(status)
  }
}

/** One request in flight, as the device's record of it. Reused. */
export class BlkSlot {
  sector = 0
  data: Uint8Array<ArrayBuffer> = NO_DATA

  state: SlotState = 'free'
  phase: SlotPhase = 'read'
  status: BlockStatus = BLK_S_OK
  /** A write that must be stable before it is reported: a flush follows it. */
  through = false
  queue = 0
  head = 0
  position = 0

  /** Bytes of staging memory that the request counts for. */
  reserved = 0
  staging: Region | null = null
  stagingOffset = 0

  /** The device-writable spans, kept when the request outlives its chain's row. */
  addresses: Float64Array = new Float64Array(FIRST_SPANS)
  lengths: Uint32Array = new Uint32Array(FIRST_SPANS)
  spans = 0

  private readonly finished: (slot: BlkSlot) => void

  constructor(finished: (slot: BlkSlot) => void) {
    this.finished = finished
  }

  done(status: BlockStatus): void {
    // A store that transferred the memory to somebody else took the data with it.
    const lost = this.reserved > 0 && this.data.length === 0
    if (lost) this.drop()
    this.status = lost ? BLK_S_IOERR : status === BLK_S_OK || status === BLK_S_UNSUPP ? status : BLK_S_IOERR
    this.finished(this)
  }

  /** Bytes of the staging buffer, 0 without one. */
  get held(): number {
    return this.staging === null ? 0 : this.staging.length
  }

  /** Provides `bytes` of staging whose offset equals `align` modulo 8, since a copy is fastest so. */
  stage(bytes: number, align: number): void {
    if (bytes === 0) {
      this.data = NO_DATA
      return
    }
    if (this.staging === null) this.staging = new Region(new ArrayBuffer(stagingSize(bytes)), 'block staging')
    const buffer = (this.staging as Region).source as ArrayBuffer
    this.stagingOffset = align & 7
    if (this.data.buffer !== buffer || this.data.length !== bytes || this.data.byteOffset !== this.stagingOffset) {
      this.data = new Uint8Array(buffer, this.stagingOffset, bytes)
    }
  }

  /** Lets go of the staging buffer. */
  drop(): void {
    this.staging = null
    this.data = NO_DATA
  }

  /** Copies the addresses and lengths of segments [from, to) of a chain. */
  remember(chains: ChainTable, from: number, to: number): void {
    const spans = to - from
    if (spans > this.addresses.length) {
      this.addresses = new Float64Array(spans)
      this.lengths = new Uint32Array(spans)
    }
    for (let i = 0; i < spans; i++) {
      this.addresses[i] = chains.address(from + i)
      this.lengths[i] = chains.length(from + i)
    }
    this.spans = spans
  }
}
