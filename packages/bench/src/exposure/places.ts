import type { GuestMemory, MemorySource, Region } from '@guestdma/memory'
import type { Spans } from './spans.ts'

// Bytes between the first places of two memories: more than any of them has.
const APART = 2 ** 40

/**
 * Gives each byte of each memory a number, its place: two device addresses that lead to one byte have one place. Guest
 * RAM comes first, so that the place of one of its bytes is its guest address less that of the first.
 */
export class Places {
  readonly ram: Spans
  private readonly ramBase: number
  private readonly sources = new Map<MemorySource, number>()

  /** `memory` has one range. */
  constructor(memory: GuestMemory) {
    const [{ base, length, region }] = memory.ranges
    this.ramBase = base
    this.ram = [0, length]
    this.sources.set(region.source, 0)
  }

  ofGuest(address: number): number {
    return address - this.ramBase
  }

  of(region: Region, offset: number): number {
    const known = this.sources.get(region.source)
    const at = known ?? this.sources.size
    if (known === undefined) this.sources.set(region.source, at)
    return at * APART + offset
  }
}
