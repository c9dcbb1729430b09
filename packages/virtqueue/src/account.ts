import type { VIRTQUEUE_CODES } from './errors.ts'

/**
 * Words of one chain in {@link ChainAccount.chains}: four for each id, so that its place is a shift.
 *
 * `INFO` holds the state (bits 0 and 1), flags (bits 2 to 5) and from bit 8 on how many descriptors of the ring the
 * chain takes: 1 for an indirect table.
 */
export const CHAIN_INFO: number = 0
/** Bytes that the device may write, at most 2^32 - 1; kept for chains that have any, and for those of several rows. */
export const CHAIN_POSTED: number = 1
/** Where there are several rows: how many. */
export const CHAIN_ROWS: number = 2
/** Where there are several rows: the indirect table that they are in, or -1. */
export const CHAIN_TABLE: number = 3

export const STATE_MASK: number = 3
export const STATE_FREE: number = 0
/** The chain may come back. It is the device's, or will be with the next publication. */
export const STATE_OUTSTANDING: number = 1
/** It was laid out for good: nothing of it is mapped, and its rows never go back. */
export const CHAIN_PREPARED: number = 1 << 2
/** Its one row is mapped. */
export const CHAIN_MAPPED: number = 1 << 3
/** The device may write its one row. */
export const CHAIN_WRITABLE: number = 1 << 4
/** There are several rows, or they are in an indirect table. */
export const CHAIN_MANY: number = 1 << 5
export const COUNT_SHIFT: number = 8

/**
 * The account of every chain of a queue, in private memory: which are outstanding, in which order they were published,
 * what they take. The queue keeps it; a ring format reads it.
 *
 * Between two calls `order` of an in-order queue holds the ids of published chains from the oldest on, each once, and
 * behind them those that were added and not published. Other queues keep no order, and `oldest` only counts.
 */
export class ChainAccount {
  /** By id: see {@link CHAIN_INFO}. */
  declare readonly chains: Int32Array
  /** In order: ids as their chains were added; a chain's place is its number modulo the length. */
  declare readonly order: Uint16Array
  declare readonly orderMask: number
  declare readonly inOrder: boolean
  /** Breaks the queue: the device did what it must not. */
  declare readonly refuse: (
    code: keyof typeof VIRTQUEUE_CODES,
    message: string,
    details: Readonly<Record<string, unknown>>,
  ) => void
  /** Chains that were published and have not come back. */
  outstanding = 0
  /** Number of the oldest of them, modulo 2^16. */
  oldest = 0

  constructor(size: number, inOrder: boolean, refuse: ChainAccount['refuse']) {
    let places = 1
    while (places < size) places *= 2
    this.chains = new Int32Array(4 * size)
    this.order = new Uint16Array(places)
    this.orderMask = places - 1
    this.inOrder = inOrder
    this.refuse = refuse
  }

  /** The id of an outstanding chain: 0 is the oldest. */
  at(place: number): number {
    return this.order[(this.oldest + place) & this.orderMask]
  }

  /** At which place a chain is outstanding, looking from `place` on; -1 where it is not. */
  find(place: number, id: number): number {
    while (place < this.outstanding && this.at(place) !== id) place++
    return place < this.outstanding ? place : -1
  }

  /** Bytes that the device may write to a chain. */
  posted(id: number): number {
    const info = this.chains[4 * id + CHAIN_INFO]
    return (info & (CHAIN_WRITABLE | CHAIN_MANY)) === 0 ? 0 : this.chains[4 * id + CHAIN_POSTED] >>> 0
  }

  /** Descriptors of the ring that a chain takes. */
  descriptors(id: number): number {
    return this.chains[4 * id + CHAIN_INFO] >> COUNT_SHIFT
  }
}
