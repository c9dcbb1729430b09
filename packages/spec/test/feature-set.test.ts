import { describe, expect, test } from 'vitest'
import { availableRingBytes, descriptorTableBytes, FEATURE_BITS, FeatureSet, usedRingBytes } from '../src/index.ts'

describe('feature sets are 128 bits wide (virtio 1.4 §2.2)', () => {
  test('every bit is in its word, and no other', () => {
    for (let bit = 0; bit < FEATURE_BITS; bit++) {
      const set = FeatureSet.of(bit)
      expect(set.bits()).toEqual([bit])
      expect([0, 1, 2, 3, 4].map((i) => set.word(i))).toEqual(
        [0, 1, 2, 3, 4].map((i) => (i === bit >>> 5 ? 2 ** (bit & 31) : 0)),
      )
    }
  })

  test.each([-1, 128, 0.5, Number.NaN])('%d is no feature bit', (bit) => {
    expect(() => FeatureSet.of(bit)).toThrow(RangeError)
    expect(FeatureSet.fromWords([0xffff_ffff, 0, 0, 0]).has(-1)).toBe(false)
  })

  test('words are unsigned, missing ones empty and further ones dropped', () => {
    expect(FeatureSet.fromWords([-1]).word(0)).toBe(0xffff_ffff)
    expect(FeatureSet.fromWords([0, 1, 2, 3, 4]).bits()).toEqual([32, 65, 96, 97])
    expect(FeatureSet.fromWords([0, 0, 0, 0, 1]).has(128)).toBe(false)
  })

  test('are sets', () => {
    const [a, b] = [FeatureSet.of(0, 31, 64, 127), FeatureSet.of(31, 32, 127)]
    expect(a.and(b).bits()).toEqual([31, 127])
    expect(a.or(b).bits()).toEqual([0, 31, 32, 64, 127])
    expect(a.without(b).bits()).toEqual([0, 64])
    expect([a.and(b).isSubsetOf(a), a.isSubsetOf(b), FeatureSet.empty.isSubsetOf(a)]).toEqual([true, false, true])
    expect([a.equals(FeatureSet.of(127, 64, 31, 0)), a.equals(b)]).toEqual([true, false])
    expect([`${a}`, JSON.stringify(b)]).toEqual(['{0, 31, 64, 127}', '[31,32,127]'])
  })
})

describe('sizes of the split ring (virtio 1.4 §2.7)', () => {
  test.each([
    [1, 16, 8, 14],
    [256, 4096, 518, 2054],
    [32_768, 524_288, 65_542, 262_150],
  ])('of %d entries', (size, table, available, used) => {
    expect([descriptorTableBytes(size), availableRingBytes(size), usedRingBytes(size)]).toEqual([
      table,
      available,
      used,
    ])
  })
})
