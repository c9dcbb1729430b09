/** Doubles in a node of a {@link MappingPool}. */
export const MAPPING_NODE = 64
/** No node, no mapping. */
export const NO_MAPPING = -1

/** Cells of a mapping: see {@link MappingPool.cells}. */
export const MAPPING_START = 0
export const MAPPING_END = 1
export const MAPPING_PHYS = 2
export const MAPPING_FLAGS = 3

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const NODE = MAPPING_NODE
const NONE = NO_MAPPING
const FIRST_NODES = 16

/**
 * The nodes of all {@link Mappings} of a device. Grows by doubling and keeps what it grew to; what one domain frees
 * serves the others.
 */
export class MappingPool {
  /** Mapping `at` is cells `at` to `at` + 3: first address, last address, physical address, flags. */
  declare cells: Float64Array
  /** The used cells of a node: [from, to), in doubles. */
  declare from: Uint8Array
  declare to: Uint8Array
  /** Neighbours of a leaf; `next` links free nodes as well. */
  declare next: Int32Array
  declare previous: Int32Array
  private made = 0
  private free = NONE
  /** Nodes in use. */
  used = 0

  constructor() {
    this.cells = new Float64Array(FIRST_NODES * NODE)
    this.from = new Uint8Array(FIRST_NODES)
    this.to = new Uint8Array(FIRST_NODES)
    this.next = new Int32Array(FIRST_NODES)
    this.previous = new Int32Array(FIRST_NODES)
  }

  /** An empty node without neighbours. Replaces the arrays if there is none left. */
  alloc(): number {
    let node = this.free
    if (node !== NONE) this.free = this.next[node]
    else {
      if (this.made === this.from.length) this.grow()
      node = this.made++
    }
    this.used++
    this.from[node] = this.to[node] = 0
    this.next[node] = this.previous[node] = NONE
    return node
  }

  release(node: number): void {
    this.next[node] = this.free
    this.free = node
    this.used--
  }

  /** Makes room for `stride` cells before cell `at` of a node that is not full. Returns where the room is. */
  open(node: number, at: number, stride: number): number {
    const { cells, from, to } = this
    const first = from[node]
    const end = to[node]
    const base = node * NODE
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
    const { cells, from, to } = this
    const first = from[node]
    const last = to[node]
    const base = node * NODE
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
    this.cells.copyWithin(other * NODE + to, node * NODE + at, node * NODE + end)
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

  private grow(): void {
    const { cells, from, to, next, previous } = this
    const nodes = from.length * 2
    this.cells = new Float64Array(nodes * NODE)
    this.from = new Uint8Array(nodes)
    this.to = new Uint8Array(nodes)
    this.next = new Int32Array(nodes)
    this.previous = new Int32Array(nodes)
    this.cells.set(cells)
    this.from.set(from)
    this.to.set(to)
    this.next.set(next)
    this.previous.set(previous)
  }
}
