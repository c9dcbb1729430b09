import { closeSync } from 'node:fs'
import { hex, Region } from '@guestdma/memory'
import { SharedMemory } from '@guestdma/node'
import { VhostUserError } from '../protocol/errors.ts'
import { MAX_REGIONS, type MemoryRegion } from '../protocol/payload.ts'

/** A region of the table as a window of a port, and where the front end itself has it. */
export interface MappedWindow {
  /** The guest address. */
  readonly base: number
  readonly length: number
  readonly region: Region
  readonly offset: number
  /** The user address: an address of the front end's process. */
  readonly user: number
}

/**
 * The memory that a front end passed (vhost-user, "Memory regions description"), mapped. The mapping of a file begins at
 * its first byte, whatever the offset of the region; the windows say what of it a device may reach.
 */
export class MappedTable implements Disposable {
  readonly windows: readonly MappedWindow[]
  private readonly memories: SharedMemory[] = []

  /**
   * Owns the descriptors from now on: closes them where it throws, too.
   *
   * @throws VhostUserError `VHOST_TABLE`
   */
  constructor(part: string, regions: readonly MemoryRegion[], descriptors: readonly number[]) {
    const rest = [...descriptors]
    try {
      check(part, regions, descriptors.length)
      this.windows = regions.map(({ guest, length, user, offset }) => {
        const what = `the region at ${hex(guest)}`
        try {
          // Checks that the file is as long as the table says: an access beyond its end would end this process.
          const bytes = offset + length
          const memory = SharedMemory.from(rest.shift() as number, { bytes, name: `${part} ${what}` })
          this.memories.push(memory)
          return { base: guest, length, region: new Region(memory.buffer, memory.name), offset, user }
        } catch (cause) {
          const text = `${what} with ${length} bytes from ${offset} on cannot be mapped`
          throw new VhostUserError('VHOST_TABLE', part, text, { guest, length, offset }, { cause })
        }
      })
    } catch (error) {
      for (const descriptor of rest) closeSync(descriptor)
      this.close()
      throw error
    }
  }

  /** The guest address of a user address; -1 where none of the regions has it. */
  guestOf(address: number): number {
    const found = this.windows.find(({ user, length }) => address >= user && address < user + length)
    return found === undefined ? -1 : found.base + (address - found.user)
  }

  /** Unmaps all. Nothing may use the windows any more. May be called again. */
  close(): void {
    for (const memory of this.memories) memory.close()
    this.memories.length = 0
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

function check(part: string, regions: readonly MemoryRegion[], descriptors: number): void {
  const refuse = (text: string, details: Readonly<Record<string, unknown>>): never => {
    throw new VhostUserError('VHOST_TABLE', part, text, details)
  }
  const { length: count } = regions
  if (count < 1 || count > MAX_REGIONS || count !== descriptors) {
    const text = `a table of ${count} regions came with ${descriptors} descriptors, which must be as many, 1 to ${MAX_REGIONS}`
    refuse(text, { regions: count, descriptors })
  }
  for (const region of regions) {
    const { guest, length, user, offset } = region
    const ends = [guest + length, user + length, offset + length]
    if (length === 0 || !ends.every(Number.isSafeInteger))
      refuse(`a region of ${length} bytes at ${hex(guest)} is empty or ends beyond 2^53`, { ...region })
  }
  for (const key of ['guest', 'user'] as const) {
    const sorted = [...regions].sort((a, b) => a[key] - b[key])
    for (const [i, { [key]: start }] of sorted.entries()) {
      const below = sorted[i - 1]
      if (below !== undefined && below[key] + below.length > start)
        refuse(`the region at ${key} address ${hex(start)} begins inside another one`, { [key]: start })
    }
  }
}
