import { closeSync } from 'node:fs'
import type { BusWindow } from '@guestdma/devices'
import { hex, Region } from '@guestdma/memory'
import { SharedMemory } from '@guestdma/node'
import { VhostUserError } from '../protocol/errors.ts'
import type { MemoryRegion } from '../protocol/payload.ts'

const PAGE = 4096

/** The memory that a front end gave (vhost-user, "Memory access"), mapped here. */
export class GuestWindows {
  private readonly regions: readonly MemoryRegion[]
  private readonly mapped: SharedMemory[] = []

  /**
   * Maps the regions of a table. Owns the descriptors, and closes them if this throws.
   *
   * @throws VhostUserError `VHOST_DESCRIPTORS`, `VHOST_MEMORY`; NodeError where a region cannot be mapped
   */
  constructor(part: string, regions: readonly MemoryRegion[], descriptors: readonly number[]) {
    this.regions = regions
    const left = [...descriptors]
    try {
      check(part, regions, descriptors)
      for (const [i, { offset, length }] of regions.entries()) {
        const options = { name: `${part} memory ${i}`, bytes: offset + length }
        this.mapped.push(SharedMemory.from(left.shift() as number, options))
      }
    } catch (error) {
      for (const descriptor of left) closeSync(descriptor)
      this.close()
      throw error
    }
  }

  /** What a device reaches, at guest addresses. */
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

function check(part: string, regions: readonly MemoryRegion[], descriptors: readonly number[]): void {
  if (regions.length !== descriptors.length) {
    const text = `${regions.length} regions came with ${descriptors.length} descriptors`
    throw new VhostUserError('VHOST_DESCRIPTORS', part, text, { regions: regions.length, count: descriptors.length })
  }
  for (const { guest, offset } of regions) {
    // What is aligned for the guest is to be aligned here.
    if ((guest - offset) % PAGE === 0) continue
    const text = `the region at ${hex(guest)} has offset ${hex(offset)}, which must differ by whole pages`
    throw new VhostUserError('VHOST_MEMORY', part, text, { guest, offset })
  }
}
