import type { GuestMemory } from '@guestdma/memory'

const CHUNK_BITS = 12
const CHUNK = 1 << CHUNK_BITS

/**
 * How many live mappings lie in each page of guest RAM: a page that two buffers share stays within the device's reach
 * until both are taken back. Kept in chunks that are made when they are first needed.
 */
export class PageCounts {
  declare private readonly shift: number
  declare private readonly scale: number
  declare private readonly bases: Float64Array
  declare private readonly ends: Float64Array
  declare private readonly chunks: (Uint32Array | null)[][]
  private last = 0
  // The chunk that was used last, and its first page.
  private nearCounts: Uint32Array = new Uint32Array(CHUNK)
  private readonly nearFirst = new Float64Array(1).fill(-CHUNK)

  constructor(memory: GuestMemory, pageBytes: number) {
    this.shift = CHUNK_BITS
    this.scale = 1 / pageBytes
    // Two ranges may share a page at their edges: it is counted once, with the lower one.
    const bases = memory.ranges.map(({ base }, i) =>
      Math.max(Math.floor(base / pageBytes), i === 0 ? 0 : Math.ceil(memory.ranges[i - 1].end / pageBytes)),
    )
    this.bases = Float64Array.from(bases)
    this.ends = Float64Array.from(memory.ranges, ({ end }) => Math.ceil(end / pageBytes))
    this.chunks = memory.ranges.map(({ end }, i) =>
      new Array<Uint32Array | null>(Math.max(0, Math.ceil((Math.ceil(end / pageBytes) - bases[i]) / CHUNK))).fill(null),
    )
  }

  /**
   * Adds `step` (1 or -1) to the page of `address[row]`, and returns its count. The page belongs to a range of memory.
   */
  add(address: Float64Array, row: number, step: number): number {
    const page = Math.floor(address[row] * this.scale)
    const near = page - this.nearFirst[0]
    if (near >= 0 && near < CHUNK) {
      const { nearCounts } = this
      const count = nearCounts[near] + step
      nearCounts[near] = count
      return count
    }
    return this.addFar(page, step)
  }

  private addFar(page: number, step: number): number {
    let range = this.last
    if (!(page >= this.bases[range] && page < this.ends[range])) range = this.find(page)
    const into = (page - this.bases[range]) | 0
    const chunks = this.chunks[range]
    let chunk = chunks[into >> this.shift]
    if (chunk === null) {
      chunk = new Uint32Array(CHUNK)
      chunks[into >> this.shift] = chunk
    }
    const at = into & (CHUNK - 1)
    const count = chunk[at] + step
    chunk[at] = count
    // Not beyond the range: the next one has chunks of its own.
    if (page - at + CHUNK <= this.ends[range]) {
      this.nearFirst[0] = page - at
      this.nearCounts = chunk
    }
    return count
  }

  private find(page: number): number {
    const { bases, ends } = this
    let range = 0
    while (range < bases.length - 1 && !(page >= bases[range] && page < ends[range])) range++
    this.last = range
    return range
  }
}
