import type { BusPort } from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'
import type { Virtqueue } from '@guestdma/virtqueue'

/** One element of a chain, as the device sees it. */
export interface PeerElement {
  readonly address: number
  readonly length: number
  readonly writable: boolean
}

/** A chain that the driver made available. */
export interface PeerChain {
  /** What the device returns: the head's index, or a packed ring's buffer id. */
  readonly id: number
  readonly elements: readonly PeerElement[]
  /** Were they in an indirect table? */
  readonly indirect: boolean
}

/** What makes a peer: where the queue is, and what was agreed. */
export interface PeerSetup {
  readonly port: BusPort
  readonly size: number
  readonly areas: Virtqueue['areas']
  readonly features: FeatureSet
}

/**
 * The device's half of a virtqueue, for tests of the driver's half: it knows the ring's format, checks all that a
 * device may rely on, and can lie. Where the driver's half breaks a rule it throws a `PeerError`.
 */
export interface RingPeer {
  /** All chains that are available and not taken, in order, taking none. */
  peek(): PeerChain[]
  /** Takes the next available chain, or `null`. */
  take(): PeerChain | null
  /** Returns chains: one used element each, made visible together. */
  use(elements: ReadonlyArray<{ readonly id: number; readonly written: number }>): void
  /** IN_ORDER: returns `count` chains with one element, which names the last of them. */
  useBatch(lastId: number, count: number, written: number): void
  /** Did what was used since the last call oblige the device to notify the driver? */
  mustInterrupt(): boolean
  /** Without EVENT_IDX: does the device want doorbells? */
  wantDoorbells(wanted: boolean): void
  /**
   * With EVENT_IDX: the device wants a doorbell when the chain at this position (counted from 0, from the start) is
   * made available.
   */
  wantDoorbellAt(position: number): void

  /** A lie: makes the used side go on by `by` without writing any element. */
  jump(by: number): void
  /** A misdeed: overwrites everything that only the driver writes. */
  scribble(): void
}

/** The driver's half broke a rule that devices rely on. */
export class PeerError extends Error {
  /** The rule's name in the suite: `ring/chains`, and so on. */
  readonly rule: string

  constructor(rule: string, message: string) {
    super(`${rule}: ${message}`)
    this.name = 'PeerError'
    this.rule = rule
  }
}
