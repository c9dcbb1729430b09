import { FreeSpans } from './free-spans.ts'

/** Lengths from one granule up to 2^(ORDERS - 1) granules. */
const ORDERS = 53
const FIRST_STACK = 64

/**
 * Hands out I/O virtual addresses in spans of a power of two granules, aligned to their length (buddies). The span that
 * came back last goes out first, so that neighbours in a batch stay neighbours and one request can unmap them together;
 * where there is none of its order, the shortest longer one is cut in two until it fits.
 *
 * Returned spans wait on a stack for each order. They are merged with their buddies only when nothing longer is left to
 * cut, each of them once: no operation takes more than one step for each order and each span that came back since, so
 * the cost does not grow with what is live or free, and a span is refused only where no room for it is left in one
 * piece. Reserved ranges are never handed out.
 *
 * @example
 * const iovas = new IovaAllocator({ granule: 4096, start: 0, end: 2 ** 48 - 1, reserved: [] })
 * if (iovas.take(0)) use(iovas.taken[0])
 */
export class IovaAllocator {
  /** [0]: what the last successful `take` handed out. */
  readonly taken: Float64Array = new Float64Array(1)
  declare readonly granule: number
  /** The longest span that there is room for at all: 2^`largestOrder` granules. */
  declare readonly largestOrder: number
  /** Bytes of a span, by order. */
  declare readonly lengths: Float64Array
  /** Spans that are handed out. */
  live = 0
  /** Spans that were cut, merged or looked at for merging so far. */
  steps = 0

  declare private readonly stacks: Float64Array[]
  declare private readonly depths: Int32Array
  // Spans whose buddies were looked for: none of them is free as a whole.
  declare private readonly settled: FreeSpans

  constructor(space: {
    /** Bytes; a power of two. */
    readonly granule: number
    /** First and last usable address. */
    readonly start: number
    readonly end: number
    readonly reserved: readonly { readonly start: number; readonly end: number }[]
  }) {
    const { granule, start, end, reserved } = space
    this.granule = granule
    this.stacks = Array.from({ length: ORDERS }, () => new Float64Array(FIRST_STACK))
    this.depths = new Int32Array(ORDERS)
    this.lengths = Float64Array.from({ length: ORDERS }, (_, order) => granule * 2 ** order)
    this.settled = new FreeSpans(granule, ORDERS)
    const top = Math.floor((end + 1) / granule) * granule
    // Much code takes an address of 0 for none.
    let bottom = Math.max(1, Math.ceil(start / granule)) * granule
    const usable: (readonly [from: number, to: number])[] = []
    for (const range of [...reserved].sort((a, b) => a.start - b.start)) {
      usable.push([bottom, Math.min(top, Math.floor(range.start / granule) * granule)])
      bottom = Math.max(bottom, Math.ceil((range.end + 1) / granule) * granule)
    }
    usable.push([bottom, top])
    // From the top down, so that low addresses go out first.
    for (const [from, to] of usable.reverse()) this.fill(from, to)
    let largest = ORDERS - 1
    while (largest > 0 && this.depths[largest] === 0) largest--
    this.largestOrder = largest
  }

  /** Takes a span of 2^order granules, aligned to its length; {@link taken} holds where. False where there is none. */
  take(order: number): boolean {
    const depths = this.depths
    const depth = depths[order]
    if (depth > 0) {
      depths[order] = depth - 1
      this.taken[0] = this.stacks[order][depth - 1]
      this.live++
      return true
    }
    return order <= this.largestOrder && this.takeOther(order)
  }

  /** Gives a span back. The caller knows what it took. */
  give(at: Float64Array, row: number, order: number): void {
    const depth = this.depths[order]
    const stack = this.stacks[order]
    if (depth === stack.length) {
      const larger = new Float64Array(2 * depth)
      larger.set(stack)
      this.stacks[order] = larger
    }
    this.stacks[order][depth] = at[row]
    this.depths[order] = depth + 1
    this.live--
  }

  private takeOther(order: number): boolean {
    const { depths, lengths, settled, stacks, taken } = this
    let from = this.atLeast(order)
    if (from > this.largestOrder) {
      this.merge(order)
      from = this.atLeast(order)
      if (from > this.largestOrder) return false
    }
    if (depths[from] > 0) taken[0] = stacks[from][--depths[from]]
    else {
      settled.pop(from)
      taken[0] = settled.key[0]
    }
    // The lower half goes out, so that what is taken next follows it.
    while (from > order) {
      from--
      this.steps++
      settled.key[0] = taken[0] + lengths[from]
      this.push(from)
    }
    this.live++
    return true
  }

  // The lowest order from `order` on of which a span is free.
  private atLeast(order: number): number {
    const { depths, settled, largestOrder } = this
    let from = order
    while (from <= largestOrder && depths[from] === 0 && !settled.has(from)) from++
    return from
  }

  // Settles all spans below `order`, and merges those whose buddies are settled.
  private merge(order: number): void {
    const { depths, lengths, settled, stacks } = this
    const { key } = settled
    for (let i = 0; i < order; i++) {
      const stack = stacks[i]
      for (let depth = depths[i]; depth > 0; depth--) {
        const at = stack[depth - 1]
        const upper = at % lengths[i + 1] !== 0
        this.steps++
        key[0] = upper ? at - lengths[i] : at + lengths[i]
        if (settled.remove(i)) {
          if (!upper) key[0] = at
          this.push(i + 1)
        } else {
          key[0] = at
          settled.add(i)
        }
      }
      depths[i] = 0
    }
  }

  // The span at `settled.key` is free.
  private push(order: number): void {
    this.live++
    this.give(this.settled.key, 0, order)
  }

  // Makes [from, to) free, in the longest spans that fit.
  private fill(from: number, to: number): void {
    const { lengths, settled } = this
    for (let end = to; end > from; ) {
      let order = 0
      while (order < ORDERS - 1 && end % lengths[order + 1] === 0 && end - lengths[order + 1] >= from) order++
      end -= lengths[order]
      settled.key[0] = end
      this.push(order)
    }
  }
}
