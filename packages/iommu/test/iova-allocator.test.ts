import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { IovaAllocator } from '../src/index.ts'

interface Range {
  readonly start: number
  readonly end: number
}
interface Span {
  readonly at: number
  readonly order: number
}

const make = (granule: number, start: number, end: number, reserved: readonly Range[] = []): IovaAllocator =>
  new IovaAllocator({ granule, start, end, reserved })

const row = (at: number): Float64Array => Float64Array.of(at)

/** Takes spans of one order until there are none. */
function drain(iovas: IovaAllocator, order: number, most = 100_000): number[] {
  const taken: number[] = []
  while (taken.length < most && iovas.take(order)) taken.push(iovas.taken[0])
  return taken
}

/** What is wrong with a span that was handed out while others are live. */
function problem(span: Span, granule: number, space: Range, reserved: readonly Range[], live: Iterable<Span>) {
  const length = granule * 2 ** span.order
  const last = span.at + length - 1
  if (span.at === 0) return 'address 0'
  if (span.at % length !== 0) return `${span.at} is not aligned to ${length}`
  if (span.at < space.start || last > space.end) return `${span.at} + ${length} is outside of the input range`
  for (const { start, end } of reserved)
    if (span.at <= end && last >= start) return `${span.at} + ${length} is reserved`
  for (const { at, order } of live)
    if (span.at < at + granule * 2 ** order && at <= last) return `${span.at} + ${length} overlaps ${at}`
  return undefined
}

describe('IovaAllocator', () => {
  test('address 0 is never handed out, at any granule and order', () => {
    for (const granule of [1, 2, 16, 4096, 65_536])
      for (const order of [0, 1, 5, 12]) {
        const taken = drain(make(granule, 0, granule * 2 ** 14 - 1), order)
        expect(taken.length).toBeGreaterThan(0)
        expect(taken).not.toContain(0)
      }
  })

  test('the whole input range is handed out but for granule 0, ends included', () => {
    for (const granule of [1, 4096]) {
      const taken = drain(make(granule, 0, 64 * granule - 1), 0)
      expect(taken.sort((a, b) => a - b)).toEqual(Array.from({ length: 63 }, (_, i) => (i + 1) * granule))
    }
  })

  test('ends of the input range in mid-granule are left out', () => {
    expect(drain(make(16, 33, 100), 0)).toEqual([48, 64, 80])
    expect(drain(make(16, 33, 95), 0)).toEqual([48, 64, 80])
    expect(drain(make(16, 33, 94), 0)).toEqual([48, 64])
  })

  test('an input range without a whole granule has nothing', () => {
    for (const [start, end] of [
      [0, 4095],
      [4097, 8191],
      [0, 0],
      [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
    ]) {
      const iovas = make(4096, start, end)
      expect([iovas.take(0), iovas.take(10), iovas.live]).toEqual([false, false, 0])
    }
  })

  test('reserved ranges are left out, ends included, in whatever order they come and however they overlap', () => {
    const reserved = [
      { start: 0x9000, end: 0x9000 },
      { start: 0x3fff, end: 0x4000 },
      { start: 0x6000, end: 0x7fff },
      { start: 0x6800, end: 0x6900 },
    ]
    const taken = drain(make(4096, 0x1000, 0xafff, reserved), 0)
    expect(taken.sort((a, b) => a - b)).toEqual([0x1000, 0x2000, 0x5000, 0x8000, 0xa000])
  })

  test('space before a reserved range is not lost to a longer span that goes behind it', () => {
    const iovas = make(4096, 0x1000, 0x1f_ffff, [{ start: 0x1_3000, end: 0x1_3fff }])
    expect([iovas.take(5), iovas.taken[0]]).toEqual([true, 0x2_0000])
    const small = drain(iovas, 0, 30).filter((at) => at < 0x2_0000)
    // 0x1000 to 0x12fff and 0x14000 to 0x1ffff but for the reserved page, as single granules and longer spans.
    const longer = [1, 2, 3, 4].flatMap((order) => {
      const spans: number[] = []
      while (iovas.take(order) && iovas.taken[0] < 0x2_0000) spans.push(iovas.taken[0])
      return spans.flatMap((at) => Array.from({ length: 2 ** order }, (_, i) => at + i * 4096))
    })
    const pages = new Set([...small, ...longer])
    const lost = Array.from({ length: 31 }, (_, i) => (i + 1) * 4096).filter((at) => at !== 0x1_3000 && !pages.has(at))
    expect(lost).toEqual([])
  })

  test('a range that is reserved to the end of all numbers leaves what is before it', () => {
    const iovas = make(4096, 0, Number.MAX_SAFE_INTEGER, [{ start: 0x5000, end: Number.MAX_SAFE_INTEGER }])
    expect(drain(iovas, 0).sort((a, b) => a - b)).toEqual([0x1000, 0x2000, 0x3000, 0x4000])
    expect(iovas.take(40)).toBe(false)
  })

  test('the highest addresses are exact', () => {
    const iovas = make(1, 2 ** 53 - 8, Number.MAX_SAFE_INTEGER)
    expect(drain(iovas, 0, 20).map((at) => 2 ** 53 - at)).toEqual([8, 7, 6, 5, 4, 3, 2, 1])
    expect(make(4096, 0, Number.MAX_SAFE_INTEGER).take(40)).toBe(true)
  })

  test('exhaustion answers false, changes nothing, and ends with the next give', () => {
    const iovas = make(4096, 0x1000, 0x4fff)
    const taken = drain(iovas, 0)
    expect([taken.length, iovas.live, iovas.take(0), iovas.live]).toEqual([4, 4, false, 4])
    for (const at of taken) {
      iovas.give(row(at), 0, 0)
      expect([iovas.take(0), iovas.taken[0], iovas.take(0)]).toEqual([true, at, false])
    }
  })

  test('a span that is too long for the range does not use it up', () => {
    const iovas = make(4096, 0x1000, 0x4fff)
    expect([iovas.take(3), iovas.take(52), iovas.live, drain(iovas, 0).length]).toEqual([false, false, 0, 4])
  })

  test('what came back last goes out first, for each order', () => {
    const iovas = make(4096, 0, 2 ** 32)
    for (const order of [0, 3, 9]) {
      const [a, b, c] = drain(iovas, order, 3)
      for (const at of [b, c, a]) iovas.give(row(at), 0, order)
      expect(drain(iovas, order, 3)).toEqual([a, c, b])
    }
  })

  test('spans of a fresh batch are neighbours', () => {
    const taken = drain(make(4096, 0, 2 ** 40), 2, 64)
    expect(taken.every((at, i) => i === 0 || at === taken[i - 1] + 4 * 4096)).toBe(true)
  })

  test('`give` reads the row that it is told', () => {
    const iovas = make(16, 16, 63)
    drain(iovas, 0)
    iovas.give(Float64Array.of(1, 2, 48), 2, 0)
    expect([iovas.take(0), iovas.taken[0]]).toEqual([true, 48])
  })

  test('random takes and gives agree with a set of intervals (model)', () => {
    const range = fc.tuple(fc.nat({ max: 3000 }), fc.nat({ max: 60 })).map(([start, n]) => ({ start, end: start + n }))
    const step = fc.tuple(fc.boolean(), fc.nat({ max: 6 }), fc.nat({ max: 1000 }))
    fc.assert(
      fc.property(
        fc.constantFrom(1, 2, 16),
        range.map(({ start, end }) => ({ start: start >> 3, end: end * 64 })),
        fc.array(range, { maxLength: 6 }),
        fc.array(step, { maxLength: 200, size: 'max' }),
        (granule, space, reserved, steps) => {
          const iovas = make(granule, space.start, space.end, reserved)
          const live: Span[] = []
          for (const [take, order, which] of steps) {
            if (take && iovas.take(order)) {
              const span = { at: iovas.taken[0], order }
              expect(problem(span, granule, space, reserved, live)).toBeUndefined()
              live.push(span)
            } else if (!take && live.length > 0) {
              const [{ at, order: length }] = live.splice(which % live.length, 1)
              iovas.give(row(at), 0, length)
            }
            expect(iovas.live).toBe(live.length)
          }
        },
      ),
      { numRuns: 200 },
    )
  })

  test('100,000 takes and gives: spans stay apart, and the space that they take stays bounded', () => {
    const granule = 4096
    const space = { start: 0, end: 2 ** 32 - 1 }
    const reserved = [
      { start: 0x8_0000, end: 0xf_ffff },
      { start: 0xfee0_0000, end: 0xfeef_ffff },
    ]
    const iovas = make(granule, space.start, space.end, reserved)
    const live = new Map<number, number>()
    const pages = new Set<number>()
    let state = 1
    const random = (n: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
      return (state >>> 8) % n
    }
    const touched = new Set<number>()
    const order: Span[] = []
    for (let i = 0; i < 100_000; i++) {
      if (order.length < 200 && (order.length === 0 || random(2) === 0)) {
        const span = { order: random(5), at: 0 }
        expect(iovas.take(span.order)).toBe(true)
        span.at = iovas.taken[0]
        if (problem(span, granule, space, reserved, []) !== undefined) expect(span).toBe('in order')
        for (let page = 0; page < 2 ** span.order; page++) {
          const at = span.at + page * granule
          if (pages.has(at)) expect(at).toBe('free')
          pages.add(at)
          touched.add(at)
        }
        order.push(span)
        live.set(span.at, span.order)
      } else {
        const [span] = order.splice(random(order.length), 1)
        for (let page = 0; page < 2 ** span.order; page++) pages.delete(span.at + page * granule)
        live.delete(span.at)
        iovas.give(row(span.at), 0, span.order)
      }
    }
    expect(iovas.live).toBe(live.size)
    // At most 200 spans of each of 5 orders at a time, of up to 16 granules.
    expect(touched.size).toBeLessThan(2 * 200 * 31)
  })

  test('a span is refused only where no aligned room for it is left in one piece (model)', () => {
    const step = fc.tuple(fc.boolean(), fc.nat({ max: 7 }), fc.nat({ max: 1000 }))
    const reserved = [{ start: 0x5_3000, end: 0x5_3fff }]
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300, size: 'max' }), (steps) => {
        const iovas = make(4096, 0, 2 ** 19 - 1, reserved)
        const free = new Set(Array.from({ length: 127 }, (_, i) => i + 1))
        free.delete(0x53)
        const live: Span[] = []
        const pagesOf = ({ at, order }: Span): number[] => Array.from({ length: 2 ** order }, (_, i) => at / 4096 + i)
        const fits = (order: number): boolean =>
          Array.from({ length: 128 >> order }, (_, i) => ({ at: i * 4096 * 2 ** order, order })).some((span) =>
            pagesOf(span).every((page) => free.has(page)),
          )
        for (const [take, order, which] of steps) {
          if (take) {
            const expected = fits(order)
            expect(iovas.take(order)).toBe(expected)
            if (!expected) continue
            const span = { at: iovas.taken[0], order }
            for (const page of pagesOf(span)) expect(free.delete(page)).toBe(true)
            live.push(span)
          } else if (live.length > 0) {
            const [span] = live.splice(which % live.length, 1)
            iovas.give(row(span.at), 0, span.order)
            for (const page of pagesOf(span)) free.add(page)
          }
        }
      }),
      { numRuns: 200 },
    )
  })

  test('short spans that came back make room for long ones, and long ones for short ones', () => {
    const iovas = make(4096, 0, 2 ** 20 - 1)
    const pages = drain(iovas, 0)
    expect([pages.length, iovas.take(4)]).toEqual([255, false])
    for (const at of pages) iovas.give(row(at), 0, 0)
    const long = drain(iovas, 4)
    expect(long).toHaveLength(15)
    for (const at of long) iovas.give(row(at), 0, 4)
    expect(drain(iovas, 0)).toHaveLength(255)
  })

  test('cutting and merging take a bounded number of steps for each span, with much or little free', () => {
    for (const pages of [2 ** 8, 2 ** 16]) {
      const iovas = make(4096, 0, pages * 4096 - 1)
      const taken = drain(iovas, 0)
      // Every other page is free: nothing can be merged, however often it is tried.
      for (let i = 0; i < taken.length; i += 2) iovas.give(row(taken[i]), 0, 0)
      expect(iovas.take(1)).toBe(false)
      const before = iovas.steps
      for (let i = 0; i < 1000; i++) expect(iovas.take(1)).toBe(false)
      expect(iovas.steps).toBe(before)
      for (let i = 0; i < 1000; i++) {
        expect(iovas.take(0)).toBe(true)
        iovas.give(iovas.taken, 0, 0)
        expect(iovas.take(1)).toBe(false)
      }
      expect(iovas.steps - before).toBeLessThanOrEqual(2000)
    }
  })

  test('the same size again is neither cut nor merged', () => {
    const iovas = make(4096, 0, 2 ** 30 - 1)
    const taken = drain(iovas, 2, 64)
    const before = iovas.steps
    for (let round = 0; round < 100; round++) {
      for (const at of taken) iovas.give(row(at), 0, 2)
      drain(iovas, 2, 64)
    }
    expect(iovas.steps).toBe(before)
  })

  test('thousands of reserved ranges cost nothing once the allocator is made', () => {
    const reserved = Array.from({ length: 2700 }, (_, i) => ({
      start: 0x10_0000 * (i + 1),
      end: 0x10_0000 * (i + 1) + 1,
    }))
    const iovas = make(4096, 0, 2 ** 48 - 1, reserved)
    expect([iovas.take(16), iovas.steps <= 53]).toEqual([true, true])
    for (let i = 0; i < 1000; i++) expect(iovas.take(0)).toBe(true)
    expect(iovas.steps).toBeLessThan(1100)
  })
})
