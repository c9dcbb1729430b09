/**
 * How many feature bits virtio 1.4 defines room for (virtio 1.4 §2.2); how many a transport carries is the transport's
 * property.
 */
export const FEATURE_BITS = 128

const WORDS = FEATURE_BITS / 32

/**
 * An immutable set of virtio feature bits, 128 bits wide (virtio 1.4 §2.2).
 *
 * @example
 * const offered = FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_NET_F_MAC)
 * offered.has(VIRTIO_NET_F_MAC) // true
 * offered.word(1) // 1: bits 32 to 63, as a transport's 32-bit window shows them
 */
export class FeatureSet {
  static readonly empty: FeatureSet = new FeatureSet([0, 0, 0, 0])

  private readonly words: readonly number[]

  private constructor(words: readonly number[]) {
    this.words = words
  }

  /** The set of the given bit numbers (0 to 127). Throws `RangeError` on anything else. */
  static of(...bits: readonly number[]): FeatureSet {
    const words = [0, 0, 0, 0]
    for (const bit of bits) {
      if (!Number.isInteger(bit) || bit < 0 || bit >= FEATURE_BITS)
        throw new RangeError(`feature bit ${bit} is not in 0..${FEATURE_BITS - 1}`)
      words[bit >>> 5] = ((words[bit >>> 5] as number) | (1 << (bit & 31))) >>> 0
    }
    return new FeatureSet(words)
  }

  /**
   * The set whose 32-bit windows are `words`, lowest bits first; missing windows are empty, windows beyond 128 bits are
   * dropped.
   */
  static fromWords(words: ArrayLike<number>): FeatureSet {
    return new FeatureSet(Array.from({ length: WORDS }, (_, i) => (words[i] ?? 0) >>> 0))
  }

  has(bit: number): boolean {
    return (((this.words[bit >>> 5] ?? 0) >>> (bit & 31)) & 1) === 1
  }

  /**
   * Bits 32·index to 32·index+31 as an unsigned 32-bit number; 0 beyond the width, as a transport's selector demands.
   */
  word(index: number): number {
    return this.words[index] ?? 0
  }

  and(other: FeatureSet): FeatureSet {
    return FeatureSet.fromWords(this.words.map((word, i) => word & other.word(i)))
  }

  or(other: FeatureSet): FeatureSet {
    return FeatureSet.fromWords(this.words.map((word, i) => word | other.word(i)))
  }

  without(other: FeatureSet): FeatureSet {
    return FeatureSet.fromWords(this.words.map((word, i) => word & ~other.word(i)))
  }

  isSubsetOf(other: FeatureSet): boolean {
    return this.words.every((word, i) => (word & ~other.word(i)) === 0)
  }

  equals(other: FeatureSet): boolean {
    return this.words.every((word, i) => word === other.word(i))
  }

  /** The bit numbers in ascending order. */
  bits(): number[] {
    return Array.from({ length: FEATURE_BITS }, (_, bit) => bit).filter((bit) => this.has(bit))
  }

  toString(): string {
    return `{${this.bits().join(', ')}}`
  }

  toJSON(): number[] {
    return this.bits()
  }
}
