import { FEATURE_BITS, FeatureSet } from '@guestdma/spec'

/**
 * Words of 32 bits that a feature set has room for. The note in virtio 1.4 §4.1.4.3 says that no feature exceeds 63,
 * but §2.2 gives bits up to 127 to device types and §5.1.3 uses 64 to 70.
 */
const FEATURE_WORDS = FEATURE_BITS / 32
/** Words that every register file has. */
const OLD_WORDS = 2

/**
 * Reads the feature words, `read(selector)` each. A register file that knows fewer words may answer with one that it
 * knows: QEMU's virtio-mmio takes every selector but 0 for 1, others take the lowest bit. Word 3 is word 1 then, which
 * holds VERSION_1 and so would offer bit 96; no device does, and what is offered has 64 bits.
 */
export function readFeatureWords(read: (selector: number) => number): FeatureSet {
  const words = Array.from({ length: FEATURE_WORDS }, (_, selector) => read(selector))
  const [low, high, third, fourth] = words
  const aliased = fourth === high && (third === high || third === low)
  return FeatureSet.fromWords(aliased ? [low, high] : words)
}

/**
 * Writes the feature words: the highest first, and above word 1 only what holds something. In a register file that
 * knows fewer words a zero for word 3 may erase word 1, and what is written last stands.
 */
export function writeFeatureWords(features: FeatureSet, write: (selector: number, word: number) => void): void {
  for (let selector = FEATURE_WORDS - 1; selector >= 0; selector--) {
    const word = features.word(selector)
    if (selector < OLD_WORDS || word !== 0) write(selector, word)
  }
}
