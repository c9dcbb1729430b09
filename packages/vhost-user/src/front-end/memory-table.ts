import { hex } from '@guestdma/memory'
import type { SharedMemory } from '@guestdma/node'
import { VhostUserError } from '../protocol/errors.ts'
import { MAX_REGIONS, type MemoryRegion } from '../protocol/payload.ts'

/** Memory that a back end is given: bytes [offset, offset + length) of `memory`. In whole pages. */
export interface SharedWindow {
  readonly memory: Pick<SharedMemory, 'fd' | 'bytes'>
  /** Where the device finds it: what a driver puts into rings; a guest address where an IOTLB translates. */
  readonly device: number
  /** Default 0. */
  readonly offset?: number
  /** Default: all from `offset` on. */
  readonly length?: number
}

const PAGE = 4096
/**
 * User addresses are device addresses and this, so that 0 is none of them. The front end may choose any addresses; no
 * process has memory at these.
 */
const USER_BASE = 2 ** 46

/**
 * All that a back end can reach (vhost-user, "Memory access"): the windows that it is given, whose descriptors are
 * passed to it, and nothing else.
 */
export class MemoryTable {
  readonly regions: readonly MemoryRegion[]
  private readonly windows: readonly SharedWindow[]
  private readonly part: string

  /** @throws VhostUserError `VHOST_MEMORY` */
  constructor(part: string, windows: readonly SharedWindow[]) {
    this.part = part
    this.windows = windows
    if (windows.length === 0 || windows.length > MAX_REGIONS)
      throw this.error(`${windows.length} windows of memory, which must be 1 to ${MAX_REGIONS}`, {
        windows: windows.length,
      })
    this.regions = windows.map((window) => this.region(window))
    const sorted = [...this.regions].sort((a, b) => a.guest - b.guest)
    for (const [i, { guest }] of sorted.entries()) {
      const below = sorted[i - 1]
      if (below !== undefined && below.guest + below.length > guest)
        throw this.error(`the window at ${hex(guest)} begins inside the one at ${hex(below.guest)}`, { guest })
    }
  }

  /** To be passed with the table, in its order. */
  get descriptors(): number[] {
    return this.windows.map(({ memory }) => memory.fd)
  }

  /** The user address of a device address, or 0 where [device, device + length) does not lie in one window. */
  userOf(device: number, length: number): number {
    for (const { guest, length: bytes } of this.regions)
      if (device >= guest && device + length <= guest + bytes) return device + USER_BASE
    return 0
  }

  private region({ memory, device, offset = 0, length = memory.bytes - offset }: SharedWindow): MemoryRegion {
    const what = `the window at ${hex(device)}`
    for (const [name, value] of Object.entries({ device, offset, length })) {
      if (Number.isSafeInteger(value) && value >= 0 && value % PAGE === 0) continue
      throw this.error(`${what} has ${name} ${value}, which must be whole pages of ${PAGE}`, { device, offset, length })
    }
    if (length === 0 || offset + length > memory.bytes || device + length > USER_BASE) {
      const bounds = `the ${memory.bytes} bytes of its memory and below ${hex(USER_BASE)}`
      throw this.error(`${what} has offset ${offset} and length ${length}, which must lie in ${bounds}`, {
        device,
        offset,
        length,
      })
    }
    if (memory.fd < 0) throw this.error(`the memory of ${what} is closed`, { device })
    return { guest: device, length, user: device + USER_BASE, offset }
  }

  private error(text: string, details: Readonly<Record<string, unknown>>): VhostUserError {
    return new VhostUserError('VHOST_MEMORY', this.part, text, details)
  }
}
