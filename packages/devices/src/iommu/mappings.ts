import {
  MAPPING_CHUNK,
  MAPPING_CHUNK_MASK,
  MAPPING_END,
  MAPPING_FLAGS,
  MAPPING_NODE,
  MAPPING_PHYS,
  MAPPING_START,
  type MappingPool,
  NO_MAPPING,
} from './mapping-pool.ts'

// A B+ tree in typed arrays. A leaf holds 16 mappings of 4 doubles, an inner node 32 children of 2 (key, node): few,
// since what comes into the middle moves the shorter side. The used cells lie together somewhere in the node, so that
// taking from either end moves nothing.
//
// The engine folds a module's own constants into its code; imported ones it loads at each use.
const NODE = MAPPING_NODE
const NONE = NO_MAPPING
const START = MAPPING_START
const END = MAPPING_END
const PHYS = MAPPING_PHYS
const FLAGS = MAPPING_FLAGS
const CHUNK = MAPPING_CHUNK
const MASK = MAPPING_CHUNK_MASK
// From a node to its chunk.
const NODES = CHUNK - 6
// In `keys`, beside the question: where a removal goes on, and the key of a new node.
const MOVING = 4
const SEPARATOR = 5
const LEAF_STRIDE = 4
const INNER_STRIDE = 2
// A node with less in it than this is merged with a neighbour if both together fill at most MERGED: then an average
// mapping never takes more than about 150 bytes, whatever a driver removes.
const SPARSE = NODE / 4
const MERGED = (NODE / 4) * 3
// 8 children per inner node on average at worst: enough for more mappings than memory holds.
const MAX_HEIGHT = 12

/**
 * The mappings of one domain, sorted by address; they never overlap. Every operation takes O(log n) and allocates
 * nothing beyond the pool's growth; near the last one it takes O(1). Addresses are passed in {@link keys}, since one
 * that travels as an argument becomes a heap number.
 */
export class Mappings {
  declare readonly pool: MappingPool
  /** The question: [0] first address, [1] last address, [2] physical address, [3] flags. Integers below 2^53. */
  readonly keys: Float64Array = new Float64Array(6)
  count = 0

  declare private root: number
  // Levels of inner nodes above the leaves.
  private height = 0
  // The leaf of the last search, the way to it (node and cell per level) and the keys that belong to it, [low, high):
  // the next search is likely to be near. NONE after the tree changed its shape.
  private leaf = NONE
  private readonly path = new Int32Array(2 * MAX_HEIGHT)
  private readonly bounds = new Float64Array(2)

  constructor(pool: MappingPool) {
    this.pool = pool
    this.root = pool.alloc()
  }

  /** The mapping that covers address `keys[0]`, as an index into the pool's cells; -1 if none does. */
  find(): number {
    const at = this.before(this.seek(START))
    return at >= 0 && this.pool.cells[at >> CHUNK][(at & MASK) + END] >= this.keys[START] ? at : NONE
  }

  /** Whether a mapping has an address in [keys[0], keys[1]]. */
  overlaps(): boolean {
    const at = this.before(this.seek(END))
    return at >= 0 && this.pool.cells[at >> CHUNK][(at & MASK) + END] >= this.keys[START]
  }

  /** Adds the mapping `keys`. False, and nothing done, where one exists in its range. */
  insert(): boolean {
    const { keys, pool } = this
    let position = this.seek(START)
    const leaf = this.leaf
    const { cells, from, to } = pool
    const below = this.before(position)
    if (below >= 0 && cells[below >> CHUNK][(below & MASK) + END] >= keys[START]) return false
    let above = leaf * NODE + position
    if (position === to[leaf]) {
      const next = pool.next[leaf]
      above = next === NONE ? NONE : next * NODE + from[next]
    }
    if (above >= 0 && cells[above >> CHUNK][above & MASK] <= keys[END]) return false
    let at: number
    if (to[leaf] - from[leaf] < NODE) {
      position = pool.open(leaf, position, LEAF_STRIDE)
      at = leaf * NODE + position
    } else at = this.makeRoom(position)
    const chunk = cells[at >> CHUNK]
    const cell = at & MASK
    chunk[cell] = keys[START]
    chunk[cell + END] = keys[END]
    chunk[cell + PHYS] = keys[PHYS]
    chunk[cell + FLAGS] = keys[FLAGS]
    this.count++
    return true
  }

  /**
   * Removes the mappings in [keys[0], keys[1]], up to `most` of them from the lowest on, and returns how many; -1, and
   * nothing done, if that would split one. Where it was `most`, there may be more: the same again removes those.
   */
  remove(most: number = Infinity): number {
    const { keys, pool } = this
    const position = this.seek(START)
    const leaf = this.leaf
    const chunk = pool.cells[leaf >> NODES]
    const at = ((leaf * NODE) & MASK) + position - LEAF_STRIDE
    if (position > pool.from[leaf] && chunk[at] === keys[START] && chunk[at + END] === keys[END]) {
      pool.close(leaf, position - LEAF_STRIDE, position)
      this.count--
      if (pool.to[leaf] - pool.from[leaf] < SPARSE) {
        this.thinOut()
        pool.trim()
      }
      return 1
    }
    if (this.splits(position)) return NONE
    const removed = this.removeRange(most)
    pool.trim()
    return removed
  }

  /** Calls `visit` with each mapping, by ascending address. For what is not the data path. */
  forEach(visit: (start: number, end: number, phys: number, flags: number) => void): void {
    const { pool } = this
    let leaf = this.root
    for (let level = this.height; level > 0; level--) leaf = this.cell(leaf, pool.from[leaf] + 1)
    for (; leaf !== NONE; leaf = pool.next[leaf]) {
      for (let i = pool.from[leaf]; i < pool.to[leaf]; i += LEAF_STRIDE)
        visit(this.cell(leaf, i), this.cell(leaf, i + END), this.cell(leaf, i + PHYS), this.cell(leaf, i + FLAGS))
    }
  }

  /** Gives all nodes back. The object is of no use afterwards. */
  dispose(): void {
    this.releaseTree(this.root, this.height)
    this.count = 0
    this.leaf = NONE
    this.pool.trim()
  }

  private cell(node: number, at: number): number {
    return this.pool.cells[node >> NODES][((node * NODE) & MASK) + at]
  }

  private setCell(node: number, at: number, value: number): void {
    this.pool.cells[node >> NODES][((node * NODE) & MASK) + at] = value
  }

  // Where in its leaf (now `this.leaf`) the first mapping stands that begins behind keys[slot].
  private seek(slot: 0 | 1 | 4): number {
    const { bounds } = this
    const key = this.keys[slot]
    if (this.leaf === NONE || key < bounds[0] || key >= bounds[1]) this.descend(slot)
    const { from, to } = this.pool
    const leaf = this.leaf
    const cells = this.pool.cells[leaf >> NODES]
    const base = (leaf * NODE) & MASK
    let low = from[leaf] >> 2
    let high = to[leaf] >> 2
    // At either end is the common case.
    if (low === high || cells[base + high * 4 - LEAF_STRIDE] <= key) return high << 2
    if (cells[base + low * 4] > key) return low << 2
    while (low < high) {
      const middle = (low + high) >> 1
      if (cells[base + middle * 4] <= key) low = middle + 1
      else high = middle
    }
    return low << 2
  }

  private descend(slot: 0 | 1 | 4): void {
    const { bounds, height, path } = this
    const { cells: chunks, from, to } = this.pool
    const key = this.keys[slot]
    let node = this.root
    bounds[0] = -1
    bounds[1] = Infinity
    for (let level = 0; level < height; level++) {
      const cells = chunks[node >> NODES]
      const base = (node * NODE) & MASK
      const first = from[node] >> 1
      const end = to[node] >> 1
      // The first child takes whatever is below the second: its own key may be out of date.
      let low = first + 1
      let high = end
      while (low < high) {
        const middle = (low + high) >> 1
        if (cells[base + middle * 2] <= key) low = middle + 1
        else high = middle
      }
      if (low < end) bounds[1] = cells[base + low * 2]
      low--
      if (low > first) bounds[0] = cells[base + low * 2]
      path[level * 2] = node
      path[level * 2 + 1] = low * 2
      node = cells[base + low * 2 + 1]
    }
    this.leaf = node
  }

  // The mapping before a position in the current leaf. It may stand in the leaf before and yet reach into this one's
  // keys, as a leaf keeps its key when its first mapping goes.
  private before(position: number): number {
    const { from, previous, to } = this.pool
    const leaf = this.leaf
    if (position > from[leaf]) return leaf * NODE + position - LEAF_STRIDE
    const other = previous[leaf]
    return other === NONE ? NONE : other * NODE + to[other] - LEAF_STRIDE
  }

  // Would the removal of [keys[0], keys[1]] leave a part of a mapping? `position` is where keys[0] was found.
  private splits(position: number): boolean {
    const { keys } = this
    const { cells } = this.pool
    const first = this.before(position)
    if (first >= 0) {
      const chunk = cells[first >> CHUNK]
      if (chunk[first & MASK] < keys[START] && chunk[(first & MASK) + END] >= keys[START]) return true
    }
    const last = this.before(this.seek(END))
    if (last < 0) return false
    const chunk = cells[last >> CHUNK]
    return chunk[last & MASK] >= keys[START] && chunk[(last & MASK) + END] > keys[END]
  }

  private removeRange(most: number): number {
    const { keys, pool } = this
    const end = keys[END]
    const before = this.count
    keys[MOVING] = keys[START]
    for (;;) {
      const left = most - (before - this.count)
      if (left <= 0) break
      let position = this.seek(MOVING)
      const { from, to } = pool
      const leaf = this.leaf
      const cells = pool.cells[leaf >> NODES]
      const base = (leaf * NODE) & MASK
      if (position > from[leaf] && cells[base + position - LEAF_STRIDE] === keys[MOVING]) position -= LEAF_STRIDE
      if (position === to[leaf]) {
        const next = pool.next[leaf]
        if (next === NONE) break
        const key = this.cell(next, from[next])
        if (key > end) break
        keys[MOVING] = key
        continue
      }
      const last = left < NODE / LEAF_STRIDE ? Math.min(to[leaf], position + left * LEAF_STRIDE) : to[leaf]
      let behind = position
      while (behind < last && cells[base + behind] <= end) behind += LEAF_STRIDE
      if (behind === position) break
      this.count -= (behind - position) >> 2
      pool.close(leaf, position, behind)
      if (to[leaf] - from[leaf] < SPARSE) this.thinOut()
    }
    return before - this.count
  }

  // Room for keys[0] in or beside the current leaf, which is full, at `position` of it. Returns the cell.
  private makeRoom(position: number): number {
    const { bounds, height, keys, leaf, path, pool } = this
    const parent = path[height * 2 - 2]
    const at = path[height * 2 - 1]
    // At an edge, a neighbour of the same parent takes it if it can: otherwise a driver could fill the tree with leaves
    // of one mapping.
    if (height > 0 && position === NODE && at + INNER_STRIDE < pool.to[parent]) {
      const next = pool.next[leaf]
      if (pool.to[next] - pool.from[next] < NODE) {
        bounds[1] = keys[START]
        this.setCell(parent, at + INNER_STRIDE, keys[START])
        return next * NODE + pool.open(next, pool.from[next], LEAF_STRIDE)
      }
    }
    if (height > 0 && position === 0 && at > pool.from[parent]) {
      const previous = pool.previous[leaf]
      if (pool.to[previous] - pool.from[previous] < NODE) {
        bounds[0] = this.cell(leaf, 0)
        this.setCell(parent, at, bounds[0])
        return previous * NODE + pool.open(previous, pool.to[previous], LEAF_STRIDE)
      }
    }
    return this.splitLeaf(position)
  }

  private splitLeaf(position: number): number {
    const { keys, leaf, pool } = this
    const right = pool.alloc()
    const { from, next, previous, to } = pool
    const after = next[leaf]
    next[right] = after
    previous[right] = leaf
    next[leaf] = right
    if (after !== NONE) previous[after] = right
    let cell: number
    if (position === NODE) {
      // Ascending: what comes next goes behind it.
      to[right] = LEAF_STRIDE
      cell = right * NODE
      keys[SEPARATOR] = keys[START]
    } else {
      // Descending: all of the leaf moves, and what comes next goes before it. Else one half moves, to the middle.
      const keep = position === 0 ? 0 : NODE / 2
      from[right] = keep / 2
      to[right] = NODE - keep / 2
      pool.move(leaf, keep, NODE, right, from[right])
      keys[SEPARATOR] = this.cell(right, from[right])
      to[leaf] = keep
      if (position === 0) {
        from[leaf] = NODE - LEAF_STRIDE
        to[leaf] = NODE
        cell = leaf * NODE + NODE - LEAF_STRIDE
      } else if (position <= keep) cell = leaf * NODE + pool.open(leaf, position, LEAF_STRIDE)
      else cell = right * NODE + pool.open(right, position - keep + from[right], LEAF_STRIDE)
    }
    this.addChild(right)
    return cell
  }

  // Puts a node with the key keys[SEPARATOR] behind the one that the path leads to, and splits upwards.
  private addChild(added: number): void {
    const { keys, path, pool } = this
    let child = added
    this.leaf = NONE
    for (let level = this.height - 1; level >= 0; level--) {
      const node = path[level * 2]
      const position = path[level * 2 + 1] + INNER_STRIDE
      if (pool.to[node] - pool.from[node] < NODE) {
        this.putChild(node, pool.open(node, position, INNER_STRIDE), child)
        return
      }
      const right = pool.alloc()
      const half = NODE / 2
      const first = half / 2
      pool.move(node, half, NODE, right, first)
      pool.to[node] = half
      pool.from[right] = first
      pool.to[right] = first + half
      if (position <= half) this.putChild(node, pool.open(node, position, INNER_STRIDE), child)
      else this.putChild(right, pool.open(right, position - half + first, INNER_STRIDE), child)
      keys[SEPARATOR] = this.cell(right, pool.from[right])
      child = right
    }
    const root = pool.alloc()
    const middle = NODE / 2
    pool.from[root] = middle - INNER_STRIDE
    pool.to[root] = middle + INNER_STRIDE
    this.setCell(root, middle - 1, this.root)
    this.putChild(root, middle, child)
    this.root = root
    this.height++
  }

  private putChild(node: number, position: number, child: number): void {
    this.setCell(node, position, this.keys[SEPARATOR])
    this.setCell(node, position + 1, child)
  }

  // The current leaf holds few mappings or none: it goes, or joins a neighbour of the same parent.
  private thinOut(): void {
    const { height, leaf, path, pool } = this
    const { from, next, previous, to } = pool
    if (height === 0) return
    const size = to[leaf] - from[leaf]
    const parent = path[height * 2 - 2]
    let position = path[height * 2 - 1]
    let gone = leaf
    if (size > 0) {
      const right = next[leaf]
      const left = previous[leaf]
      if (position + INNER_STRIDE < to[parent] && size + to[right] - from[right] <= MERGED) {
        pool.join(leaf, right)
        gone = right
        position += INNER_STRIDE
      } else if (position > from[parent] && size + to[left] - from[left] <= MERGED) pool.join(left, leaf)
      else return
    }
    const before = previous[gone]
    const after = next[gone]
    if (before !== NONE) next[before] = after
    if (after !== NONE) previous[after] = before
    pool.release(gone)
    this.removeChild(position)
  }

  // Removes the child at `position` of the lowest inner node on the path, and what becomes empty or sparse above it.
  private removeChild(at: number): void {
    const { path, pool } = this
    const { from, to } = pool
    let position = at
    this.leaf = NONE
    for (let level = this.height - 1; level >= 0; level--) {
      const node = path[level * 2]
      pool.close(node, position, position + INNER_STRIDE)
      const size = to[node] - from[node]
      if (level === 0 || size >= SPARSE) break
      const parent = path[level * 2 - 2]
      position = path[level * 2 - 1]
      if (size === 0) {
        pool.release(node)
        continue
      }
      const right = position + INNER_STRIDE < to[parent] ? this.cell(parent, position + 3) : NONE
      const left = position > from[parent] ? this.cell(parent, position - 1) : NONE
      if (right !== NONE && size + to[right] - from[right] <= MERGED) {
        // Its first key may be out of date, as only its parent's was looked at.
        position += INNER_STRIDE
        this.setCell(right, from[right], this.cell(parent, position))
        pool.join(node, right)
        pool.release(right)
      } else if (left !== NONE && size + to[left] - from[left] <= MERGED) {
        this.setCell(node, from[node], this.cell(parent, position))
        pool.join(left, node)
        pool.release(node)
      } else break
    }
    while (this.height > 0 && to[this.root] - from[this.root] === INNER_STRIDE) {
      const root = this.root
      this.root = this.cell(root, from[root] + 1)
      this.height--
      pool.release(root)
    }
  }

  private releaseTree(node: number, height: number): void {
    const { pool } = this
    if (height > 0) {
      for (let i = pool.from[node]; i < pool.to[node]; i += INNER_STRIDE) {
        this.releaseTree(this.cell(node, i + 1), height - 1)
      }
    }
    pool.release(node)
  }
}
