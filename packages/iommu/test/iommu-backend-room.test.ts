import {
  DMA_EXHAUSTED,
  DMA_FAILED,
  DMA_OK,
  DMA_TOO_LONG,
  DMA_UNMAPPABLE,
  type DmaMappings,
  FROM_DEVICE,
  TO_DEVICE,
} from '@guestdma/dma'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { BASE, code, isMap, lend, type Rig, rig, table } from './support/model-domain.ts'

const PAGE = 4096

/** The IOMMU keeps so many mappings of this domain, from now on. */
function limit(r: Rig, most: number): void {
  r.domain.answer = (request) => (isMap(request) && r.domain.mapped.length >= most ? DMA_EXHAUSTED : DMA_OK)
}

/** What a driver does with its receive buffers: posts all of them or, where that has no room, half as many. */
function post(r: Rig, m: DmaMappings, posted: Set<number>): void {
  const rows = Array.from({ length: m.rows }, (_, row) => row).filter((row) => !posted.has(row))
  for (let wanted = rows.length; wanted > 0; ) {
    let n = 0
    while (n < wanted && lend(r, m, rows[n], rows[n] * PAGE, PAGE, FROM_DEVICE) === DMA_OK) n++
    if (n === 0) return
    if (r.backend.commitMaps() === DMA_OK) {
      for (let i = 0; i < n; i++) posted.add(rows[i])
      return
    }
    for (let i = 0; i < n; i++) r.backend.unmap(m, rows[i], 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    wanted = n >> 1
  }
}

describe('room for mappings that an IOMMU does not tell of', () => {
  test('a limit that was learned from a shortage recovers when the shortage has passed', () => {
    const r = rig()
    const m = table(256, true)
    const posted = new Set<number>()
    // Somebody else holds all the room.
    limit(r, 0)
    for (let i = 0; i < 20; i++) post(r, m, posted)
    expect(posted.size).toBe(0)
    limit(r, 60)
    for (let i = 0; i < 2000; i++) post(r, m, posted)
    expect(posted.size).toBeGreaterThanOrEqual(15)
    // Never more than half of what there is: requests can go on.
    expect(posted.size).toBeLessThanOrEqual(30)
    limit(r, Infinity)
    for (let i = 0; i < 5000 && posted.size < 256; i++) post(r, m, posted)
    expect(posted.size).toBe(256)
    expect(r.domain.violations).toEqual([])
  })

  test('where nothing is posted, the first attempt after the shortage posts something: nothing else would ask again', () => {
    const r = rig()
    const m = table(256, true)
    const posted = new Set<number>()
    limit(r, 0)
    for (let i = 0; i < 1000; i++) post(r, m, posted)
    const { mapRequests } = r.backend.counters
    for (let i = 0; i < 100; i++) post(r, m, posted)
    // And that costs little while there is no room.
    expect(r.backend.counters.mapRequests - mapRequests).toBeLessThan(100 * 10)
    limit(r, 60)
    post(r, m, posted)
    expect(posted.size).toBeGreaterThan(0)
  })

  test("what is refused along with somebody else's trial teaches nothing", () => {
    const r = rig()
    const [standing, requests] = [table(64, true), table(1)]
    const lendSome = (most: number): number => {
      let n = 0
      while (n < most && lend(r, standing, n, n * PAGE, PAGE) === DMA_OK) n++
      return n
    }
    const undo = (rows: number): void => {
      for (let row = 0; row < rows; row++) r.backend.unmap(standing, row, 0)
      expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    }
    limit(r, 0)
    expect([lendSome(64), r.backend.commitMaps()]).toEqual([64, DMA_EXHAUSTED])
    undo(64)
    limit(r, Infinity)
    // A request is added; the receive queue tries twice what may stay; then the request is published.
    expect(lend(r, requests, 0, 100 * PAGE, PAGE)).toBe(DMA_OK)
    expect([lendSome(64), r.backend.commitMaps()]).toEqual([32, DMA_EXHAUSTED])
    undo(32)
    expect(r.backend.commitMaps()).toBe(DMA_EXHAUSTED)
    r.backend.unmap(requests, 0, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect([lendSome(16), r.backend.commitMaps()]).toEqual([16, DMA_OK])
  })

  test('an allocation that has no room teaches nothing about buffers', () => {
    const r = rig()
    const m = table(64, true)
    limit(r, 0)
    expect(code(() => r.backend.alloc(PAGE, 8, 3, 'ring'))).toBe('DMA_ALLOC')
    limit(r, Infinity)
    for (const first of [0, 32]) {
      for (let row = first; row < first + 32; row++) expect(lend(r, m, row, row * PAGE, PAGE)).toBe(DMA_OK)
      expect(r.backend.commitMaps()).toBe(DMA_OK)
    }
  })

  test('while buffers are held back, half of the room is left for requests, in trials too', () => {
    const r = rig()
    const [standing, requests] = [table(256, true), table(16)]
    const posted = new Set<number>()
    limit(r, 64)
    for (let i = 0; i < 3000; i++) {
      post(r, standing, posted)
      for (let row = 0; row < 16; row++) expect(lend(r, requests, row, (300 + row) * PAGE, PAGE)).toBe(DMA_OK)
      expect(r.backend.commitMaps()).toBe(DMA_OK)
      for (let row = 0; row < 16; row++) r.backend.unmap(requests, row, 0)
      expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    }
    expect(posted.size).toBeGreaterThanOrEqual(16)
    expect(r.domain.violations).toEqual([])
  })

  test('trials that find no room become rare', () => {
    const r = rig()
    const m = table(256, true)
    const posted = new Set<number>()
    limit(r, 32)
    for (let i = 0; i < 10_000; i++) post(r, m, posted)
    const before = r.backend.counters.mapRequests
    for (let i = 0; i < 10_000; i++) post(r, m, posted)
    expect(r.backend.counters.mapRequests - before).toBeLessThan(10_000)
  })

  test('a refused mapping passes as long as anybody has room to give back, and is final where nobody has', () => {
    for (const [exclusive, last] of [
      [false, DMA_EXHAUSTED],
      [true, DMA_UNMAPPABLE],
    ] as const) {
      const r = rig({ space: { exclusive } })
      const m = table(4)
      limit(r, 1)
      expect(lend(r, m, 0, 0, PAGE)).toBe(DMA_OK)
      expect(r.backend.commitMaps()).toBe(DMA_OK)
      expect(lend(r, m, 1, PAGE, PAGE)).toBe(DMA_OK)
      expect(r.backend.commitMaps()).toBe(DMA_EXHAUSTED)
      for (const row of [0, 1]) r.backend.unmap(m, row, 0)
      expect(r.backend.commitUnmaps()).toBe(DMA_OK)
      limit(r, 0)
      // Fewer of them might have room.
      for (const row of [0, 1]) expect(lend(r, m, row, row * PAGE, PAGE)).toBe(DMA_OK)
      expect(r.backend.commitMaps()).toBe(DMA_EXHAUSTED)
      for (const row of [0, 1]) r.backend.unmap(m, row, 0)
      expect(r.backend.commitUnmaps()).toBe(DMA_OK)
      expect(lend(r, m, 0, 0, PAGE)).toBe(DMA_OK)
      expect(r.backend.commitMaps()).toBe(last)
      r.backend.unmap(m, 0, 0)
      limit(r, 1)
      expect(lend(r, m, 0, 0, PAGE)).toBe(DMA_OK)
      expect(r.backend.commitMaps()).toBe(DMA_OK)
    }
  })
})

describe('I/O virtual addresses in a small range', () => {
  test('short buffers that came back make room for a long one', () => {
    const r = rig({ space: { inputEnd: 2 ** 20 - 1 } })
    const m = table(512)
    let rows = 0
    while (lend(r, m, rows, rows * PAGE, PAGE) === DMA_OK) rows++
    expect(rows).toBe(255)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    expect(lend(r, m, rows, 0, 16 * PAGE)).toBe(DMA_EXHAUSTED)
    for (let row = 0; row < rows; row++) r.backend.unmap(m, row, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect(lend(r, m, rows, 0, 16 * PAGE)).toBe(DMA_OK)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    expect(r.domain.violations).toEqual([])
  })

  test.each(['strict', 'lazy'] as const)('no room with nothing lent is final: DMA_TOO_LONG, %s', (mode) => {
    const r = rig({ space: { inputEnd: 2 ** 20 - 1 }, mode })
    const m = table(2)
    // What is allocated stays, and is in the way everywhere.
    const regions = Array.from({ length: 15 }, () => r.backend.alloc(16 * PAGE, 8, 3, 'ring'))
    for (const region of regions) if (region.device % 0x2_0000 === 0) r.backend.free(region)
    expect(lend(r, m, 0, 0, 64 * PAGE)).toBe(DMA_TOO_LONG)
    expect(lend(r, m, 0, 0, PAGE)).toBe(DMA_OK)
    // Whatever is lent may come back.
    expect(lend(r, m, 1, 0, 64 * PAGE)).toBe(DMA_EXHAUSTED)
    r.backend.unmap(m, 0, 0)
    r.backend.commitUnmaps()
    expect(lend(r, m, 1, 0, 64 * PAGE)).toBe(DMA_TOO_LONG)
  })

  test('a broken domain that has no addresses left says FAILED: nothing comes back any more', () => {
    const r = rig({ space: { inputEnd: 8 * PAGE - 1 } })
    const m = table(16)
    for (let row = 0; row < 7; row++) expect(lend(r, m, row, row * PAGE, PAGE)).toBe(DMA_OK)
    expect(lend(r, m, 7, 7 * PAGE, PAGE)).toBe(DMA_EXHAUSTED)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    r.domain.broken = true
    expect(lend(r, m, 7, 7 * PAGE, PAGE)).toBe(DMA_FAILED)
  })
})

describe('what a domain asks for', () => {
  test.each(['strict', 'lazy'] as const)(
    'gaps: no two mappings are neighbours, and no removal touches one, %s',
    (mode) => {
      const r = rig({ space: { gaps: true }, mode, lazy: { entries: 8 } })
      const m = table(64)
      r.backend.alloc(3 * PAGE, 8, 3, 'ring')
      r.backend.alloc(4 * PAGE, 8, 3, 'ring')
      const lengths = [1, PAGE, PAGE + 1, 2 * PAGE, 4 * PAGE, 7 * PAGE]
      for (let round = 0; round < 20; round++) {
        for (let row = 0; row < 64; row++)
          expect(lend(r, m, row, (row * 7 + round) * PAGE, lengths[(row + round) % lengths.length])).toBe(DMA_OK)
        expect(r.backend.commitMaps()).toBe(DMA_OK)
        for (let i = 0; i < 64; i++) {
          r.backend.unmap(m, (i * (2 * round + 1)) % 64, 0)
          if (i % 16 === 15) expect(r.backend.commitUnmaps()).toBe(DMA_OK)
        }
      }
      expect(r.domain.violations).toEqual([])
      r.clock.now = 1000
      r.backend.poll()
      expect(r.domain.mapped).toHaveLength(2)
    },
  )

  test('gaps and bounced edges do not go together: DMA_GAP', () => {
    expect(code(() => rig({ space: { gaps: true }, subGranule: 'bounce' }))).toBe('DMA_GAP')
  })

  test('ringsReadWrite: areas of rings are both, payload is as it was asked for', () => {
    for (const ringsReadWrite of [false, true]) {
      const r = rig({ space: { ringsReadWrite } })
      for (const use of ['ring', 'payload'] as const)
        for (const direction of [TO_DEVICE, FROM_DEVICE] as const) r.backend.alloc(PAGE, 8, direction, use)
      expect(r.domain.mapped.map(({ access }) => access)).toEqual(ringsReadWrite ? [3, 3, 1, 2] : [1, 3, 1, 2])
    }
  })
})

test('who enforces what is lent is what the composition knows', () => {
  expect(rig().backend.traits.enforcedBy).toBe('trusted-code')
  for (const enforcedBy of ['construction', 'peer', 'nothing'] as const)
    expect(rig({ enforcedBy }).backend.traits.enforcedBy).toBe(enforcedBy)
})

describe('deferred removals', () => {
  test.each([[{ entries: 0 }], [{ entries: 1.5 }], [{ entries: Number.NaN }], [{ ms: -1 }], [{ ms: Number.NaN }]])(
    'bounds that are none are refused: %s',
    (lazy) => {
      expect(code(() => rig({ mode: 'lazy', lazy }))).toBe('DMA_LAZY')
    },
  )

  test.each([
    ['goes back', 5],
    ['says nothing', Number.NaN],
  ])('a clock that %s does not put them off', (_, later) => {
    const r = rig({ mode: 'lazy', lazy: { ms: 10 } })
    const m = table(1)
    r.clock.now = 1000
    r.backend.commitUnmaps()
    r.backend.poll()
    expect(lend(r, m, 0, 0, PAGE)).toBe(DMA_OK)
    r.backend.commitMaps()
    r.backend.unmap(m, 0, 0)
    r.backend.commitUnmaps()
    r.clock.now = 2000
    expect(r.backend.poll()).toBe(1)
    expect(lend(r, m, 0, 0, PAGE)).toBe(DMA_OK)
    r.backend.commitMaps()
    r.backend.unmap(m, 0, 0)
    r.backend.commitUnmaps()
    r.clock.now = later
    expect(r.backend.poll()).toBe(1)
    expect(r.domain.mapped.filter(({ guest }) => guest === BASE)).toEqual([])
  })
})

describe('an owner who sleeps is told when deferred removals are due', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  interface Sleeper extends Rig {
    readonly m: DmaMappings
    readonly told: () => number
  }

  function sleeper(lazy: { entries?: number; ms?: number } = {}, mode: 'strict' | 'lazy' = 'lazy'): Sleeper {
    let told = 0
    const wake = (): void => void told++
    return { ...rig({ mode, lazy, wake, now: () => performance.now() }), m: table(2), told: () => told }
  }

  /** Lends a page, takes it back, and sends the removal. */
  function batch(r: Sleeper): void {
    expect(lend(r, r.m, 0, 0, PAGE)).toBe(DMA_OK)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    r.backend.unmap(r.m, 0, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
  }

  test('after lazy.ms, and the poll that follows removes them', () => {
    const r = sleeper()
    vi.advanceTimersByTime(1000)
    r.backend.poll()
    batch(r)
    vi.advanceTimersByTime(9)
    expect([r.told(), r.domain.queued.length]).toEqual([0, 1])
    vi.advanceTimersByTime(1)
    expect(r.told()).toBe(1)
    expect(r.backend.poll()).toBe(1)
    expect(r.domain.mapped).toEqual([])
    vi.advanceTimersByTime(1000)
    expect([r.told(), vi.getTimerCount()]).toEqual([1, 0])
  })

  test('again, as long as it does not poll', () => {
    const r = sleeper({ ms: 7 })
    batch(r)
    vi.advanceTimersByTime(35)
    expect([r.told(), vi.getTimerCount()]).toEqual([5, 1])
    r.backend.poll()
    vi.advanceTimersByTime(7)
    expect([r.told(), vi.getTimerCount()]).toEqual([5, 0])
  })

  test('no batch starts a timer of its own, and none that began later is forgotten', () => {
    const r = sleeper()
    const started = vi.spyOn(globalThis, 'setTimeout')
    for (let i = 0; i < 100; i++) batch(r)
    expect(started).toHaveBeenCalledTimes(1)
    for (let ms = 0; ms < 100; ms++) {
      vi.advanceTimersByTime(1)
      for (let i = 0; i < 10; i++) batch(r)
    }
    expect(started.mock.calls.length).toBeLessThan(40)
    const before = r.told()
    vi.advanceTimersByTime(10)
    expect(r.told()).toBe(before + 1)
    expect(r.backend.poll()).toBe(1)
    expect(r.domain.mapped).toEqual([])
    started.mockRestore()
  })

  test('no timer is left after dispose, nor of a domain that is broken, and none runs where none is needed', () => {
    const disposed = sleeper()
    batch(disposed)
    expect(vi.getTimerCount()).toBe(1)
    disposed.backend.dispose()
    expect(vi.getTimerCount()).toBe(0)
    const broken = sleeper()
    batch(broken)
    broken.domain.broken = true
    vi.advanceTimersByTime(10)
    expect([broken.told(), vi.getTimerCount()]).toEqual([0, 0])
    for (const r of [sleeper({ ms: 0 }), sleeper({ entries: 1 }), sleeper({ ms: Infinity }), sleeper({}, 'strict')]) {
      batch(r)
      expect(vi.getTimerCount()).toBe(0)
    }
  })

  test('and when the backend was disposed of: others may have the room that it took', () => {
    const r = sleeper({}, 'strict')
    r.backend.dispose()
    r.backend.dispose()
    expect(r.told()).toBe(1)
  })
})
