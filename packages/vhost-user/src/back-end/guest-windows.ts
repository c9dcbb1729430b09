import type { BusWindow } from '@guestdma/devices'
import { Region } from '@guestdma/memory'
import { SharedMemory } from '@guestdma/node'
import type { MemoryRegion } from '../protocol/payload.ts'

/** The memory that a front end gave (vhost-user, "Memory access"), mapped here. */
export class GuestWindows {
  private readonly regions: readonly MemoryRegion[]
  private readonly mapped: SharedMemory[] = []

  /**
   * Maps the regions of a table. Owns the descriptors, and closes them if this throws.
   *
   * @throws NodeError where one cannot be mapped
   */
  constructor(part: string, regions: readonly MemoryRegion[], descriptors: readonly number[]) {
    this.regions = regions
    const errors: unknown[] = []
    for (const [i, fd] of descriptors.entries()) {
      const { offset, length } = regions[i] ?? { offset: 0, length: 0 }
      try {
        this.mapped.push(SharedMemory.from(fd, { name: `${part} memory ${i}`, bytes: offset + length }))
      } catch (error) {
        errors.push(error)
      }
    }
    if (errors.length === 0) return
    this.close()
    throw errors[0]
  }

  /** What a device reaches: guest addresses. */
  get windows(): BusWindow[] {
    return this.regions.map(({ guest, length, offset }, i) => {
      const { name, buffer } = this.mapped[i]
      return { base: guest, length, offset, region: new Region(buffer, name) }
    })
  }

  /** The guest address of a user address, which is how a front end names rings. Undefined outside of the table. */
  guestOf(address: number): number | undefined {
    const found = this.regions.find(({ user, length }) => address >= user && address < user + length)
    return found === undefined ? undefined : found.guest + (address - found.user)
  }

  close(): void {
    for (const memory of this.mapped) memory.close()
  }
}
