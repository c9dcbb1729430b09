import type { DmaBackend, DmaDirection, DmaRegion } from '@guestdma/dma'
import type { DeviceAddress } from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'
import type { VirtqueueError } from './errors.ts'

/** `add`: no room now; retry after completions. */
export const QUEUE_FULL = -16
/** `add`, `publish`: the queue is broken; see `broken` for why, and reset the device. */
export const QUEUE_BROKEN = -17

/** A segment's address is a guest address: the queue maps it and unmaps it. */
export const SEGMENT_GUEST = 0
/**
 * A segment's address is a device address inside memory that was `alloc`ed (a `BufferPool`, say): the queue uses it as
 * it is.
 */
export const SEGMENT_DEVICE = 1
/**
 * From here on: the segment lies in the chain's own cell of the area with that `kind`; its address is the offset in the
 * cell.
 */
export const SEGMENT_CELL = 2

/** Where a driver describes the chain that it adds next: row i is segment i, device-readable segments first. */
export class Segments {
  declare readonly address: Float64Array
  /** Bytes, at least 1. */
  declare readonly length: Uint32Array
  /** `SEGMENT_GUEST`, `SEGMENT_DEVICE`, or the `kind` of a cell area. */
  declare readonly kind: Uint8Array

  constructor(capacity: number) {
    this.address = new Float64Array(capacity)
    this.length = new Uint32Array(capacity)
    this.kind = new Uint8Array(capacity)
  }
}

/** What the last `reap` completed: row i is one chain. */
export class Completions {
  /** The id that `add` returned. */
  declare readonly id: Uint32Array
  /** Bytes that the device says it wrote, clamped to what was posted. They bound what is there and prove nothing. */
  declare readonly written: Uint32Array
  /** `DMA_OK`, or `DMA_CORRUPT` where the backend delivered nothing. */
  declare readonly status: Int8Array

  constructor(capacity: number) {
    this.id = new Uint32Array(capacity)
    this.written = new Uint32Array(capacity)
    this.status = new Int8Array(capacity)
  }
}

/** One small cell per chain for headers and status bytes, in memory that the driver and the device both see. */
export interface CellArea {
  /** For `Segments.kind`. */
  readonly kind: number
  /** Bytes from one cell to the next. */
  readonly stride: number
  /** Cell of chain `id`: bytes from `memory.offset + id * stride` of `memory.region`. */
  readonly memory: DmaRegion
}

/** What a queue needs. Driver and transport fill it in at set-up. */
export interface VirtqueueOptions {
  /** For messages: the device's name and the queue's, `net0 transmit`. */
  readonly name: string
  readonly index: number
  /** 1 to 32768; a power of two for split queues. */
  readonly size: number
  readonly backend: DmaBackend
  /** What was agreed: RING_PACKED, INDIRECT_DESC, EVENT_IDX and IN_ORDER matter here. */
  readonly features: FeatureSet
  /**
   * Rings the doorbell. `position`: where the next chain will go (virtio 1.4 §2.9: available index, or offset and wrap
   * counter).
   */
  readonly doorbell: (index: number, position: number) => void
  /** Descriptors of the longest chain that the driver must be able to add. */
  readonly longestChain?: number
  /** Chains of this queue wait for the outside world; see `DmaMappings.standing`. */
  readonly standing?: boolean
  /**
   * Indirect tables, where INDIRECT_DESC was agreed: `tables` of `capacity` descriptors, used for chains of at least
   * `from` descriptors.
   */
  readonly indirect?: { readonly tables: number; readonly capacity: number; readonly from?: number }
}

/** Running totals of one queue. */
export interface VirtqueueCounters {
  added: number
  published: number
  notified: number
  completed: number
  /** Used lengths above what was posted; they were clamped. */
  clamped: number
}

/**
 * The driver's half of a virtqueue. Both ring formats stand behind it.
 *
 * A chain goes: fill `segments`, `add` (any number of times), `publish` once, later `reap`, read `completed`,
 * `recycle`. A driver records what belongs to an id right after `add`, hence before the device can know of it. Nothing
 * here allocates after set-up.
 */
export interface Virtqueue {
  readonly name: string
  readonly index: number
  readonly size: number
  readonly segments: Segments
  readonly completed: Completions
  readonly counters: Readonly<VirtqueueCounters>
  /** Descriptors that are free now. */
  readonly free: number
  /** Chains that the device holds. */
  readonly outstanding: number
  /** Set once the other side broke the rules; only a reset helps. */
  readonly broken: VirtqueueError | null
  /** Where the three areas of the queue lie, for the transport. */
  readonly areas: { readonly descriptor: DeviceAddress; readonly driver: DeviceAddress; readonly device: DeviceAddress }

  /** Cells for every chain, `alloc`ed from the backend. Set-up time. */
  cells(bytes: number, direction: DmaDirection): CellArea

  /**
   * Adds one chain of the first `readable` and the following `writable` segments, mapping what is to be mapped. Returns
   * its id (0 to size - 1) or a negative status: `QUEUE_FULL`, `QUEUE_BROKEN`, or what the backend said; nothing stays
   * mapped then.
   *
   * @throws VirtqueueError `VIRTQUEUE_SEGMENT` for an empty chain or segment
   */
  add(readable: number, writable: number): number

  /**
   * Adds up to `count` chains of one segment each, all device-writable or none: chain i is the `lead + lengths[i]`
   * bytes from `addresses[i] - lead` on. `kind` is `SEGMENT_GUEST` or `SEGMENT_DEVICE`. The same as that many calls of
   * `add`, in one loop. Returns how many were added; their ids are in {@link added}, and {@link addStatus} says why not
   * all.
   *
   * @throws VirtqueueError `VIRTQUEUE_SEGMENT` for an empty segment
   */
  addEach(
    count: number,
    addresses: Float64Array,
    lengths: Uint32Array,
    lead: number,
    kind: number,
    writable: boolean,
  ): number
  /** The ids of the last `addEach`. */
  readonly added: Uint16Array
  /** Why the last `addEach` added fewer than it was asked to; `DMA_OK` where it did not. */
  readonly addStatus: number

  /**
   * Lays one chain of cells and device segments out for good and returns its id; nothing is made available. Its
   * descriptors stay as they are, so that {@link addPrepared} costs next to nothing: for requests that all look alike.
   * Set-up time; not with IN_ORDER, which wants descriptors in ring order (virtio 1.4 §2.7.5).
   *
   * @throws VirtqueueError `VIRTQUEUE_PREPARE` where that cannot be; `VIRTQUEUE_SEGMENT`
   */
  prepare(readable: number, writable: number): number
  /** Adds a prepared chain that is not outstanding. Its id is reaped like others and never goes back. */
  addPrepared(id: number): void

  /**
   * Commits the maps, makes the added chains available with one index store, and rings the doorbell at most once. On a
   * status other than `DMA_OK` nothing was published: all chains added since the last `publish` are undone and their
   * ids free; `undoneId` lists the first {@link undone} of them.
   */
  publish(): number
  /** How many chains the last `publish` undid (all of its batch, or none), and their ids. */
  readonly undone: number
  readonly undoneId: Uint16Array

  /**
   * Whether there may be something to {@link reap}, by a plain look: a hint that no barrier backs, for who polls often.
   * Whoever sleeps after it calls {@link arm} first.
   */
  readonly hasUsed: boolean

  /**
   * Takes up to `budget` completed chains off the used side (a batch that an in-order device completed with one element
   * is taken whole), unmaps them, commits, and returns how many `completed` rows are valid. Their ids stay taken until
   * `recycle`.
   */
  reap(budget: number): number

  /**
   * Gives the ids and descriptors of what the last `reap` completed back; the next `reap` does it otherwise. Call it
   * when what belongs to those ids was read, and before anything that may `add`.
   */
  recycle(): void

  /** Asks the device not to interrupt. A hint. */
  disarm(): void
  /**
   * Asks for an interrupt at the next completion. Returns true where completions are there already: reap again (virtio
   * 1.4 §2.7.14).
   */
  arm(): boolean

  /**
   * After the device has reset this queue alone (RING_RESET, virtio 1.4 §2.6.1): unmaps what is outstanding, commits, and
   * is as it was made, in the same memory. All ids are free, and what belonged to them is the driver's to know.
   *
   * @throws VirtqueueError `VIRTQUEUE_COMMIT` where something could not be revoked, and the queue is broken then;
   *   `VIRTQUEUE_PREPARE` for a queue with prepared chains
   */
  reset(): void

  /** After the device was reset: unmaps what is outstanding, commits, frees all memory. */
  dispose(): void
}
