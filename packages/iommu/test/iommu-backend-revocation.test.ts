import { DMA_OK, type DmaMappings } from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import { DOMAIN_READ, DOMAIN_WRITE } from '../src/index.ts'
import {
  BASE,
  code,
  EDGES,
  GRANULES,
  LENDABLE,
  lend,
  MODES,
  peek,
  type Rig,
  rig,
  table,
} from './support/model-domain.ts'

function cycle(r: Rig, m: DmaMappings, rows: number, at: (row: number) => number, length: number): number[] {
  for (let row = 0; row < rows; row++) expect(lend(r, m, row, at(row), length, 3)).toBe(DMA_OK)
  expect(r.backend.commitMaps()).toBe(DMA_OK)
  const devices = [...m.device.subarray(0, rows)]
  for (let row = 0; row < rows; row++) expect(r.backend.unmap(m, row, 0)).toBe(DMA_OK)
  expect(r.backend.commitUnmaps()).toBe(DMA_OK)
  return devices
}

const stale = (r: Rig, devices: readonly number[]): number =>
  devices.filter((iova) => r.domain.translate(iova, DOMAIN_READ) >= 0).length

describe.each(GRANULES)('strict revocation, granule %d', (granule) => {
  test.each(EDGES)('%s: nothing is reachable when commitUnmaps returns', (subGranule) => {
    const r = rig({ space: { granule }, subGranule })
    const m = table(8)
    for (const length of [2, granule, 2 * granule + 3]) {
      const devices = cycle(r, m, 8, (row) => 4 * granule * row + 1, length)
      expect(stale(r, devices)).toBe(0)
      expect(r.domain.mapped).toEqual([])
    }
    expect(r.domain.violations).toEqual([])
  })
})

describe.each(GRANULES)('lazy revocation, granule %d', (granule) => {
  test('at most so many entries are reachable when commitUnmaps returns', () => {
    const r = rig({ space: { granule }, mode: 'lazy', lazy: { entries: 8 } })
    const m = table(5)
    const devices: number[] = []
    for (let batch = 0; batch < 20; batch++) {
      const rows = 1 + (batch % 5)
      devices.push(...cycle(r, m, rows, (row) => 2 * granule * row, Math.max(granule, 2)))
      expect(stale(r, [...new Set(devices)])).toBeLessThan(8)
    }
    expect(r.domain.violations).toEqual([])
    expect(r.backend.counters.staleHighWater).toBeGreaterThan(0)
  })

  test('when the oldest entry is old enough the next commit waits', () => {
    const r = rig({ space: { granule }, mode: 'lazy', lazy: { entries: 100, ms: 10 } })
    const m = table(5)
    // Mapped beforehand, since a wait for maps revokes as well.
    for (let row = 0; row < 5; row++) lend(r, m, row, 2 * granule * row, Math.max(granule, 2))
    r.backend.commitMaps()
    const left = (row: number, ms: number): number => {
      r.clock.now += ms
      r.backend.unmap(m, row, 0)
      expect(r.backend.commitUnmaps()).toBe(DMA_OK)
      return r.domain.mapped.length
    }
    expect(left(0, 1000)).toBe(5)
    // The clock was not asked for the first: it counts from when it was, which may be too early and is never too late.
    expect(left(1, 4)).toBe(3)
    expect(left(2, 5)).toBe(3)
    expect(left(3, 4)).toBe(3)
    expect(left(4, 1)).toBe(0)
    expect(r.domain.commits).toBe(3)
  })

  test('a poll waits for what is old enough, and says for how many', () => {
    const r = rig({ space: { granule }, mode: 'lazy', lazy: { entries: 100, ms: 10 } })
    const m = table(2)
    cycle(r, m, 2, (row) => 2 * granule * row, Math.max(granule, 2))
    r.clock.now = 9
    expect([r.backend.poll(), r.domain.mapped.length]).toEqual([0, 2])
    r.clock.now = 10
    expect([r.backend.poll(), r.domain.mapped.length]).toEqual([2, 0])
    r.clock.now = 1000
    expect([r.backend.poll(), r.domain.commits]).toEqual([0, 2])
  })

  test('addresses are not used again before their removal is committed', () => {
    const r = rig({ space: { granule }, mode: 'lazy', lazy: { entries: 4 } })
    const m = table(3)
    const seen: number[] = []
    for (let batch = 0; batch < 10; batch++)
      seen.push(...cycle(r, m, 3, (row) => 2 * granule * row, Math.max(granule, 2)))
    // They are used again at all, and the domain saw no mapping over one that was still there.
    expect(new Set(seen).size).toBeLessThan(seen.length)
    expect(r.domain.violations).toEqual([])
  })

  test('a lazy backend with nothing live can lend again without anybody polling', () => {
    const space = { granule, inputStart: granule, inputEnd: 64 * granule - 1 }
    const r = rig({ space, mode: 'lazy', subGranule: 'bounce', lazy: { entries: 1_000_000, ms: 1e9 } })
    const m = table(1)
    for (let round = 0; round < 1200; round++) {
      expect(lend(r, m, 0, granule - 1, 2, 2), `round ${round}`).toBe(DMA_OK)
      // A batch that is given up before it is committed: nothing has waited.
      r.backend.unmap(m, 0, 0)
      expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    }
    expect(r.domain.violations).toEqual([])
  })
})

describe('granules that two buffers share', () => {
  test('have one address, stay reachable until both are taken back, and the counter says so', () => {
    const r = rig()
    const m = table(3)
    lend(r, m, 0, 0, 100)
    lend(r, m, 1, 100, 100)
    lend(r, m, 2, 8192, 100)
    r.backend.commitMaps()
    r.backend.unmap(m, 0, 0)
    r.backend.unmap(m, 2, 0)
    r.backend.commitUnmaps()
    expect(r.backend.counters.stillExposed).toBe(1)
    expect(m.device[1]).toBe(m.device[0] + 100)
    expect(r.domain.translate(m.device[0], DOMAIN_READ)).toBe(BASE)
    expect(r.domain.translate(m.device[1], DOMAIN_READ)).toBe(BASE + 100)
    expect(r.domain.translate(m.device[2], DOMAIN_READ)).toBe(-1)
    r.backend.unmap(m, 1, 0)
    r.backend.commitUnmaps()
    expect([0, 1, 2].map((row) => r.domain.translate(m.device[row], DOMAIN_READ))).toEqual([-1, -1, -1])
    expect([r.backend.counters.stillExposed, r.domain.mapped.length]).toEqual([1, 0])
  })

  test('are mapped once for each kind of access, so that one kind never gets what only the other was given', () => {
    const r = rig()
    const m = table(3)
    for (const [row, direction] of [1, 2, 1].entries()) {
      m.guest[row] = BASE + 64 * row
      m.length[row] = 64
      m.direction[row] = direction
      expect(r.backend.map(m, row)).toBe(DMA_OK)
    }
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    expect([r.backend.counters.mapRequests, r.domain.mapped.length]).toEqual([2, 2])
    expect([0, 1, 2].map((row) => r.domain.translate(m.device[row], DOMAIN_READ))).toEqual([BASE, -1, BASE + 128])
    expect([0, 1, 2].map((row) => r.domain.translate(m.device[row], DOMAIN_WRITE))).toEqual([-1, BASE + 64, -1])
    r.backend.unmap(m, 0, 0)
    r.backend.unmap(m, 1, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect([0, 1, 2].map((row) => r.domain.translate(m.device[row], DOMAIN_WRITE))).toEqual([-1, -1, -1])
    expect(r.domain.translate(m.device[2], DOMAIN_READ)).toBe(BASE + 128)
  })

  test('count for buffers over several granules: at either end', () => {
    const r = rig()
    const m = table(3)
    lend(r, m, 0, 4000, 10_000)
    lend(r, m, 1, 0, 10)
    lend(r, m, 2, 14_010, 10)
    r.backend.commitMaps()
    r.backend.unmap(m, 0, 0)
    expect(r.backend.counters.stillExposed).toBe(1)
    r.backend.unmap(m, 1, 0)
    r.backend.unmap(m, 2, 0)
    expect(r.backend.counters.stillExposed).toBe(1)
    r.backend.commitUnmaps()
    for (let i = 0; i < 3; i++) lend(r, m, i, 4096 * 8 * i, 4096)
    r.backend.commitMaps()
    for (let i = 0; i < 3; i++) r.backend.unmap(m, i, 0)
    // All counts are back at 0.
    expect(r.backend.counters.stillExposed).toBe(1)
  })
})

describe.each(MODES)('alloc and free, %s', (mode) => {
  test.each(GRANULES)('granule %d: zeroed, whole granules, mapped by direction, revoked at once', (granule) => {
    const r = rig({ space: { granule }, mode })
    const { live } = r.ram
    for (const length of [1, 16, granule, granule + 1, 3 * granule]) {
      for (const align of [1, 64, 4096]) {
        r.bytes.fill(0xa5, LENDABLE, LENDABLE + 16 * granule)
        const region = r.backend.alloc(length, align, 1, 'payload')
        expect(region.length).toBe(Math.ceil(Math.max(length, r.domain.leastLength) / granule) * granule)
        const guest = r.domain.translate(region.device, DOMAIN_READ)
        expect([guest % align, guest % granule]).toEqual([0, 0])
        expect(guest - BASE).toBe(region.offset)
        expect(r.domain.mapped).toEqual([{ iova: region.device, guest, length: region.length, access: DOMAIN_READ }])
        expect(r.bytes.subarray(region.offset, region.offset + region.length).every((b) => b === 0)).toBe(true)
        expect([region.device % Math.min(align, granule), r.backend.counters.allocatedBytes]).toEqual([
          0,
          region.length,
        ])
        r.backend.free(region)
        expect([r.domain.mapped.length, r.ram.live, r.backend.counters.allocatedBytes]).toEqual([0, live, 0])
      }
    }
    expect(r.domain.violations).toEqual([])
  })

  test('device addresses are as aligned as was asked for', () => {
    const r = rig({ space: { granule: 1 }, mode })
    const addresses = [16, 2, 4096, 8].map((align) => r.backend.alloc(24, align, 3, 'ring').device % align)
    expect(addresses).toEqual([0, 0, 0, 0])
  })

  test('a ring that the device writes may be read by it as well', () => {
    const r = rig({ mode })
    const ring = r.backend.alloc(64, 8, 2, 'ring')
    const payload = r.backend.alloc(64, 8, 2, 'payload')
    expect([peek(r, ring.device), peek(r, payload.device)]).toEqual([0, -1])
    expect(r.domain.mapped.map(({ access }) => access)).toEqual([3, 2])
  })

  test('what is not allocated here is not freed, nor anything twice', () => {
    const [a, b] = [rig({ mode }), rig({ mode })]
    const region = a.backend.alloc(64, 8, 3, 'ring')
    expect(code(() => b.backend.free(region))).toBe('DMA_FREE')
    a.backend.free(region)
    expect(code(() => a.backend.free(region))).toBe('DMA_FREE')
  })

  test('no more RAM: DMA_ALLOC, and nothing is kept', () => {
    const r = rig({ mode })
    expect(code(() => r.backend.alloc(LENDABLE + 1, 8, 3, 'payload'))).toBe('DMA_ALLOC')
    expect([r.ram.live, r.domain.mapped.length, r.backend.counters.allocatedBytes]).toEqual([0, 0, 0])
  })

  test('no more addresses: DMA_ALLOC, and the RAM is given back', () => {
    const r = rig({ mode, space: { inputStart: 0x1000, inputEnd: 0x1fff } })
    expect(code(() => r.backend.alloc(8192, 8, 3, 'payload'))).toBe('DMA_ALLOC')
    expect(r.ram.live).toBe(0)
    expect(code(() => r.backend.alloc(4096, 8, 3, 'payload'))).toBe('nothing was thrown')
  })

  test('dispose revokes what is live and gives all RAM back', () => {
    const r = rig({ mode, subGranule: 'bounce' })
    const m = table(4)
    r.backend.alloc(5000, 8, 3, 'ring')
    r.backend.alloc(50, 8, 1, 'payload')
    for (let row = 0; row < 4; row++) lend(r, m, row, 10_000 * row, 5000)
    r.backend.commitMaps()
    r.backend.unmap(m, 0, 0)
    r.backend.commitUnmaps()
    r.backend.dispose()
    r.backend.dispose()
    expect([r.domain.disposed, r.ram.live, r.ram.available]).toEqual([true, 0, LENDABLE])
    const { maps, unmaps, allocatedBytes } = r.backend.counters
    expect([maps - unmaps, allocatedBytes, r.backend.poll()]).toEqual([0, 0, 0])
  })
})
