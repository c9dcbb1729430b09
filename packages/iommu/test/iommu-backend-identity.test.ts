import { DMA_EXHAUSTED, DMA_OK } from '@guestdma/dma'
import { GuestMemory } from '@guestdma/memory'
import { describe, expect, test } from 'vitest'
import { DOMAIN_READ, DOMAIN_WRITE } from '../src/index.ts'
import { BASE, LENDABLE, lend, MODES, peek, poke, rig, table } from './support/model-domain.ts'

const PAGE = 4096
const space = { identity: true, granule: PAGE }

describe.each(MODES)('a domain without translation, %s', (mode) => {
  test('device addresses are guest addresses, and whole pages are reachable', () => {
    const r = rig({ space, mode })
    const m = table(1)
    r.bytes[PAGE + 99] = 7
    expect(lend(r, m, 0, PAGE + 100, 2 * PAGE, 1)).toBe(DMA_OK)
    expect(r.domain.mapped).toEqual([])
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    expect([m.device[0], m.deviceLength[0]]).toEqual([BASE + PAGE + 100, 2 * PAGE])
    expect(r.domain.mapped.map(({ iova }) => iova - BASE)).toEqual([PAGE, 2 * PAGE, 3 * PAGE])
    expect([peek(r, BASE + PAGE + 99), peek(r, BASE + PAGE - 1), peek(r, BASE + 4 * PAGE)]).toEqual([7, -1, -1])
  })

  test('what was unmapped is out of reach when commitUnmaps returns', () => {
    const r = rig({ space, mode })
    const m = table(2)
    lend(r, m, 0, 0, 2 * PAGE)
    lend(r, m, 1, 8 * PAGE, 10)
    r.backend.commitMaps()
    r.backend.unmap(m, 0, 0)
    r.backend.unmap(m, 1, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect(r.domain.mapped).toEqual([])
    expect(r.domain.violations).toEqual([])
  })

  test('a page is shared once and taken back with its last buffer', () => {
    const r = rig({ space, mode })
    const m = table(4)
    lend(r, m, 0, 100, 100)
    lend(r, m, 1, 300, 100)
    lend(r, m, 2, PAGE - 10, 20)
    r.backend.commitMaps()
    expect(r.domain.mapped.map(({ iova }) => iova - BASE)).toEqual([0, PAGE])
    const reach = (row: number): number[] => {
      r.backend.unmap(m, row, 0)
      expect(r.backend.commitUnmaps()).toBe(DMA_OK)
      return r.domain.mapped.map(({ iova }) => iova - BASE)
    }
    expect(reach(0)).toEqual([0, PAGE])
    expect(reach(2)).toEqual([0])
    expect(reach(1)).toEqual([])
    expect(r.backend.counters.stillExposed).toBe(2)
    expect(r.domain.violations).toEqual([])
  })

  test('buffers of both directions in one page can both be used', () => {
    const r = rig({ space, mode })
    const m = table(2)
    lend(r, m, 0, 0, 100, 2)
    lend(r, m, 1, 100, 100, 1)
    r.bytes[100] = 9
    r.backend.commitMaps()
    expect([peek(r, m.device[1]), poke(r, m.device[0], 1)]).toEqual([9, true])
    r.backend.unmap(m, 0, 1)
    r.backend.commitUnmaps()
    expect(peek(r, m.device[1])).toBe(9)
  })

  test('a page that is taken back and shared again in one batch stays shared', () => {
    const r = rig({ space, mode })
    const m = table(2)
    lend(r, m, 0, 0, 100)
    r.backend.commitMaps()
    r.backend.unmap(m, 0, 0)
    lend(r, m, 1, 200, 100)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    expect(r.domain.translate(m.device[1], DOMAIN_WRITE)).toBe(BASE + 200)
    expect(r.domain.violations).toEqual([])
  })

  test('allocations are shared page by page and taken back at once', () => {
    const r = rig({ space, mode })
    const region = r.backend.alloc(PAGE + 1, 8, 2, 'ring')
    expect([region.device, region.length, r.domain.mapped.length]).toEqual([BASE + region.offset, 2 * PAGE, 2])
    expect(r.domain.translate(region.device, DOMAIN_READ)).toBe(region.device)
    r.backend.free(region)
    expect([r.domain.mapped.length, r.ram.live]).toEqual([0, 0])
    r.backend.alloc(PAGE, 8, 3, 'ring')
    r.backend.dispose()
    expect([r.domain.disposed, r.ram.available]).toEqual([true, LENDABLE])
  })

  test('refused: the batch is undone, and the counts are as before', () => {
    const r = rig({ space, mode })
    const m = table(2)
    r.domain.answer = (request) => (request.kind === 'map' ? DMA_EXHAUSTED : DMA_OK)
    lend(r, m, 0, 0, 100)
    lend(r, m, 1, 50, 100)
    expect(r.backend.commitMaps()).toBe(DMA_EXHAUSTED)
    r.backend.unmap(m, 0, 0)
    r.backend.unmap(m, 1, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    r.domain.answer = () => DMA_OK
    lend(r, m, 0, 0, 100)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    expect(r.domain.mapped).toHaveLength(1)
  })

  test('two ranges of memory that meet in mid-page share one count of it', () => {
    const buffer = new ArrayBuffer(4 * PAGE)
    const half = PAGE + PAGE / 2
    const memory = new GuestMemory([
      { base: BASE, length: half, memory: buffer, offset: 0 },
      { base: BASE + half, length: 4 * PAGE - half, memory: buffer, offset: half },
    ])
    const r = rig({ space, mode, memory })
    const m = table(3)
    lend(r, m, 0, PAGE, 100)
    lend(r, m, 1, 3 * PAGE, 100)
    lend(r, m, 2, half, 100)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    expect(r.domain.violations).toEqual([])
    expect(r.domain.mapped.map(({ iova }) => iova - BASE)).toEqual([PAGE, 3 * PAGE])
    for (const row of [2, 1]) r.backend.unmap(m, row, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect(r.domain.translate(m.device[0], DOMAIN_READ)).toBe(BASE + PAGE)
    r.backend.unmap(m, 0, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect(r.domain.mapped).toEqual([])
  })
})
