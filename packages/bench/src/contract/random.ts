const TWO_32 = 2 ** 32

/** Seeded random numbers (xorshift32): the same seed gives the same ones everywhere. */
export class Random {
  private state: number

  constructor(seed: number) {
    // Neighbouring seeds should not begin alike, and a state of 0 stays 0.
    this.state = Math.imul(seed + 1, 0x9e37_79b1) | 0 || 1
  }

  /** From 0 to below 1. */
  fraction(): number {
    return this.next() / TWO_32
  }

  /** An integer from 0 to `bound` - 1; `bound` is at most 2^53. */
  below(bound: number): number {
    if (bound <= TWO_32) return Math.floor(this.fraction() * bound)
    return Math.floor(((this.next() >>> 11) * TWO_32 + this.next()) * (bound / 2 ** 53))
  }

  private next(): number {
    let x = this.state
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    this.state = x
    return x >>> 0
  }
}
