import { DmaError, type DmaMappings, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import {
  clear,
  copy,
  type GuestAddress,
  type GuestMemory,
  type MemoryWindow,
  type SpanAllocator,
} from '@guestdma/memory'

const TO = TO_DEVICE
const FROM = FROM_DEVICE

/** Bytes of guest RAM that the slots of one backend take, within these numbers of slots. */
const AREA_BYTES = 1 << 20
const LEAST_SLOTS = 32
const MOST_SLOTS = 1024

// In a mapping's token: its head's slot plus one, and above it its tail's; 0 for none.
const HALF = 11
const LOW = 0x7ff
/** The bits of a token that name slots. */
export const TOKEN_SLOTS = 0x3f_ffff

/**
 * Granules of guest RAM that stand in for those at the edges of a buffer: where a buffer covers a granule only in part,
 * the device gets a slot with the buffer's bytes and zeros instead of the granule with its neighbours.
 *
 * A free slot is all zeros. What comes back is scrubbed: the copied bytes if the device could only read, the whole slot
 * if it could write.
 */
export class SubGranuleSlots {
  declare readonly count: number
  declare readonly granule: number
  /** Bytes of a slot, and how many of them stand in for the guest's: a granule, but more than a single byte. */
  declare readonly bytes: number
  declare private readonly edge: number
  /** Guest address of each slot. */
  declare readonly guest: Float64Array

  declare private readonly memory: GuestMemory
  declare private readonly ram: SpanAllocator
  declare private readonly base: GuestAddress
  declare private readonly window: MemoryWindow
  declare private readonly free: Uint32Array
  declare private readonly standingLimit: number
  // Triples: slot, and the bytes of it that are not zero any more.
  declare private readonly retired: Uint32Array
  private freeCount = 0
  private retiredCount = 0
  private standing = 0

  /** @throws DmaError `DMA_ALLOC` */
  constructor(name: string, granule: number, memory: GuestMemory, ram: SpanAllocator) {
    // Smaller ones would not be worth their bookkeeping; a slot covers whole granules in any case.
    const bytes = Math.max(granule, 8)
    const count = Math.min(MOST_SLOTS, Math.max(LEAST_SLOTS, Math.floor(AREA_BYTES / bytes)))
    try {
      this.base = ram.allocate(count * bytes, bytes)
    } catch (cause) {
      throw new DmaError(
        'DMA_ALLOC',
        name,
        `no guest RAM for ${count} bounce slots: ${(cause as Error).message}`,
        {
          length: count * bytes,
        },
        { cause },
      )
    }
    this.count = count
    this.granule = granule
    this.bytes = bytes
    this.edge = granule === 1 ? bytes : granule
    this.memory = memory
    this.ram = ram
    this.window = memory.window(this.base, count * bytes)
    this.window.region.refresh()
    this.window.region.u8.fill(0, this.window.offset, this.window.offset + count * bytes)
    this.guest = Float64Array.from({ length: count }, (_, slot) => this.base + slot * bytes)
    this.free = Uint32Array.from({ length: count }, (_, i) => count - 1 - i)
    this.freeCount = count
    this.retired = new Uint32Array(3 * count)
    // Requests can always go on: posted receive buffers hold half at most.
    this.standingLimit = count >>> 1
  }

  /** Slots that requests can always have, once other requests complete. */
  get assured(): number {
    return this.count - this.standingLimit
  }

  /** The slots that a token names, or -1. */
  headOf(token: number): number {
    return (token & LOW) - 1
  }

  tailOf(token: number): number {
    return ((token >>> HALF) & LOW) - 1
  }

  /** Takes `count` (1 or 2) slots and returns them as one token, or 0. */
  take(head: boolean, tail: boolean, standing: boolean): number {
    const count = (head ? 1 : 0) + (tail ? 1 : 0)
    // Two are asked for in any case, so that it does not depend on a buffer's place whether there is room.
    if (this.freeCount < 2 || (standing && this.standing + 2 > this.standingLimit)) return 0
    if (standing) this.standing += count
    const first = head ? this.free[--this.freeCount] + 1 : 0
    const last = tail ? this.free[--this.freeCount] + 1 : 0
    return first | (last << HALF)
  }

  /** Copies what the device may read of [offset, offset + length) of a mapping into its slots. Returns the bytes. */
  fill(m: DmaMappings, row: number, offset: number, length: number): number {
    return (m.direction[row] & TO) === 0 ? 0 : this.move(m, row, offset, length, true)
  }

  /** Copies what the device wrote into [offset, offset + length) of a mapping out of its slots. Returns the bytes. */
  drain(m: DmaMappings, row: number, offset: number, length: number): number {
    return (m.direction[row] & FROM) === 0 ? 0 : this.move(m, row, offset, length, false)
  }

  /** Undoes {@link take} and {@link fill}: the device has not seen the slots. */
  giveBack(m: DmaMappings, row: number): void {
    const from = this.retiredCount
    this.retire(m, row)
    this.reclaim(from)
  }

  /** Takes a mapping's slots out of use. They are free again after {@link reclaim}. */
  retire(m: DmaMappings, row: number): void {
    const { granule, bytes, edge } = this
    const token = m.token[row]
    const first = (token & LOW) - 1
    const last = ((token >>> HALF) & LOW) - 1
    const writable = (m.direction[row] & FROM) !== 0
    const into = granule === 1 ? 0 : m.guest[row] & (granule - 1)
    const end = into + m.length[row]
    if (first >= 0) {
      if (writable) this.retireOne(first, 0, bytes)
      else this.retireOne(first, into, (end < edge ? end : edge) - into)
      if (m.standing) this.standing--
    }
    if (last >= 0) {
      this.retireOne(last, 0, writable ? bytes : end & (granule - 1))
      if (m.standing) this.standing--
    }
  }

  /** Scrubs what was retired, from entry `from` on, and makes it free: the device can no longer reach it. Returns the bytes. */
  reclaim(from = 0): number {
    const { window, retired, bytes } = this
    if (this.retiredCount === from) return 0
    let scrubbed = 0
    window.region.refresh()
    for (let i = from; i < this.retiredCount; i++) {
      const slot = retired[3 * i]
      const length = retired[3 * i + 2]
      clear(window.region, window.offset + slot * bytes + retired[3 * i + 1], length)
      scrubbed += length
      this.free[this.freeCount++] = slot
    }
    this.retiredCount = from
    return scrubbed
  }

  /** Gives the slots' memory back. */
  dispose(): void {
    this.ram.release(this.base)
  }

  private retireOne(slot: number, from: number, length: number): void {
    const at = 3 * this.retiredCount++
    this.retired[at] = slot
    this.retired[at + 1] = from
    this.retired[at + 2] = length
  }

  private move(m: DmaMappings, row: number, offset: number, length: number, toDevice: boolean): number {
    const { granule, memory, window } = this
    const token = m.token[row]
    const into = granule === 1 ? 0 : m.guest[row] & (granule - 1)
    const end = into + m.length[row]
    const first = (token & LOW) - 1
    const last = ((token >>> HALF) & LOW) - 1
    const { bytes, edge } = this
    let moved = 0
    memory.locate(m.guest, row, m.length[row])
    memory.region.refresh()
    window.region.refresh()
    // In bytes from the start of the first granule: the head's part, then the tail's.
    const from = into + offset
    const to = from + length
    if (first >= 0) {
      const stop = to < edge ? to : edge
      if (stop > from) {
        const slotAt = window.offset + first * bytes + from
        this.copyOne(slotAt, memory.offset + offset, stop - from, toDevice)
        moved += stop - from
      }
    }
    if (last >= 0) {
      const start = end - (end & (granule - 1))
      const begin = from > start ? from : start
      const stop = to < end ? to : end
      if (stop > begin) {
        const slotAt = window.offset + last * bytes + (begin - start)
        this.copyOne(slotAt, memory.offset + (begin - into), stop - begin, toDevice)
        moved += stop - begin
      }
    }
    return moved
  }

  private copyOne(slotAt: number, guestAt: number, length: number, toDevice: boolean): void {
    const slots = this.window.region
    const guest = this.memory.region
    if (toDevice) copy(slots, slotAt, guest, guestAt, length)
    else copy(guest, guestAt, slots, slotAt, length)
  }
}
