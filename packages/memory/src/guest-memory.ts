import { checkSpan, type GuestAddress } from './address.ts'
import { hex, MemoryError } from './errors.ts'
import { observe } from './fault-log.ts'
import { type MemorySource, type MemoryWindow, Region } from './region.ts'

/** [base, base + length) of the guest's physical addresses is bytes [offset, offset + length) of `memory`. */
export interface GuestRange {
  readonly base: number
  readonly length: number
  readonly memory: MemorySource
  /** Defaults to 0. Must equal `base` modulo 16, so that what is aligned for the guest is aligned in the buffer. */
  readonly offset?: number
}

export interface GuestMemoryOptions {
  readonly name?: string
  /**
   * Called after a device wrote: the one hook for a JIT's invalidation and for a dirty log. Guest address and bytes. It
   * may grow the memory. What it throws surfaces in a microtask.
   */
  onDeviceWrite?(address: GuestAddress, length: number): void
}

/** A checked range and the region that holds it. */
export interface LocatedRange {
  readonly base: number
  readonly end: number
  readonly length: number
  readonly region: Region
  readonly offset: number
}

const RANGE_ALIGN = 16

/**
 * The guest's physical memory: ranges over one or more buffers. Several ranges may share a buffer; guest addresses may
 * not overlap.
 *
 * @example
 * const ram = new WebAssembly.Memory({ initial: 256 })
 * const memory = new GuestMemory([{ base: 0x8000_0000, length: 16 << 20, memory: ram, offset: 0 }])
 * memory.write(guestAddress(0x8000_1000), new Uint8Array([1, 2, 3]))
 *
 * @throws MemoryError `MEMORY_ADDRESS`, `MEMORY_LENGTH`, `MEMORY_OVERLAP`, `MEMORY_OUTSIDE`, `MEMORY_ALIGN`,
 *   `MEMORY_RESIZABLE`, `MEMORY_SOURCE`
 */
export class GuestMemory {
  declare readonly name: string
  declare readonly ranges: readonly LocatedRange[]
  /** One per distinct buffer. */
  declare readonly regions: readonly Region[]

  /** Where the last successful {@link locate} found its bytes. */
  declare region: Region
  offset = 0

  declare private hit: LocatedRange

  constructor(ranges: readonly GuestRange[], options: GuestMemoryOptions = {}) {
    this.name = options.name ?? 'guest memory'
    if (ranges.length === 0) throw new MemoryError('MEMORY_EMPTY', this.name, 'at least one range is needed')
    const regions = new Map<MemorySource, Region>()
    this.ranges = ranges
      .map(({ base, length, memory, offset = 0 }) => {
        const part = `${this.name} range ${hex(base)}`
        checkSpan(base, length, part)
        const region = regions.get(memory) ?? new Region(memory, this.name)
        regions.set(memory, region)
        if (!Number.isInteger(offset) || offset < 0 || offset + length > region.length) {
          throw new MemoryError(
            'MEMORY_OUTSIDE',
            part,
            `offset ${offset} and length ${length} must lie inside the buffer's ${region.length} bytes`,
            {
              offset,
              length,
              bufferLength: region.length,
            },
          )
        }
        if ((base - offset) % RANGE_ALIGN !== 0) {
          throw new MemoryError(
            'MEMORY_ALIGN',
            part,
            `base and offset ${offset} must be equal modulo ${RANGE_ALIGN}, so that aligned fields stay aligned`,
            { base, offset },
          )
        }
        return { base, end: base + length, length, region, offset }
      })
      .sort((a, b) => a.base - b.base)
    for (let i = 1; i < this.ranges.length; i++) {
      const below = this.ranges[i - 1] as LocatedRange
      const range = this.ranges[i] as LocatedRange
      if (below.base + below.length > range.base) {
        throw new MemoryError(
          'MEMORY_OVERLAP',
          this.name,
          `range ${hex(range.base)} begins inside range ${hex(below.base)} + ${hex(below.length)}`,
          {
            base: range.base,
            length: range.length,
            otherBase: below.base,
            otherLength: below.length,
          },
        )
      }
    }
    this.regions = [...regions.values()]
    this.hit = this.ranges[0] as LocatedRange
    this.region = this.hit.region
    const { onDeviceWrite } = options
    if (onDeviceWrite !== undefined) for (const region of this.regions) this.reportWrites(region, onDeviceWrite)
  }

  /** Re-derives views after growth of a `WebAssembly.Memory`; called at the head of each batch. */
  refresh(): void {
    for (let i = 0; i < this.regions.length; i++) (this.regions[i] as Region).refresh()
  }

  /**
   * Finds up to `length` bytes at `addresses[row]`. Returns how many lie contiguous in one buffer (at most `length`),
   * or 0 where the address is not memory; `region` and `offset` hold where. Allocates nothing.
   */
  locate(addresses: Float64Array, row: number, length: number): number {
    const address = addresses[row]
    let range = this.hit
    let into = address - range.base
    if (!(into >= 0 && into < range.length)) {
      const found = this.find(address)
      if (found === null) return 0
      this.hit = range = found
      into = address - range.base
    }
    this.region = range.region
    this.offset = range.offset + into
    const left = range.length - into
    return left < length ? left : length
  }

  /** Do the `length` bytes at `addresses[row]` lie in one range? Allocates nothing. */
  contains(addresses: Float64Array, row: number, length: number): boolean {
    const address = addresses[row]
    let range = this.hit
    if (!(address >= range.base && address + length <= range.end)) {
      const found = this.find(address)
      if (found === null || address + length > found.end) return false
      this.hit = range = found
    }
    return true
  }

  /** The bytes at [address, address + length) as one window. Throws `MEMORY_OUTSIDE` unless they lie in one range. */
  window(address: GuestAddress, length: number): MemoryWindow {
    checkSpan(address, length, this.name)
    const range = this.find(address)
    if (range === null || address + length > range.base + range.length) {
      throw new MemoryError(
        'MEMORY_OUTSIDE',
        this.name,
        `${hex(address)} + ${hex(length)} is not inside one range (${this.describe()})`,
        { address, length },
      )
    }
    return { region: range.region, offset: range.offset + (address - range.base), length }
  }

  /** Copies bytes into guest memory. Throws `MEMORY_OUTSIDE`. */
  write(address: GuestAddress, bytes: Uint8Array): void {
    if (bytes.length === 0) return
    const { region, offset } = this.window(address, bytes.length)
    region.refresh()
    region.u8.set(bytes, offset)
  }

  /** A copy of bytes of guest memory. Throws `MEMORY_OUTSIDE`. */
  read(address: GuestAddress, length: number): Uint8Array<ArrayBuffer> {
    if (length === 0) return new Uint8Array(0)
    const { region, offset } = this.window(address, length)
    region.refresh()
    return new Uint8Array(region.u8.subarray(offset, offset + length))
  }

  /** The ranges in words, for messages. */
  describe(): string {
    return this.ranges.map(({ base, length }) => `${hex(base)} + ${hex(length)}`).join(', ')
  }

  private find(address: number): LocatedRange | null {
    for (let i = 0; i < this.ranges.length; i++) {
      const range = this.ranges[i] as LocatedRange
      if (address >= range.base && address - range.base < range.length) return range
    }
    return null
  }

  // Several ranges may show the same bytes: each of them is reported.
  private reportWrites(region: Region, onDeviceWrite: (address: GuestAddress, length: number) => void): void {
    const ranges = this.ranges.filter((range) => range.region === region)
    region.onDeviceWrite = (offset, length) => {
      for (const range of ranges) {
        const from = Math.max(offset, range.offset)
        const to = Math.min(offset + length, range.offset + range.length)
        if (from >= to) continue
        try {
          onDeviceWrite((range.base + (from - range.offset)) as GuestAddress, to - from)
        } catch (error) {
          observe(rethrow, error)
        }
      }
      // The device goes on with these regions.
      this.refresh()
    }
  }
}

function rethrow(error: unknown): void {
  throw error
}
