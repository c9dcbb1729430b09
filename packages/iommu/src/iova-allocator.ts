/** Lengths from one granule up to 2^(ORDERS - 1) granules. */
const ORDERS = 53
const FIRST_STACK = 64

/**
 * Hands out I/O virtual addresses in spans of a power of two granules, in constant time however many are live: a stack
 * of returned spans for each order, and above the highest span ever used an address that only grows. The span that came
 * back last goes out first, so that neighbours in a batch stay neighbours and one request can unmap them together.
 *
 * Address space is not given back from one order to another: what a program once used of each size at a time is the
 * most that it takes. Reserved ranges are skipped.
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
  /** Spans that are handed out. */
  live = 0

  declare private readonly stacks: Float64Array[]
  declare private readonly depths: Int32Array
  declare private readonly lengths: Float64Array
  // [0] where the unused space begins, [1] the first address beyond the usable ones.
  private readonly fresh = new Float64Array(2)
  declare private readonly reserved: readonly { readonly start: number; readonly end: number }[]

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
    // Much code takes an address of 0 for none.
    this.fresh[0] = Math.max(1, Math.ceil(start / granule)) * granule
    this.fresh[1] = Math.floor((end + 1) / granule) * granule
    this.reserved = [...reserved].sort((a, b) => a.start - b.start)
    let largest = ORDERS - 1
    while (largest > 0 && this.place(largest) < 0) largest--
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
    return this.takeFresh(order)
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

  private takeFresh(order: number): boolean {
    const { fresh } = this
    const length = this.lengths[order]
    const start = this.place(order)
    if (start < 0) return false
    // What alignment leaves behind is used for smaller spans as long as it lies outside the reserved ranges.
    this.keepGap(start)
    fresh[0] = start + length
    this.taken[0] = start
    this.live++
    return true
  }

  // The first place of its own alignment in the unused space that is clear of reserved ranges, or -1.
  private place(order: number): number {
    const { fresh, reserved } = this
    const length = this.lengths[order]
    let start = Math.ceil(fresh[0] / length) * length
    for (let i = 0; i < reserved.length; i++) {
      const { start: from, end } = reserved[i]
      if (start + length > from && start <= end) start = Math.ceil((end + 1) / length) * length
    }
    // Written so that it is exact up to 2^53.
    return start > fresh[1] - length ? -1 : start
  }

  private keepGap(end: number): void {
    const { fresh, reserved, lengths } = this
    let at = fresh[0]
    while (at < end) {
      let order = 0
      while (at % lengths[order + 1] === 0 && at + lengths[order + 1] <= end) order++
      fresh[0] = at
      const clash = reserved.find(({ start, end: last }) => at + lengths[order] > start && at <= last)
      if (clash !== undefined && clash.start <= at) {
        at = Math.ceil((clash.end + 1) / this.granule) * this.granule
        continue
      }
      // What lies before a reserved range goes in smaller pieces.
      if (clash !== undefined) while (order > 0 && at + lengths[order] > clash.start) order--
      if (clash !== undefined && at + lengths[order] > clash.start) {
        at += lengths[0]
        continue
      }
      this.live++
      this.give(fresh, 0, order)
      at += lengths[order]
    }
  }
}
