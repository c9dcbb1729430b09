/** Plain counts of a {@link Meter}: accesses by width in bytes, and bytes. */
export interface MeterSnapshot {
  readonly loads: { readonly 1: number; readonly 2: number; readonly 4: number; readonly 8: number }
  readonly stores: { readonly 1: number; readonly 2: number; readonly 4: number; readonly 8: number }
  readonly bytesLoaded: number
  readonly bytesStored: number
}

/**
 * Counts accesses to one region by width, so that a cost per access can be modelled (a memory behind a bus, say).
 * Whoever accesses the region reports in sums, once per copy or per batch: a region without a meter costs one
 * comparison.
 */
export class Meter {
  // [0..3] loads and [4..7] stores of 1, 2, 4 and 8 bytes; typed, so that counting allocates nothing.
  private readonly counts = new Float64Array(8)

  load(width: 1 | 2 | 4 | 8, count: number): void {
    this.counts[31 - Math.clz32(width)] += count
  }

  store(width: 1 | 2 | 4 | 8, count: number): void {
    this.counts[35 - Math.clz32(width)] += count
  }

  snapshot(): MeterSnapshot {
    const [l1, l2, l4, l8, s1, s2, s4, s8] = this.counts as unknown as readonly [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ]
    return {
      loads: { 1: l1, 2: l2, 4: l4, 8: l8 },
      stores: { 1: s1, 2: s2, 4: s4, 8: s8 },
      bytesLoaded: l1 + 2 * l2 + 4 * l4 + 8 * l8,
      bytesStored: s1 + 2 * s2 + 4 * s4 + 8 * s8,
    }
  }

  reset(): void {
    this.counts.fill(0)
  }
}
