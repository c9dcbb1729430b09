const FIRST_SPANS = 64
const NONE = -1

/**
 * Free spans by address, and of each order in a list: adding one, finding one and taking one out cost the same however
 * many there are. For {@link IovaAllocator}, which merges buddies.
 */
export class FreeSpans {
  /** [0]: the address that an operation is about. */
  readonly key: Float64Array = new Float64Array(1)
  /** Spans that are here. */
  count = 0

  declare private readonly scale: number
  // The first span of each order's list.
  declare private readonly heads: Int32Array
  // A hash table with chains; a power of two, as many as there are nodes.
  private buckets = new Int32Array(FIRST_SPANS).fill(NONE)
  private at = new Float64Array(FIRST_SPANS)
  private orders = new Uint8Array(FIRST_SPANS)
  private chain = new Int32Array(FIRST_SPANS)
  private previous = new Int32Array(FIRST_SPANS)
  // Links free nodes as well.
  private next = new Int32Array(FIRST_SPANS)
  private free = NONE
  private made = 0

  constructor(granule: number, orders: number) {
    this.scale = 1 / granule
    this.heads = new Int32Array(orders).fill(NONE)
  }

  has(order: number): boolean {
    return this.heads[order] !== NONE
  }

  /** Adds the span at `key` of that order. */
  add(order: number): void {
    const { heads } = this
    if (this.free === NONE && this.made === this.at.length) this.grow()
    const node = this.free === NONE ? this.made++ : this.free
    if (node === this.free) this.free = this.next[node]
    this.at[node] = this.key[0]
    this.orders[node] = order
    this.hang(node)
    const first = heads[order]
    this.next[node] = first
    this.previous[node] = NONE
    if (first !== NONE) this.previous[first] = node
    heads[order] = node
    this.count++
  }

  /** Takes the span of that order at `key` out. False where there is none. */
  remove(order: number): boolean {
    let node = this.buckets[this.bucket(this.key[0])]
    while (node !== NONE && (this.at[node] !== this.key[0] || this.orders[node] !== order)) node = this.chain[node]
    if (node === NONE) return false
    this.drop(node)
    return true
  }

  /** Takes any span of that order out; `key` says which. The order has one. */
  pop(order: number): void {
    const node = this.heads[order]
    this.key[0] = this.at[node]
    this.drop(node)
  }

  private drop(node: number): void {
    const { chain, heads, next, orders, previous } = this
    const bucket = this.bucket(this.at[node])
    if (this.buckets[bucket] === node) this.buckets[bucket] = chain[node]
    else {
      let before = this.buckets[bucket]
      while (chain[before] !== node) before = chain[before]
      chain[before] = chain[node]
    }
    const [left, right] = [previous[node], next[node]]
    if (left === NONE) heads[orders[node]] = right
    else next[left] = right
    if (right !== NONE) previous[right] = left
    next[node] = this.free
    this.free = node
    this.count--
  }

  private hang(node: number): void {
    const bucket = this.bucket(this.at[node])
    this.chain[node] = this.buckets[bucket]
    this.buckets[bucket] = node
  }

  private bucket(address: number): number {
    const granule = address * this.scale
    return (Math.imul(granule ^ (granule / 2 ** 32), 0x9e37_79b1) >>> 7) & (this.buckets.length - 1)
  }

  private grow(): void {
    const { at, orders, previous, next } = this
    const nodes = 2 * at.length
    this.at = new Float64Array(nodes)
    this.orders = new Uint8Array(nodes)
    this.previous = new Int32Array(nodes)
    this.next = new Int32Array(nodes)
    this.at.set(at)
    this.orders.set(orders)
    this.previous.set(previous)
    this.next.set(next)
    this.chain = new Int32Array(nodes)
    this.buckets = new Int32Array(nodes).fill(NONE)
    for (let node = 0; node < this.made; node++) this.hang(node)
  }
}
