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
 *
 * An entry is what the ring counts: a chain in a split ring, a descriptor of its ring in a packed one.
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
  /** Does the device want doorbells? In a split ring it can say so only without EVENT_IDX. */
  wantDoorbells(wanted: boolean): void
  /** With EVENT_IDX: the device wants a doorbell when this entry is made available. */
  wantDoorbellAt(entry: number): void
  /** How a notification names this entry, and an event too (virtio 1.4 §2.9). Entries count on from 0, also below it. */
  positionOf(entry: number): number

  /**
   * A lie: makes the used side go on by `by` entries, or back, without writing any element. A split ring's used index
   * jumps; in a packed ring the next used descriptor is written elsewhere, `size` further on with the wrong wrap counter.
   */
  jump(by: number): void
  /** A misdeed: overwrites what the driver wrote, but for what marks a packed ring's descriptors as available. */
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
