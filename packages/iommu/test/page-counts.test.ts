import { GuestMemory } from '@guestdma/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { PageCounts } from '../src/backend/page-counts.ts'

const HIGH = 0x1_0000_0000
const buffer = new ArrayBuffer(64 << 20)

const ranges = (...list: readonly (readonly [base: number, length: number])[]): GuestMemory => {
  let offset = 0
  return new GuestMemory(
    list.map(([base, length]) => {
      const range = { base, length, memory: buffer, offset: offset + (base % 16) }
      offset += Math.ceil(length / 16) * 16 + 16
      return range
    }),
  )
}

const add = (counts: PageCounts, address: number, step: number): number =>
  counts.add(Float64Array.of(0, address), 1, step)

describe('PageCounts', () => {
  test('all addresses of a page count as one, and no others', () => {
    const counts = new PageCounts(ranges([HIGH, 1 << 20]), 4096)
    expect(add(counts, HIGH, 1)).toBe(1)
    expect(add(counts, HIGH + 4095, 1)).toBe(2)
    expect(add(counts, HIGH + 4096, 1)).toBe(1)
    expect([add(counts, HIGH + 7, -1), add(counts, HIGH + 8, -1), add(counts, HIGH + 5000, -1)]).toEqual([1, 0, 0])
  })

  test('pages far apart, in one range and in several, are told apart', () => {
    const counts = new PageCounts(ranges([0, 1 << 20], [HIGH, 40 << 20]), 4096)
    const pages = [0, 0xf_f000, HIGH, HIGH + 4096 * 4095, HIGH + 4096 * 4096, HIGH + (40 << 20) - 1]
    for (const [i, page] of pages.entries()) for (let n = 0; n <= i; n++) add(counts, page, 1)
    expect(pages.map((page) => add(counts, page, -1))).toEqual([0, 1, 2, 3, 4, 5])
  })

  test('first and last page of a range that ends in mid-page are counted', () => {
    const counts = new PageCounts(ranges([HIGH + 0x800, 0x1000]), 4096)
    expect([add(counts, HIGH + 0x800, 1), add(counts, HIGH, 1), add(counts, HIGH + 0x17ff, 1)]).toEqual([1, 2, 1])
  })

  test('a page that several ranges share has one count, whichever was used last', () => {
    const counts = new PageCounts(ranges([0x1000, 0x1400], [0x2400, 0x400], [0x2800, 0x2000]), 4096)
    for (const before of [0x1000, 0x2400, 0x4000]) {
      add(counts, before, 1)
      expect([add(counts, 0x2000, 1), add(counts, 0x2400, 1), add(counts, 0x2800, 1)]).toEqual(
        before === 0x2400 ? [2, 3, 4] : [1, 2, 3],
      )
      add(counts, before, -1)
      for (let i = 0; i < 3; i++) add(counts, 0x2fff, -1)
    }
  })

  test('random steps agree with a map by page (model)', () => {
    const memory = ranges([0x1000, 0x1410], [0x2410, 0x9000], [HIGH, 20 << 20])
    const address = fc.oneof(
      fc.integer({ min: 0x1000, max: 0x2410 + 0x9000 - 1 }),
      fc.integer({ min: HIGH, max: HIGH + (20 << 20) - 1 }),
    )
    fc.assert(
      fc.property(
        fc.constantFrom(1, 16, 4096, 65_536),
        fc.array(fc.tuple(address, fc.boolean()), { maxLength: 100 }),
        (page, steps) => {
          const counts = new PageCounts(memory, page)
          const model = new Map<number, number>()
          for (const [at, up] of steps) {
            const key = Math.floor(at / page)
            const count = (model.get(key) ?? 0) + (up ? 1 : -1)
            if (count < 0) continue
            model.set(key, count)
            expect(add(counts, at, up ? 1 : -1)).toBe(count)
          }
        },
      ),
    )
  })
})
