/** Doubles in a node of a {@link MappingPool}. */
export const MAPPING_NODE = 64
/** No node, no mapping. */
export const NO_MAPPING = -1

/** Cells of a mapping: see {@link MappingPool.cells}. */
export const MAPPING_START = 0
export const MAPPING_END = 1
export const MAPPING_PHYS = 2
export const MAPPING_FLAGS = 3

/** A cell's number, shifted by this, is its chunk's; masked, its place there. */
export const MAPPING_CHUNK = 12
export const MAPPING_CHUNK_MASK: number = (1 << MAPPING_CHUNK) - 1

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const NODE = MAPPING_NODE
const NONE = NO_MAPPING
const CHUNK = 12
const CHUNK_MASK = (1 << CHUNK) - 1
// From a node to its chunk: a chunk is 64 nodes, or 32 KiB.
const NODES_SHIFT = 6
const CHUNK_NODES = 1 << NODES_SHIFT
/** Chunks that the tables have room for at least. */
const FIRST_CHUNKS = 4
/** Stands where a chunk is gone. */
const NO_CELLS = new Float64Array(0)

/**
 * The nodes of all {@link Mappings} of a device. What one domain frees serves the others; a chunk without a node in use
 * goes back to the engine, but for one. Growing by a chunk copies no cells.
 */
export class MappingPool {
  /**
   * By chunk. Cell `at` is `cells[at >> MAPPING_CHUNK][at & MAPPING_CHUNK_MASK]`; node n is the cells from
   * n * `MAPPING_NODE` on. Mapping `at` is cells `at` to `at` + 3: first address, last address, physical address, flags.
   */
  readonly cells: Float64Array[] = []
  /** The used cells of a node: [from, to), in doubles. */
  from: Uint8Array = new Uint8Array(FIRST_CHUNKS * CHUNK_NODES)
  to: Uint8Array = new Uint8Array(FIRST_CHUNKS * CHUNK_NODES)
  /** Neighbours of a leaf; `next` links free nodes as well. */
  next: Int32Array = new Int32Array(FIRST_CHUNKS * CHUNK_NODES)
  previous: Int32Array = new Int32Array(FIRST_CHUNKS * CHUNK_NODES)
  /** Nodes in use. */
  used = 0
  /** Chunks without a node in use. */
  idle = 0

  // By chunk: its first free node, and how many of its nodes are in use.
  private free = new Int32Array(FIRST_CHUNKS)
  private inUse = new Uint8Array(FIRST_CHUNKS)
  // Chunks with a free node.
  private roomy: number[] = []
  // Chunks that are gone.
  private gone: number[] = []

  /** Bytes that the nodes take, in use or not. */
  get bytes(): number {
    const chunks = this.cells.length - this.gone.length
    return chunks * CHUNK_NODES * NODE * 8 + this.from.length * (1 + 1 + 4 + 4) + this.free.length * (4 + 1)
  }

  /** An empty node without neighbours. May replace `from`, `to`, `next` and `previous`. */
  alloc(): number {
    const { roomy } = this
    if (roomy.length === 0) this.addChunk()
    const chunk = roomy[roomy.length - 1]
    const node = this.free[chunk]
    this.free[chunk] = this.next[node]
    if (this.inUse[chunk]++ === 0) this.idle--
    if (this.inUse[chunk] === CHUNK_NODES) roomy.pop()
    this.used++
    this.from[node] = this.to[node] = 0
    this.next[node] = this.previous[node] = NONE
    return node
  }

  release(node: number): void {
    const chunk = node >> NODES_SHIFT
    this.next[node] = this.free[chunk]
    this.free[chunk] = node
    if (this.inUse[chunk] === CHUNK_NODES) this.roomy.push(chunk)
    if (--this.inUse[chunk] === 0) this.idle++
    this.used--
  }

  /**
   * Gives idle chunks back, where they are more than a quarter: what that costs was paid for by as many removals. One
   * stays. Replaces the arrays.
   */
  trim(): void {
    const { cells, gone, inUse } = this
    if (this.idle < 2 || 4 * this.idle <= cells.length - gone.length) return
    let kept = false
    for (let chunk = 0; chunk < cells.length; chunk++) {
      if (inUse[chunk] > 0 || cells[chunk].length === 0) continue
      if (kept) cells[chunk] = NO_CELLS
      kept = true
    }
    this.idle = 1
    while (cells[cells.length - 1].length === 0) cells.pop()
    this.gone = []
    this.roomy = []
    for (let chunk = cells.length - 1; chunk >= 0; chunk--) {
      if (cells[chunk].length === 0) this.gone.push(chunk)
      else if (inUse[chunk] < CHUNK_NODES) this.roomy.push(chunk)
    }
    let chunks = this.free.length
    while (chunks > FIRST_CHUNKS && cells.length * 4 <= chunks) chunks /= 2
    if (chunks < this.free.length) this.resize(chunks)
  }

  /** Makes room for `stride` cells before cell `at` of a node that is not full. Returns where the room is. */
  open(node: number, at: number, stride: number): number {
    const { from, to } = this
    const cells = this.cells[node >> NODES_SHIFT]
    const first = from[node]
    const end = to[node]
    const base = (node * NODE) & CHUNK_MASK
    if (end < NODE && (first === 0 || end - at <= at - first)) {
      for (let i = base + end - 1; i >= base + at; i--) cells[i + stride] = cells[i]
      to[node] = end + stride
      return at
    }
    for (let i = base + first; i < base + at; i++) cells[i - stride] = cells[i]
    from[node] = first - stride
    return at - stride
  }

  /** Removes cells [at, end) of a node. */
  close(node: number, at: number, end: number): void {
    const { from, to } = this
    const cells = this.cells[node >> NODES_SHIFT]
    const first = from[node]
    const last = to[node]
    const base = (node * NODE) & CHUNK_MASK
    const gap = end - at
    if (last - end <= at - first) {
      for (let i = base + end; i < base + last; i++) cells[i - gap] = cells[i]
      to[node] = last - gap
    } else {
      for (let i = base + at - 1; i >= base + first; i--) cells[i + gap] = cells[i]
      from[node] = first + gap
    }
  }

  /** Moves cells [at, end) of a node to cell `to` of another. Used cells are the caller's affair. */
  move(node: number, at: number, end: number, other: number, to: number): void {
    const source = this.cells[node >> NODES_SHIFT]
    const target = this.cells[other >> NODES_SHIFT]
    const base = (node * NODE) & CHUNK_MASK
    const place = ((other * NODE) & CHUNK_MASK) + to
    if (source === target) source.copyWithin(place, base + at, base + end)
    else for (let i = at; i < end; i++) target[place + i - at] = source[base + i]
  }

  /** Appends all cells of `right` to those of `left`, which must fit. */
  join(left: number, right: number): void {
    const { from, to } = this
    const size = to[right] - from[right]
    if (to[left] + size > NODE) {
      this.move(left, from[left], to[left], left, 0)
      to[left] -= from[left]
      from[left] = 0
    }
    this.move(right, from[right], to[right], left, to[left])
    to[left] += size
  }

  private addChunk(): void {
    const chunk = this.gone.pop() ?? this.cells.length
    if (chunk === this.free.length) this.resize(2 * chunk)
    this.cells[chunk] = new Float64Array(CHUNK_NODES * NODE)
    const first = chunk * CHUNK_NODES
    for (let node = first; node < first + CHUNK_NODES; node++) this.next[node] = node + 1
    this.next[first + CHUNK_NODES - 1] = NONE
    this.free[chunk] = first
    this.inUse[chunk] = 0
    this.roomy.push(chunk)
    this.idle++
  }

  private resize(chunks: number): void {
    const { from, to, next, previous, free, inUse } = this
    const nodes = chunks * CHUNK_NODES
    this.from = new Uint8Array(nodes)
    this.to = new Uint8Array(nodes)
    this.next = new Int32Array(nodes)
    this.previous = new Int32Array(nodes)
    this.free = new Int32Array(chunks)
    this.inUse = new Uint8Array(chunks)
    this.from.set(from.subarray(0, nodes))
    this.to.set(to.subarray(0, nodes))
    this.next.set(next.subarray(0, nodes))
    this.previous.set(previous.subarray(0, nodes))
    this.free.set(free.subarray(0, chunks))
    this.inUse.set(inUse.subarray(0, chunks))
  }
}
