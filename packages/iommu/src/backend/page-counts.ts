import type { GuestMemory } from '@guestdma/memory'

const CHUNK_BITS = 12
const CHUNK = 1 << CHUNK_BITS
const ENTRY_BITS = 3

// An entry has 8 elements: how many live mappings touch the page; from 1 on, by access (1, 2, 3), how many of them lie
// inside it and share an address; behind those, by access, the addresses.
/** Element of an entry, plus the access: the I/O virtual address that buffers inside the page share. */
export const PAGE_IOVA = 3

/**
 * Reference counts of the pages of guest RAM: a page that two buffers share stays within the device's reach until both
 * are taken back, and buffers inside one page share its I/O virtual address. Kept in chunks that are made when they are
 * first needed.
 */
export class PageCounts {
  /** The chunk of the page that was located last. */
  cells: Float64Array = new Float64Array(0)

  declare private readonly scale: number
  declare private readonly bases: Float64Array
  declare private readonly ends: Float64Array
  declare private readonly chunks: (Float64Array | null)[][]
  private last = 0
  // The first page of the chunk that was located last, and the first page beyond it.
  private readonly near = new Float64Array(2)

  constructor(memory: GuestMemory, pageBytes: number) {
    this.scale = 1 / pageBytes
    // Two ranges may share a page at their edges: it is counted once, with the lower one.
    const bases = memory.ranges.map(({ base }, i) =>
      Math.max(Math.floor(base / pageBytes), i === 0 ? 0 : Math.ceil(memory.ranges[i - 1].end / pageBytes)),
    )
    this.bases = Float64Array.from(bases)
    this.ends = Float64Array.from(memory.ranges, ({ end }) => Math.ceil(end / pageBytes))
    this.chunks = memory.ranges.map(({ end }, i) =>
      new Array<Float64Array | null>(Math.max(0, Math.ceil((Math.ceil(end / pageBytes) - bases[i]) / CHUNK))).fill(
        null,
      ),
    )
  }

  /** Where in {@link cells} the entry of the page of `address[row]` is. The page belongs to a range of memory. */
  locate(address: Float64Array, row: number): number {
    const page = Math.floor(address[row] * this.scale)
    const { near } = this
    if (!(page >= near[0] && page < near[1])) this.choose(page)
    return (page - near[0]) << ENTRY_BITS
  }

  /** Adds `step` (1 or -1) to the page of `address[row]`, and returns its count. */
  add(address: Float64Array, row: number, step: number): number {
    const at = this.locate(address, row)
    const count = this.cells[at] + step
    this.cells[at] = count
    return count
  }

  private choose(page: number): void {
    const { bases, ends, near } = this
    let range = this.last
    if (!(page >= bases[range] && page < ends[range])) {
      range = 0
      while (range < bases.length - 1 && !(page >= bases[range] && page < ends[range])) range++
      this.last = range
    }
    const number = Math.floor((page - bases[range]) / CHUNK)
    const chunks = this.chunks[range]
    const chunk = chunks[number] ?? new Float64Array(CHUNK << ENTRY_BITS)
    chunks[number] = chunk
    this.cells = chunk
    near[0] = bases[range] + number * CHUNK
    near[1] = Math.min(near[0] + CHUNK, ends[range])
  }
}
