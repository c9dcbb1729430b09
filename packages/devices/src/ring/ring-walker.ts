import { ACCESS_WRITE, type BusPort, Region } from '@guestdma/memory'
import { MAX_QUEUE_SIZE } from '@guestdma/spec'
import type { QueueFaultReason } from '../faults/faults.ts'
import { ChainResolver } from './chain-resolver.ts'
import { ChainTable, MAX_SEGMENTS, ROW, ROW_ID } from './chain-table.ts'
import type { DeviceRing, DeviceRingFormats, RingPosition, RingSetup } from './device-ring.ts'
import { PackedDeviceRing } from './packed.ts'
import type { RingOwner } from './ring-area.ts'
import { SplitDeviceRing } from './split.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const STRIDE = ROW
const ID = ROW_ID

/** What `take` returns when there is no chain: none available, or the queue is broken. */
export const NO_CHAIN = -1

/**
 * The device's side of one virtqueue of either format (virtio 1.4 §2.6): takes available chains, pushes used ones.
 *
 * Nothing in the ring is trusted. A format loads each shared word once and puts chains down in private words; each buffer
 * is resolved through the port before `take` returns, so a device acts on a whole chain or on none. What is
 * malformed sets `broken`: from then on nothing is taken, and only what was pushed before is still published. Nothing
 * here throws, and every loop is bounded by the queue size.
 *
 * A zero-length element is legal (§2.7 forbids none, and §2.7.4.1 forbids assumptions about framing): it counts towards
 * the chain's length, its address is not looked at, and it yields no segment.
 *
 * Use: `update`, then `take` and `push` until `NO_CHAIN`, then `flushAndRearm`, and again where there is {@link more}.
 */
export class RingWalker implements RingOwner {
  declare readonly chains: ChainTable
  declare readonly port: BusPort
  /**
   * Of the last `take`, `takeMore` or `takeBatch`: how many chains more than it returned the work was worth, by
   * {@link CHAIN_STEPS} and {@link CHAIN_BYTES}. A batch ends with the first chain that is worth several. Copies of a
   * ring in pieces count with the first chain that is taken after them.
   */
  extra = 0
  broken: QueueFaultReason | null = null
  /** With `broken`: the head of the chain at fault or -1, the offending number, and its bound. */
  brokenHead = -1
  brokenValue = 0
  brokenLimit = 0

  declare private readonly split: DeviceRing
  declare private readonly packed: DeviceRing
  declare private ring: DeviceRing
  declare private readonly resolver: ChainResolver
  private inOrder = false
  private paused = false
  // Counts stops.
  private stops = 0
  // In order: number of the next chain to complete, modulo 2^16.
  private completed = 0
  // In order: completions by number, held until all earlier ones came. -1: it is not there.
  private heldWritten = new Float64Array(0)
  private heldHead = new Int32Array(0)
  private heldMask = 0

  /** `formats`: who brings a ring format of its own. */
  constructor(maxSize: number, port: BusPort, formats: Partial<DeviceRingFormats> = {}) {
    const nowhere = new Region(new ArrayBuffer(0), 'no ring')
    this.port = port
    this.chains = new ChainTable(maxSize, nowhere)
    this.split = formats.split?.(this) ?? new SplitDeviceRing(this)
    this.packed = formats.packed?.(this) ?? new PackedDeviceRing(this)
    this.ring = this.split
    this.resolver = new ChainResolver(this, this.chains)
  }

  /** A queue that was just enabled (virtio 1.4 §2.6.1). False: `broken` says why, or the port does not know yet. */
  start(setup: RingSetup, maxSize: number): boolean {
    const { inOrder, packed, size } = setup
    this.broken = null
    this.paused = false
    this.completed = 0
    this.ring = packed ? this.packed : this.split
    this.chains.clear()
    if (size < 1 || size > maxSize || size > MAX_QUEUE_SIZE) {
      this.fail('queue-size', -1, size, maxSize)
      return false
    }
    if (!this.ring.start(setup)) return false
    this.resolver.start(this.ring, setup)
    this.inOrder = inOrder
    let places = 1
    while (places < size) places *= 2
    this.heldMask = places - 1
    this.heldHead = new Int32Array(inOrder ? places : 0)
    this.heldWritten = new Float64Array(inOrder ? places : 0).fill(-1)
    return this.attach(setup)
  }

  /** A queue that was reset or disabled: nothing is left to take or to publish. */
  stop(): void {
    this.stops++
    this.chains.clear()
    this.ring.stop()
  }

  /** Takes nothing more, whatever the driver makes available, until the next `start`. */
  pause(): void {
    this.paused = true
    this.giveBack()
  }

  /**
   * Resolves the three areas; again whenever the port's epoch changed. False: `broken` says why, or the port does not
   * know yet, and nothing may be asked of the ring before this is called again.
   */
  attach(setup: RingSetup): boolean {
    return this.ring.attach(setup)
  }

  /** Where the used side stands in memory: where an earlier server of the queue left it. */
  get storedUsed(): number {
    return this.ring.storedUsed
  }

  /** Chains that were marked used and that no `flush` published yet. */
  get unpublished(): number {
    return this.ring.unpublished
  }

  /** Chains that are known of and not taken yet. */
  get ready(): number {
    const { next, to } = this.chains
    return this.paused ? 0 : to - next + this.ring.ready
  }

  /** Looks, once, whether the driver made chains available. Returns how many can be taken. */
  update(): number {
    if (this.broken !== null || this.paused) return 0
    const { next, to } = this.chains
    return to - next + this.ring.update()
  }

  /** Forgets the rows of `chains` and takes the next chain into row 0. Returns 0 or {@link NO_CHAIN}. */
  take(): number {
    return this.takeBatch(1) === 1 ? 0 : NO_CHAIN
  }

  /** Forgets the rows of `chains` and takes up to `limit` chains into rows 0 and up. Returns how many. */
  takeBatch(limit: number): number {
    // What was taken before can be given back no more.
    this.chains.forget()
    return this.append(limit)
  }

  /** Takes the next chain into a further row and returns it, or {@link NO_CHAIN}. */
  takeMore(): number {
    return this.append(1) === 1 ? this.chains.next - 1 - this.chains.row0 : NO_CHAIN
  }

  /** Gives the last `rows` chains back, untouched: the next `take` finds them again. */
  untake(rows: number): void {
    this.chains.next -= rows
  }

  /**
   * Marks a chain used, in memory but not yet for the driver to see. `written` counts from the first device-writable
   * byte on. `whole`: all of the writable part was written, or there is none; only such an element may be left out of
   * an in-order batch.
   */
  push(head: number, written: number, whole: boolean): void {
    this.ring.push(head, written, whole)
  }

  /** As many calls of `push`: for rows `first` and up, of which `written[0]` bytes and up were written. */
  pushRows(first: number, count: number, written: Int32Array): void {
    this.ring.pushRows(this.chains, first, count, written)
  }

  /**
   * As `push`, for chains that are completed in any order. In order, it is held until all chains taken before it are
   * completed (§2.7.9).
   */
  complete(head: number, position: number, written: number, whole: boolean): void {
    if (!this.inOrder) {
      this.push(head, written, whole)
      return
    }
    const { chains, heldHead, heldMask, heldWritten } = this
    const next = chains.numberOf(chains.next)
    heldHead[position & heldMask] = head
    heldWritten[position & heldMask] = written
    while (this.completed !== next) {
      const place = this.completed & heldMask
      if (heldWritten[place] < 0) return
      this.push(heldHead[place], heldWritten[place], false)
      heldWritten[place] = -1
      this.completed = (this.completed + 1) & 0xffff
    }
  }

  /** Publishes what was pushed. Returns whether the driver wants a notification (§2.7.7.2, §2.8.22). */
  flush(): boolean {
    return this.ring.flush()
  }

  /**
   * Before waiting: asks for a notification at the next chain that becomes available (§2.7.10). Returns whether one
   * came in the meantime.
   */
  rearm(): boolean {
    return this.broken === null && this.ring.rearm() && !this.paused
  }

  /**
   * {@link flush} and {@link rearm}, with one barrier for both where the format can, for a device that has taken all
   * there is. Returns what `flush` does; {@link more} holds what `rearm` returns.
   */
  flushAndRearm(): boolean {
    return this.broken === null ? this.ring.flushAndRearm() : this.ring.flush()
  }

  /** Of the last {@link flushAndRearm}: chains came in the meantime. */
  get more(): boolean {
    return this.broken === null && !this.paused && this.ring.more && this.chains.next === this.chains.to
  }

  /** Where the queue stands; nothing may be outstanding except what only waits for `flush`. */
  save(): RingPosition {
    this.giveBack()
    return this.ring.save()
  }

  /** Continues where `save` stood; after `start`. */
  restore(position: RingPosition): void {
    this.ring.restore(position)
  }

  /** Breaks the queue, also from outside for what only the device type can judge. Returns {@link NO_CHAIN}. */
  fail(reason: QueueFaultReason, head: number, value: number, limit: number): number {
    if (this.broken === null) {
      this.broken = reason
      this.brokenHead = head
      this.brokenValue = value
      this.brokenLimit = limit
    }
    return NO_CHAIN
  }

  /** For the format. */
  refused(reason: QueueFaultReason, head: number, length: number): number {
    // Where the port does not know yet, that is no fault: the chain stays where it is.
    return this.port.pending === true ? NO_CHAIN : this.fail(reason, head, length, 0)
  }

  /**
   * Replaces all rows by one that consists of `count` device-writable spans, resolved as the port grants them now. For
   * a completion that comes long after its chain was taken; the row has no position. False: the port refused, and
   * `broken` is set, or it does not know yet.
   */
  reresolve(addresses: Float64Array, lengths: Uint32Array, count: number, head: number): boolean {
    const { chains, port } = this
    chains.forget()
    const row = chains.to
    const first = chains.segments
    let writable = 0
    for (let i = 0; i < count; i++) {
      port.request[0] = addresses[i]
      if (!this.resolver.pieces(lengths[i], port.resolve(lengths[i], ACCESS_WRITE), ACCESS_WRITE, head)) return false
      writable += lengths[i]
    }
    chains.row0 = row
    chains.columns[row * STRIDE + ID] = head
    chains.describe(row, first, first, chains.segments, 0, writable)
    return true
  }

  private giveBack(): void {
    this.ring.unfetch(this.chains)
    this.chains.to = this.chains.next
  }

  private append(limit: number): number {
    const { chains, port, resolver, ring } = this
    this.extra = 0
    if (this.broken !== null || this.paused) return 0
    if (chains.next === chains.to && !this.load()) return 0
    // Code that the device called since the last chain may have grown a memory.
    if (port.region.u8.length === 0) port.refresh()
    resolver.extra = ring.copies
    ring.copies = 0
    const { stops } = this
    const from = chains.next
    const ready = chains.to - from
    const taken = resolver.resolve(from, ready < limit ? ready : limit)
    this.extra = resolver.extra
    // Whoever is told of an access that the port refused may have reset the queue.
    if (stops !== this.stops) return 0
    chains.next = from + taken
    return taken
  }

  private load(): boolean {
    const { chains, ring } = this
    // Many chains for one frame, of many descriptors each: what stands in its place counts when more is loaded.
    if (chains.next > chains.row0 && chains.segments >= MAX_SEGMENTS) {
      this.fail('segments', -1, chains.segments, MAX_SEGMENTS)
      return false
    }
    return ring.fetch(chains, chains.room) > 0
  }
}
