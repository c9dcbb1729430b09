import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type GuestAddress, guestAddress, type MemoryError, SpanAllocator } from '../src/index.ts'

const BASE = 0x8000_0000
const code = (body: () => unknown): string => {
  try {
    body()
  } catch (error) {
    return (error as MemoryError).code
  }
  return 'nothing was thrown'
}

describe('spans of guest addresses', () => {
  test('are aligned, first fit, and come back whole', () => {
    const ram = new SpanAllocator(guestAddress(BASE), 4096)
    expect(ram.allocate(10)).toBe(BASE)
    expect(ram.allocate(10, 64)).toBe(BASE + 64)
    expect(ram.allocate(10)).toBe(BASE + 16)
    expect([ram.live, ram.available]).toEqual([3, 4096 - 30])
    for (const base of [BASE + 64, BASE, BASE + 16]) ram.release(base as GuestAddress)
    expect([ram.live, ram.available]).toEqual([0, 4096])
    expect(ram.allocate(4096, 4096)).toBe(BASE)
  })

  test('alignment is of the address, also where the base is odd or beyond 32 bits', () => {
    const odd = new SpanAllocator(guestAddress(2 ** 33 + 5), 64)
    expect(odd.allocate(1, 1)).toBe(2 ** 33 + 5)
    expect(odd.allocate(1, 16)).toBe(2 ** 33 + 16)
    expect(odd.allocate(8, 2)).toBe(2 ** 33 + 6)
  })

  test('an account takes spans of the allocator and gives back its own only', () => {
    const ram = new SpanAllocator(guestAddress(BASE), 4096)
    const [one, two] = [ram.account(), ram.account()]
    const spans = [one.allocate(100), two.allocate(50), ram.allocate(8)]
    expect(new Set(spans).size).toBe(3)
    expect([one, two, ram].map(({ live, allocated }) => [live, allocated])).toEqual([
      [1, 100],
      [1, 50],
      [3, 158],
    ])
    expect([one.available, ram.available]).toEqual([4096 - 158, 4096 - 158])
    expect(code(() => one.release(spans[1]))).toBe('MEMORY_FREE')
    expect(code(() => two.allocate(4096))).toBe('MEMORY_EXHAUSTED')
    one.release(spans[0])
    expect([one.allocated, ram.allocated]).toEqual([0, 58])
  })

  test('what cannot be had is refused with the reason', () => {
    const ram = new SpanAllocator(guestAddress(BASE), 64)
    expect(code(() => ram.allocate(65))).toBe('MEMORY_EXHAUSTED')
    expect(code(() => new SpanAllocator(guestAddress(BASE + 1), 64).allocate(64, 2))).toBe('MEMORY_EXHAUSTED')
    for (const length of [0, -1, 0.5, Number.NaN]) expect(code(() => ram.allocate(length))).toBe('MEMORY_LENGTH')
    for (const align of [0, 3, -8, 2 ** 31, 1.5]) expect(code(() => ram.allocate(8, align))).toBe('MEMORY_ALIGN')
    expect(code(() => new SpanAllocator(guestAddress(BASE), 0))).toBe('MEMORY_LENGTH')
    expect(ram.available).toBe(64)
  })

  test('only what was handed out is taken back, and once', () => {
    const ram = new SpanAllocator(guestAddress(BASE), 64)
    const span = ram.allocate(32)
    expect(code(() => ram.release((span + 8) as GuestAddress))).toBe('MEMORY_FREE')
    ram.release(span)
    expect(code(() => ram.release(span))).toBe('MEMORY_FREE')
  })

  test('never overlap, stay inside, and lose no byte (model)', () => {
    const operation = fc.record({
      length: fc.integer({ min: 1, max: 300 }),
      align: fc.integer({ min: 0, max: 8 }),
      release: fc.nat(),
    })
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 120 }), (operations) => {
        const ram = new SpanAllocator(guestAddress(BASE + 3), 2048)
        const held: { base: number; length: number }[] = []
        for (const { length, align, release } of operations) {
          if (release % 3 === 0 && held.length > 0) {
            const [span] = held.splice(release % held.length, 1)
            ram.release(span.base as GuestAddress)
          } else if (
            code(() => held.push({ base: ram.allocate(length, 2 ** align), length })) === 'nothing was thrown'
          ) {
            const { base } = held[held.length - 1]
            if (base % 2 ** align !== 0 || base < BASE + 3 || base + length > BASE + 3 + 2048) return false
          }
          const sorted = [...held].sort((a, b) => a.base - b.base)
          if (sorted.some(({ base }, i) => i > 0 && sorted[i - 1].base + sorted[i - 1].length > base)) return false
          if (ram.available !== 2048 - held.reduce((sum, span) => sum + span.length, 0) || ram.live !== held.length)
            return false
        }
        for (const { base } of held) ram.release(base as GuestAddress)
        return ram.allocate(2048, 1) === BASE + 3
      }),
      { numRuns: 150 },
    )
  })
})
