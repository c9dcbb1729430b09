import type { ChainTable } from './chain-table.ts'
import type { RingArea, RingOwner } from './ring-area.ts'

/** How the negotiated features and the driver's registers shape a ring. */
export interface RingSetup {
  readonly size: number
  /** Device addresses as halves: descriptor low, high, driver low, high, device low, high. */
  readonly areas: Uint32Array
  readonly packed: boolean
  readonly indirect: boolean
  readonly eventIndex: boolean
  readonly inOrder: boolean
  /** With `inOrder`: one used element for a run of buffers that were used completely (§2.7.9, §2.8.9). */
  readonly batchUsed: boolean
}

/** Where a queue stands: what a device saves, and what another one goes on with. */
export interface RingPosition {
  /** The next chain to take. */
  readonly next: number
  /** The next used element to write; and the next one that the driver has not seen. */
  readonly used: number
  readonly published: number
}

/**
 * A ring format, on the device's side: where available chains are found, and how they are marked used. Nothing in the
 * ring is trusted, and nothing is decided on a word that is loaded again.
 */
export interface DeviceRing {
  /** An area is in pieces: what copies of it cost since they were last asked for, in 64 pieces or 64 KiB. */
  copies: number
  /** A queue that was just enabled (virtio 1.4 §2.6.1). False: it cannot be of this size, and the owner knows. */
  start(setup: RingSetup): boolean
  /** Resolves the three areas; again whenever the port's epoch changed. False: the owner was told why. */
  attach(setup: RingSetup): boolean
  /** Nothing is left to fetch or to publish, and memory is not touched any more. */
  stop(): void
  /** Looks, once, whether chains are available that were not fetched. Returns how many are known of. */
  update(): number
  /** The same, from what was seen before where that says it. */
  readonly ready: number
  /**
   * Loads up to `limit` available chains to the end of the table. A chain that breaks a rule ends the batch before it,
   * and breaks the queue where it is the first. Returns how many.
   */
  fetch(into: ChainTable, limit: number): number
  /** Gives the chains back that were loaded and not taken: the last ones. */
  unfetch(of: ChainTable): void
  /**
   * Loads the descriptors of an indirect table of `entries` entries, behind what is in use. Returns how many, or -1 where
   * the owner was told what is wrong.
   */
  fetchTable(area: RingArea, entries: number, head: number, into: ChainTable): number
  /** Marks a chain used, not yet for the driver to see. See `RingWalker.push`. */
  push(id: number, written: number, whole: boolean): void
  /** As many calls of {@link push}: rows `first` and up, of whose device-writable part `written[i]` bytes were written. */
  pushRows(chains: ChainTable, first: number, count: number, written: Int32Array): void
  /** Publishes what was pushed, with a full barrier. Returns whether the driver wants a notification. */
  flush(): boolean
  /** Asks for a notification at the next chain. Returns whether one came in the meantime. */
  rearm(): boolean
  /**
   * {@link flush} and then {@link rearm}: the answer to the latter is in {@link more}. It is true as well where a listener
   * moved the ring, which is then not touched any more.
   */
  flushAndRearm(): boolean
  readonly more: boolean
  /** Chains that were pushed and not published. */
  readonly unpublished: number
  save(): RingPosition
  restore(position: RingPosition): void
  /** Where the used side stands in memory: where an earlier server of the queue left it. */
  readonly storedUsed: number
}

/** Makes the device's half of rings of each format; the ring belongs to the queue that it is given. */
export interface DeviceRingFormats {
  readonly split: (owner: RingOwner) => DeviceRing
  readonly packed: (owner: RingOwner) => DeviceRing
}
