import { BlkSlot, stagingSize } from './request-slot.ts'

/**
 * The requests that a block device has in flight, a slot each, and the staging memory in them; beside these the orphans:
 * requests that the store still holds after a reset or a halt.
 *
 * Of the orphans, what is waited for: by queue all that came from it, and after a reset of the device the writes from
 * before.
 */
export class BlkSlots {
  /** Requests in flight. */
  taken = 0

  declare private readonly slots: BlkSlot[]
  declare private readonly ended: (slot: BlkSlot) => void
  // Bytes of staging memory that may be in use, and that are.
  declare private readonly limit: number
  private used = 0
  private readonly orphans = new Set<BlkSlot>()
  private orphanBytes = 0
  private lateWrites = 0
  declare private readonly orphansOf: Int32Array

  /** `count` slots and `limit` bytes, for `queues` queues. `ended` is called for a slot whose request the store ended. */
  constructor(count: number, limit: number, queues: number, ended: (slot: BlkSlot) => void) {
    this.slots = Array.from({ length: count }, () => new BlkSlot(ended))
    this.ended = ended
    this.limit = limit
    this.orphansOf = new Int32Array(queues)
  }

  /** Requests that more can be taken of, whatever their size. */
  get room(): number {
    return this.slots.length - this.taken
  }

  /** Requests in flight, and orphans that are waited for. */
  get inFlight(): number {
    return this.taken + this.lateWrites + this.orphansOf.reduce((sum, count) => sum + count, 0)
  }

  inFlightOf(queue: number): number {
    return this.slots.filter(({ queue: of, state }) => of === queue && (state === 'pending' || state === 'done')).length
  }

  /** Whether there are orphans of a queue. */
  executing(queue: number): boolean {
    return this.orphansOf[queue] > 0
  }

  /** Whether a queue has to wait: for orphans, or until so many bytes of staging memory are free. */
  holdsBack(queue: number, bytes: number): boolean {
    if (this.orphansOf[queue] > 0 || this.lateWrites > 0) return true
    if (this.orphans.size > this.slots.length || this.orphanBytes > this.limit) return true
    return this.used + bytes > this.limit
  }

  /**
   * Takes a slot with `bytes` of staging memory within the limit, whose place equals `align` modulo 8; `null` while there
   * is none. Buffers have sizes in powers of two: one of the right size is used again, and a larger one is not taken for a
   * small request, which would starve others.
   */
  take(bytes: number, align: number): BlkSlot | null {
    const slot = this.find(bytes === 0 ? 0 : stagingSize(bytes))
    if (slot === null) return null
    slot.stage(bytes, align)
    slot.reserved = bytes > 0 ? slot.held : 0
    slot.state = 'pending'
    this.used += slot.reserved
    this.taken++
    return slot
  }

  /** Gives the slot of a request that was answered back. */
  free(slot: BlkSlot): void {
    slot.state = 'free'
    this.taken--
    this.used -= slot.reserved
    slot.reserved = 0
  }

  /**
   * Requests of one queue (or all, -1) are void: what the store still holds becomes an orphan of its queue, and another
   * slot takes its place.
   */
  disown(queue: number): void {
    this.slots.forEach((slot, i) => {
      if (queue >= 0 && slot.queue !== queue) return
      if (slot.state === 'done') this.free(slot)
      if (slot.state !== 'pending') return
      const { reserved } = slot
      this.free(slot)
      slot.state = 'orphan'
      slot.reserved = reserved
      this.orphans.add(slot)
      this.orphanBytes += reserved
      this.orphansOf[slot.queue]++
      this.slots[i] = new BlkSlot(this.ended)
    })
  }

  /** The device was reset: of the orphans only writes are waited for. */
  keepLateWrites(): void {
    this.orphansOf.fill(0)
    this.lateWrites = 0
    for (const orphan of this.orphans) {
      orphan.queue = -1
      if (orphan.phase === 'write') this.lateWrites++
    }
  }

  /** The store let go of an orphan. */
  forget(orphan: BlkSlot): void {
    orphan.state = 'free'
    this.orphans.delete(orphan)
    this.orphanBytes -= orphan.reserved
    if (orphan.queue >= 0) this.orphansOf[orphan.queue]--
    else if (orphan.phase === 'write') this.lateWrites--
  }

  private find(needed: number): BlkSlot | null {
    if (this.used + needed > this.limit) return null
    let found: BlkSlot | null = null
    for (const slot of this.slots) {
      if (slot.state !== 'free') continue
      if (needed === 0 || slot.held === needed) return slot
      if (found === null || (found.held > 0 && slot.held === 0)) found = slot
    }
    if (found !== null) {
      found.drop()
      this.trim(needed)
    }
    return found
  }

  // Buffers that are kept for later may not take more than the limit either.
  private trim(needed: number): void {
    let kept = this.used + needed
    for (const slot of this.slots) {
      if (slot.state !== 'free') continue
      if (kept + slot.held > this.limit) slot.drop()
      kept += slot.held
    }
  }
}
