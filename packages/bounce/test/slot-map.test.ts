import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { SlotMap } from '../src/index.ts'

// Around the words of each of the three levels.
const SIZES = [0, 1, 2, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 2048, 32_767, 32_768, 32_769, 40_000]

describe('a map of slots', () => {
  test.each(SIZES)('of %d slots hands out each of them once, from either end', (size) => {
    for (const take of ['takeLowest', 'takeHighest'] as const) {
      const map = new SlotMap(size)
      expect(map.free).toBe(size)
      let inOrder = true
      for (let i = 0; i < size; i++) inOrder &&= map[take]() === (take === 'takeLowest' ? i : size - 1 - i)
      expect([inOrder, map[take](), map.free]).toEqual([true, -1, 0])
      for (let i = 0; i < size; i++) map.give(i)
      expect(map.free).toBe(size)
    }
  })

  test('finds runs that cross words, from either end', () => {
    for (const [first, count] of [
      [30, 4],
      [31, 2],
      [1000, 60],
      [1023, 2],
      [0, 128],
      [2000, 48],
    ]) {
      const map = new SlotMap(2048)
      while (map.free > 0) map.takeLowest()
      for (let i = 0; i < count; i++) map.give(first + i)
      expect(map.takeRunHighest(count + 1)).toBe(-1)
      expect(map.takeRunLowest(count + 1)).toBe(-1)
      expect(map.takeRunHighest(count)).toBe(first)
      expect(map.free).toBe(0)
      for (let i = 0; i < count; i++) map.give(first + i)
      expect(map.takeRunLowest(count)).toBe(first)
    }
  })

  test('takes the lowest run, or the highest, of several', () => {
    const map = new SlotMap(64)
    for (const slot of [10, 40]) {
      // Leaves holes so that runs of 10, 29 and 23 remain.
      const low = new Set(Array.from({ length: slot + 1 }, () => map.takeLowest()))
      for (const taken of low) if (taken !== 10 && taken !== 40 && taken >= 0) map.give(taken)
    }
    expect([map.isFree(9), map.isFree(10), map.isFree(40), map.isFree(41)]).toEqual([true, false, false, true])
    expect(map.takeRunLowest(5)).toBe(0)
    expect(map.takeRunHighest(5)).toBe(59)
    expect(map.takeRunLowest(25)).toBe(11)
    expect(map.takeRunHighest(25)).toBe(-1)
  })

  test('aligned runs begin at the phase', () => {
    const map = new SlotMap(64)
    expect(map.takeRunLowest(1, 4, 3)).toBe(3)
    expect(map.takeRunLowest(6, 4, 3)).toBe(7)
    expect(map.takeRunLowest(2, 4, 3)).toBe(15)
    expect(map.takeRunLowest(1, 16, 0)).toBe(0)
    expect(map.takeRunLowest(33, 16, 0)).toBe(-1)
    expect(map.takeRunLowest(16, 16, 0)).toBe(32)
  })

  test('agrees with an array of booleans (model)', () => {
    const operation = fc.tuple(fc.integer({ min: 0, max: 6 }), fc.nat({ max: 40 }))
    fc.assert(
      fc.property(
        fc.constantFrom(1, 33, 70, 1030),
        fc.array(operation, { maxLength: 500, size: 'max' }),
        (size, operations) => {
          const map = new SlotMap(size)
          const free = new Array<boolean>(size).fill(true)
          const lowest = (count: number, step = 1): number => {
            for (let at = 0; at + count <= size; at += step) if (free.slice(at, at + count).every(Boolean)) return at
            return -1
          }
          const highest = (count: number): number => {
            for (let at = size - count; at >= 0; at--) if (free.slice(at, at + count).every(Boolean)) return at
            return -1
          }
          for (const [kind, argument] of operations) {
            const count = 1 + (argument % 9)
            let [want, got, taken] = [-1, -1, 1]
            if (kind === 0) [want, got] = [lowest(1), map.takeLowest()]
            else if (kind === 1) [want, got] = [highest(1), map.takeHighest()]
            else if (kind === 2) [want, got, taken] = [lowest(count), map.takeRunLowest(count), count]
            else if (kind === 3) [want, got, taken] = [highest(count), map.takeRunHighest(count), count]
            else if (kind === 4) [want, got, taken] = [lowest(count, 4), map.takeRunLowest(count, 4), count]
            else {
              // Twice as likely as any other: gives back what follows a place.
              for (let slot = (argument * 29) % size, i = 0; i < 3 && slot < size; slot++, i++) {
                if (!free[slot]) map.give(slot)
                free[slot] = true
              }
            }
            if (want !== got) return false
            if (want >= 0) free.fill(false, want, want + taken)
            if (map.free !== free.filter(Boolean).length) return false
          }
          return true
        },
      ),
      { numRuns: 80 },
    )
  })
})
