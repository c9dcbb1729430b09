/**
 * Which of `size` slots are free. Single slots are taken and given in constant time: three levels of bitmaps, in which
 * a set bit says that something below it is free. Runs are found by a scan.
 */
export class SlotMap {
  declare readonly size: number
  declare free: number

  declare private readonly words: Uint32Array
  declare private readonly summary: Uint32Array
  declare private readonly top: Uint32Array

  constructor(size: number) {
    this.size = size
    this.free = 0
    this.words = new Uint32Array(Math.ceil(size / 32))
    this.summary = new Uint32Array(Math.ceil(size / 1024))
    this.top = new Uint32Array(Math.ceil(size / 32768))
    for (let slot = 0; slot < size; slot++) this.give(slot)
  }

  /** Takes the highest free slot, or -1. */
  takeHighest(): number {
    for (let t = this.top.length - 1; t >= 0; t--) {
      const top = this.top[t]
      if (top === 0) continue
      const s = (t << 5) + 31 - Math.clz32(top)
      const w = (s << 5) + 31 - Math.clz32(this.summary[s])
      const slot = (w << 5) + 31 - Math.clz32(this.words[w])
      this.take(slot)
      return slot
    }
    return -1
  }

  /** Takes the lowest free slot, or -1. */
  takeLowest(): number {
    for (let t = 0; t < this.top.length; t++) {
      const top = this.top[t]
      if (top === 0) continue
      const s = (t << 5) + lowestBit(top)
      const w = (s << 5) + lowestBit(this.summary[s])
      const slot = (w << 5) + lowestBit(this.words[w])
      this.take(slot)
      return slot
    }
    return -1
  }

  /** Takes `count` adjacent slots, the highest such run, and returns its first slot, or -1. */
  takeRunHighest(count: number): number {
    let run = 0
    for (let slot = this.size - 1; slot >= 0; slot--) {
      if ((slot & 31) === 31 && this.words[slot >>> 5] === 0) {
        run = 0
        slot -= 31
        continue
      }
      run = this.isFree(slot) ? run + 1 : 0
      if (run === count) return this.takeRun(slot, count)
    }
    return -1
  }

  /**
   * Takes `count` adjacent slots, the lowest such run whose first slot is `phase` modulo `step`, and returns its first
   * slot, or -1.
   */
  takeRunLowest(count: number, step = 1, phase = 0): number {
    for (let first = phase; first + count <= this.size; first += step) {
      let i = 0
      while (i < count && this.isFree(first + i)) i++
      if (i === count) return this.takeRun(first, count)
      // What lies below the taken slot cannot be part of a later run.
      if (i > 0) first += Math.floor(i / step) * step
    }
    return -1
  }

  isFree(slot: number): boolean {
    return ((this.words[slot >>> 5] >>> (slot & 31)) & 1) === 1
  }

  /** Gives one slot back. */
  give(slot: number): void {
    const w = slot >>> 5
    const s = slot >>> 10
    this.words[w] |= 1 << (slot & 31)
    this.summary[s] |= 1 << (w & 31)
    this.top[s >>> 5] |= 1 << (s & 31)
    this.free++
  }

  private takeRun(first: number, count: number): number {
    for (let i = 0; i < count; i++) this.take(first + i)
    return first
  }

  private take(slot: number): void {
    const w = slot >>> 5
    const s = slot >>> 10
    this.words[w] &= ~(1 << (slot & 31))
    this.free--
    if (this.words[w] !== 0) return
    this.summary[s] &= ~(1 << (w & 31))
    if (this.summary[s] !== 0) return
    this.top[s >>> 5] &= ~(1 << (s & 31))
  }
}

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word)
}
