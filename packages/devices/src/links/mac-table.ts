const WAYS = 4

/**
 * Which port an Ethernet address was last seen on. Bounded: sets of four entries, the oldest of a full set gives way,
 * so an address flood costs floods of frames but no memory.
 */
export class MacTable {
  private readonly sets: number
  // Address as its first two and last four bytes.
  private readonly high: Uint16Array
  private readonly low: Uint32Array
  private readonly ports: Int16Array
  private readonly victims: Uint8Array

  /** `capacity` is rounded up to a power of two, at least 4. */
  constructor(capacity: number) {
    let sets = 1
    while (sets * WAYS < capacity) sets *= 2
    this.sets = sets
    this.high = new Uint16Array(sets * WAYS)
    this.low = new Uint32Array(sets * WAYS)
    this.ports = new Int16Array(sets * WAYS).fill(-1)
    this.victims = new Uint8Array(sets)
  }

  /** The port of the address at `frame[at]`, or -1. */
  find(frame: Uint8Array, at: number): number {
    const high = highOf(frame, at)
    const low = lowOf(frame, at)
    const first = this.setOf(high, low) * WAYS
    for (let i = first; i < first + WAYS; i++) {
      if (this.low[i] === low && this.high[i] === high && this.ports[i] >= 0) return this.ports[i]
    }
    return -1
  }

  /** Notes that the address at `frame[at]` is behind `port`. */
  learn(frame: Uint8Array, at: number, port: number): void {
    const high = highOf(frame, at)
    const low = lowOf(frame, at)
    const set = this.setOf(high, low)
    const first = set * WAYS
    let free = -1
    for (let i = first; i < first + WAYS; i++) {
      if (this.ports[i] < 0) {
        if (free < 0) free = i
      } else if (this.low[i] === low && this.high[i] === high) {
        this.ports[i] = port
        return
      }
    }
    if (free < 0) {
      free = first + this.victims[set]
      this.victims[set] = (this.victims[set] + 1) % WAYS
    }
    this.high[free] = high
    this.low[free] = low
    this.ports[free] = port
  }

  private setOf(high: number, low: number): number {
    return (Math.imul(low ^ (high << 16), 0x9e3779b1) >>> 16) & (this.sets - 1)
  }
}

function highOf(frame: Uint8Array, at: number): number {
  return (frame[at] << 8) | frame[at + 1]
}

function lowOf(frame: Uint8Array, at: number): number {
  return ((frame[at + 2] << 24) | (frame[at + 3] << 16) | (frame[at + 4] << 8) | frame[at + 5]) >>> 0
}
