import { DMA_EXHAUSTED, DMA_FAILED, DMA_OK, type DmaMappings } from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import { DOMAIN_READ } from '../src/index.ts'
import {
  BASE,
  code,
  EDGES,
  GRANULES,
  LENDABLE,
  lend,
  MODES,
  type Request,
  type Rig,
  rig,
  table,
} from './support/model-domain.ts'

const COMBINATIONS = GRANULES.flatMap((granule) =>
  MODES.flatMap((mode) => EDGES.map((subGranule) => ({ granule, mode, subGranule }))),
)
const ROWS = 6

const refuse = (kind: Request['kind'], status: -1 | -5, after = 0) => {
  let seen = 0
  return (request: Request) => (request.kind === kind && seen++ >= after ? status : DMA_OK)
}

function lendAll(r: Rig, m: DmaMappings, granule: number): void {
  for (let row = 0; row < ROWS; row++) expect(lend(r, m, row, 3 * granule * row + 1, granule + 1)).toBe(DMA_OK)
}

function undoAll(r: Rig, m: DmaMappings): number {
  for (let row = 0; row < ROWS; row++) expect(r.backend.unmap(m, row, 0)).toBe(DMA_OK)
  return r.backend.commitUnmaps()
}

describe.each(COMBINATIONS)('maps that are refused: granule $granule, $mode, $subGranule', (options) => {
  const { granule, mode, subGranule } = options

  test.each([
    ['NOMEM', DMA_EXHAUSTED],
    ['anything else', DMA_FAILED],
  ] as const)('%s: commitMaps says so, and undoing the batch leaves nothing mapped', (_, status) => {
    for (const after of [0, 1, 4]) {
      const r = rig({ space: { granule }, mode, subGranule, lazy: { entries: 1 } })
      const m = table(ROWS)
      r.domain.answer = refuse('map', status, after)
      lendAll(r, m, granule)
      expect(r.backend.commitMaps()).toBe(status)
      expect(undoAll(r, m)).toBe(DMA_OK)
      expect(r.domain.mapped).toEqual([])
      // And all is as it was before.
      r.domain.answer = () => DMA_OK
      lendAll(r, m, granule)
      expect(r.backend.commitMaps()).toBe(DMA_OK)
      for (let row = 0; row < ROWS; row++) expect(r.domain.translate(m.device[row], DOMAIN_READ)).not.toBe(-1)
      expect(undoAll(r, m)).toBe(DMA_OK)
      expect(r.domain.violations).toEqual([])
      expect(r.backend.counters.maps).toBe(r.backend.counters.unmaps)
    }
  })

  test('a commit of removals in between does not hide it, and does not fail for it', () => {
    const r = rig({ space: { granule }, mode, subGranule, lazy: { entries: 1 } })
    const [older, m] = [table(ROWS), table(ROWS)]
    lendAll(r, older, granule)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    r.domain.answer = refuse('map', DMA_EXHAUSTED)
    lendAll(r, m, granule)
    // Completions of an earlier batch are taken between `add` and `publish`.
    expect(undoAll(r, older)).toBe(DMA_OK)
    expect(r.backend.commitMaps()).toBe(DMA_EXHAUSTED)
    expect(undoAll(r, m)).toBe(DMA_OK)
    expect(r.domain.mapped).toEqual([])
    expect(r.backend.commitMaps()).toBe(DMA_OK)
  })

  test('a queue is told of its own maps after another one undid its batch', () => {
    const r = rig({ space: { granule }, mode, subGranule, lazy: { entries: 1 } })
    const [first, second] = [table(1), table(1)]
    expect(lend(r, first, 0, 0, 2 * granule)).toBe(DMA_OK)
    expect(lend(r, second, 0, 8 * granule, 2 * granule)).toBe(DMA_OK)
    r.domain.answer = (request) => (request.kind === 'map' && request.guest !== BASE ? DMA_EXHAUSTED : DMA_OK)
    expect(r.backend.commitMaps()).toBe(DMA_EXHAUSTED)
    r.backend.unmap(first, 0, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect(r.domain.translate(second.device[0], DOMAIN_READ)).toBe(-1)
    expect(r.backend.commitMaps()).not.toBe(DMA_OK)
    r.backend.unmap(second, 0, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    r.domain.answer = () => DMA_OK
    expect(lend(r, first, 0, 0, 2 * granule)).toBe(DMA_OK)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
  })

  test('completions of earlier batches do not clear it', () => {
    const r = rig({ space: { granule }, mode, subGranule, lazy: { entries: 1 } })
    const [older, m] = [table(ROWS), table(2)]
    lendAll(r, older, granule)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    r.domain.answer = refuse('map', DMA_EXHAUSTED)
    for (let row = 0; row < 2; row++) expect(lend(r, m, row, 40 * granule * (row + 1), 2 * granule)).toBe(DMA_OK)
    // The first wait gets the refusal, and what completes later has nothing to do with it.
    for (let row = 0; row < ROWS; row++) {
      r.backend.unmap(older, row, 0)
      expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    }
    expect(r.domain.translate(m.device[0], DOMAIN_READ)).toBe(-1)
    expect(r.backend.commitMaps()).toBe(DMA_EXHAUSTED)
    for (let row = 0; row < 2; row++) r.backend.unmap(m, row, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
  })

  test('a poll in between does not hide it', () => {
    const r = rig({ space: { granule }, mode, subGranule, lazy: { entries: 1000, ms: 1 } })
    const [older, m] = [table(ROWS), table(ROWS)]
    lendAll(r, older, granule)
    r.backend.commitMaps()
    undoAll(r, older)
    r.domain.answer = refuse('map', DMA_FAILED)
    lendAll(r, m, granule)
    r.clock.now = 100
    r.backend.poll()
    expect(r.backend.commitMaps()).toBe(DMA_FAILED)
  })

  test('alloc and free in between do not hide it, nor fail for it', () => {
    const r = rig({ space: { granule }, mode, subGranule })
    const m = table(ROWS)
    const before = r.backend.alloc(granule, 8, 3, 'ring')
    r.domain.answer = (request) => (request.kind === 'map' && request.guest < BASE + LENDABLE ? DMA_EXHAUSTED : DMA_OK)
    for (let row = 0; row < ROWS; row++) lend(r, m, row, 4 * granule * row, 2 * granule)
    const region = r.backend.alloc(granule, 8, 3, 'ring')
    r.backend.free(before)
    r.backend.free(region)
    expect(r.backend.commitMaps()).toBe(DMA_EXHAUSTED)
    expect(undoAll(r, m)).toBe(DMA_OK)
  })

  test('alloc: DMA_ALLOC, and RAM and addresses come back', () => {
    for (const status of [DMA_EXHAUSTED, DMA_FAILED] as const) {
      const r = rig({ space: { granule }, mode, subGranule })
      const { live } = r.ram
      r.domain.answer = refuse('map', status)
      expect(code(() => r.backend.alloc(3 * granule, 8, 3, 'ring'))).toBe('DMA_ALLOC')
      expect([r.ram.live, r.backend.counters.allocatedBytes, r.domain.mapped.length]).toEqual([live, 0, 0])
      r.domain.answer = () => DMA_OK
      expect(code(() => r.backend.alloc(3 * granule, 8, 3, 'ring'))).toBe('nothing was thrown')
      // Nobody else's maps are judged by it.
      lend(r, table(1), 0, 0, 2 * granule)
      expect(r.backend.commitMaps()).toBe(DMA_OK)
    }
  })
})

describe.each(COMBINATIONS)('removals that are refused: granule $granule, $mode, $subGranule', (options) => {
  const { granule, mode, subGranule } = options
  const lazy = { entries: 4, ms: 10 }

  test('commitUnmaps is not Ok from then on, and nothing that was removed is used again', () => {
    const r = rig({ space: { granule }, mode, subGranule, lazy })
    const m = table(ROWS)
    lendAll(r, m, granule)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    const held = r.domain.mapped.map(({ iova, guest }) => [iova, guest])
    r.domain.answer = refuse('unmap', DMA_FAILED)
    expect(undoAll(r, m)).toBe(DMA_FAILED)
    r.domain.answer = () => DMA_OK
    const next = table(ROWS)
    for (let round = 0; round < 3; round++) {
      let lent = 0
      while (lent < ROWS && lend(r, next, lent, 3 * granule * lent + 1, granule + 1) === DMA_OK) lent++
      if (lent > 0) expect(r.backend.commitMaps()).toBe(DMA_FAILED)
      // The model records mappings over what is still there: addresses, and slots.
      expect(r.domain.violations).toEqual([])
      for (const { iova, guest } of r.domain.queued.filter(({ kind }) => kind === 'map') as {
        iova: number
        guest: number
      }[])
        expect(held).not.toContainEqual([iova, guest])
      for (let row = 0; row < lent; row++) r.backend.unmap(next, row, 0)
      if (lent > 0) expect(r.backend.commitUnmaps()).toBe(DMA_FAILED)
    }
  })

  test('free: DMA_STILL_REACHABLE, and the RAM stays out of use until the backend is disposed', () => {
    const r = rig({ space: { granule }, mode, subGranule, lazy })
    const region = r.backend.alloc(granule, 8, 3, 'ring')
    const { live, available } = r.ram
    r.domain.answer = refuse('unmap', DMA_FAILED)
    expect(code(() => r.backend.free(region))).toBe('DMA_STILL_REACHABLE')
    expect([r.ram.live, r.ram.available]).toEqual([live, available])
    expect(code(() => r.backend.alloc(granule, 8, 3, 'ring'))).toBe('DMA_ALLOC')
    r.backend.dispose()
    expect([r.ram.live, r.ram.available]).toEqual([0, LENDABLE])
  })

  test('a domain that was cut off: maps fail, removals are done, and memory is given back', () => {
    const r = rig({ space: { granule }, mode, subGranule, lazy })
    const m = table(ROWS)
    const region = r.backend.alloc(granule, 8, 3, 'ring')
    lendAll(r, m, granule)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    Object.assign(r.domain, { broken: true, detached: true })
    expect(undoAll(r, m)).toBe(DMA_OK)
    lend(r, m, 0, 0, granule)
    expect(r.backend.commitMaps()).toBe(DMA_FAILED)
    r.backend.unmap(m, 0, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    r.backend.free(region)
    expect(r.backend.counters.allocatedBytes).toBe(0)
    expect(code(() => r.backend.alloc(granule, 8, 3, 'ring'))).toBe('DMA_ALLOC')
  })

  test('polling a broken domain is no work done', () => {
    const r = rig({ space: { granule }, mode, subGranule, lazy: { entries: 100, ms: 1 } })
    const m = table(1)
    lend(r, m, 0, 0, granule)
    r.backend.commitMaps()
    r.backend.unmap(m, 0, 0)
    r.domain.broken = true
    r.clock.now = 100
    expect([r.backend.poll(), r.backend.poll()]).toEqual([0, 0])
  })

  test('a domain that cannot be given up keeps its memory, until the platform cut it off and dispose is called again', () => {
    const r = rig({ space: { granule }, mode, subGranule })
    r.backend.alloc(granule, 8, 3, 'ring')
    const { live } = r.ram
    r.domain.dispose = () => {
      throw new Error('no answer')
    }
    expect(() => r.backend.dispose()).toThrow('no answer')
    expect(r.ram.live).toBe(live)
    r.domain.dispose = () => {}
    r.backend.dispose()
    expect([r.ram.live, r.ram.available]).toEqual([0, LENDABLE])
  })
})
