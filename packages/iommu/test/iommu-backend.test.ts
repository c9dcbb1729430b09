import { DMA_EXHAUSTED, DMA_OK, DMA_TOO_LONG, DMA_UNMAPPABLE, type DmaMappings } from '@guestdma/dma'
import { GuestMemory } from '@guestdma/memory'
import { describe, expect, test } from 'vitest'
import { DOMAIN_READ, DOMAIN_WRITE } from '../src/index.ts'
import {
  BASE,
  EDGES,
  GRANULES,
  LENDABLE,
  lend,
  MODES,
  peek,
  poke,
  RAM,
  type Rig,
  rig,
  samples,
  table,
} from './support/model-domain.ts'

const COMBINATIONS = GRANULES.flatMap((granule) =>
  MODES.flatMap((mode) => EDGES.map((subGranule) => ({ granule, mode, subGranule }))),
)

// Where a buffer starts in a granule, and its length: within one, across edges, whole ones.
const places = (granule: number): (readonly [at: number, length: number])[] => {
  const offsets = [0, 1, 7, 8, granule >> 1, granule - 1].filter((offset) => offset < Math.max(granule, 9))
  const lengths = [1, 2, 9, granule - 1, granule, granule + 1, 2 * granule, 3 * granule + 5].filter((n) => n > 0)
  return [...new Set(offsets)].flatMap((offset) => [...new Set(lengths)].map((n) => [4 * granule + offset, n] as const))
}

// Takes one row back and commits; a lazy one is waited for.
function takeBack(r: Rig, m: DmaMappings, row: number, written: number): void {
  expect(r.backend.unmap(m, row, written)).toBe(DMA_OK)
  expect(r.backend.commitUnmaps()).toBe(DMA_OK)
}

describe.each(COMBINATIONS)('granule $granule, $mode, $subGranule', ({ granule, mode, subGranule }) => {
  const space = { granule }

  test('every lent byte is reachable at its device address, as its direction says, until it is taken back', () => {
    const r = rig({ space, mode, subGranule })
    r.bytes.forEach((_, i, bytes) => {
      if (i < 16 * granule + 64) bytes[i] = 1 + (i % 251)
    })
    const before = r.bytes.slice(0, 16 * granule + 64)
    for (const [at, length] of places(granule)) {
      for (const direction of [1, 2, 3]) {
        const m = table(1)
        const where = `${at} + ${length}, direction ${direction}`
        expect(lend(r, m, 0, at, length, direction), where).toBe(DMA_OK)
        expect(r.backend.commitMaps(), where).toBe(DMA_OK)
        expect([m.deviceLength[0], m.device[0] % granule], where).toEqual([length, at % granule])
        for (const i of samples(at, length, granule)) {
          const iova = m.device[0] + i
          const readable = (direction & 1) !== 0
          expect(peek(r, iova), `${where}, byte ${i}`).toBe(readable ? before[at + i] : -1)
          expect(r.domain.translate(iova, DOMAIN_WRITE) >= 0, `${where}, byte ${i}`).toBe((direction & 2) !== 0)
          if (subGranule === 'share' && length > 1)
            expect(r.domain.translate(iova, direction), where).toBe(BASE + at + i)
        }
        takeBack(r, m, 0, 0)
        if (mode === 'strict') expect(r.domain.mapped, where).toEqual([])
      }
    }
    expect(r.domain.violations).toEqual([])
    // Nothing was written, so nothing of the guest's has changed.
    expect(r.bytes.slice(0, before.length)).toEqual(before)
  })

  test('what the device writes arrives, up to `written`, and beside the buffer nothing changes', () => {
    const r = rig({ space, mode, subGranule })
    for (const [at, length] of places(granule)) {
      for (const written of new Set([0, 1, length - 1, length, length + 7])) {
        const m = table(1)
        r.bytes.fill(0x11, 0, 16 * granule + 64)
        expect(lend(r, m, 0, at, length, 2)).toBe(DMA_OK)
        expect(r.backend.commitMaps()).toBe(DMA_OK)
        const touched = samples(at, length, granule)
        for (const i of touched) expect(poke(r, m.device[0] + i, 0x22)).toBe(true)
        const copied = r.domain.translate(m.device[0], DOMAIN_WRITE) !== BASE + at
        takeBack(r, m, 0, written)
        for (const i of touched) {
          // In place there is nothing to hold back.
          const inPlace = r.bytes[at + i] === 0x22
          if (i < written) expect(inPlace, `${at} + ${length}, byte ${i} of ${written}`).toBe(true)
          else if (copied && i < granule - (at % granule)) expect(inPlace, `byte ${i} of ${written}`).toBe(false)
        }
        expect([r.bytes[at - 1], r.bytes[at + length]], `${at} + ${length}`).toEqual([0x11, 0x11])
      }
    }
    expect(r.domain.violations).toEqual([])
  })

  test('nothing is mapped beyond the whole granules of a buffer', () => {
    const r = rig({ space, mode, subGranule, lazy: { entries: 1 } })
    for (const [at, length] of places(granule)) {
      const m = table(1)
      lend(r, m, 0, at, length, 3)
      r.backend.commitMaps()
      const from = BASE + Math.floor(at / granule) * granule
      const to = BASE + Math.ceil((at + length) / granule) * granule
      const own = r.domain.mapped.filter(({ guest }) => guest < BASE + LENDABLE)
      for (const { guest, length: bytes } of own) {
        expect(guest, `${at} + ${length}`).toBeGreaterThanOrEqual(from)
        expect(guest + bytes, `${at} + ${length}`).toBeLessThanOrEqual(to)
      }
      const reach = r.domain.mapped.reduce((sum, mapping) => sum + mapping.length, 0)
      expect(reach, `${at} + ${length}`).toBe(Math.max(to - from, r.domain.leastLength))
      takeBack(r, m, 0, 0)
    }
    expect(r.domain.violations).toEqual([])
  })

  test('a batch waits twice where it is strict and once where it is lazy', () => {
    const r = rig({ space, mode, subGranule })
    const m = table(8)
    for (let batch = 1; batch <= 3; batch++) {
      for (let row = 0; row < 8; row++) expect(lend(r, m, row, 2 * granule * row + 1, granule, 3)).toBe(DMA_OK)
      expect(r.backend.commitMaps()).toBe(DMA_OK)
      for (let row = 0; row < 8; row++) r.backend.unmap(m, row, 0)
      expect(r.backend.commitUnmaps()).toBe(DMA_OK)
      expect(r.domain.commits).toBe(mode === 'strict' ? 2 * batch : batch)
      expect(r.backend.counters.synchronousCommits).toBe(r.domain.commits)
    }
    expect(r.domain.violations).toEqual([])
  })

  test('removals of neighbours merge into one request', { tags: ['5.13.6.6.1/contiguous'] }, () => {
    const r = rig({ space, mode, subGranule, lazy: { entries: 8 } })
    const m = table(8)
    for (let row = 0; row < 8; row++) lend(r, m, row, 2 * granule * row, granule > 1 ? granule : 2, 3)
    r.backend.commitMaps()
    for (const row of [3, 2, 1, 0, 4, 5, 6, 7]) r.backend.unmap(m, row, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect(r.domain.sent.filter(({ kind }) => kind === 'unmap')).toHaveLength(1)
    expect([r.backend.counters.unmapRequests, r.domain.mapped.length]).toEqual([1, 0])
    expect(r.domain.violations).toEqual([])
  })

  test('commits without anything to commit do not wait', () => {
    const r = rig({ space, mode, subGranule })
    expect([r.backend.commitMaps(), r.backend.commitUnmaps(), r.backend.poll()]).toEqual([DMA_OK, DMA_OK, 0])
    expect(r.domain.commits).toBe(0)
  })

  test('what is not memory is unmappable, what is too long is too long, and neither is mapped', () => {
    const r = rig({ space, mode, subGranule })
    const m = table(1)
    for (const [at, length] of [
      [-1, 1],
      [-1, 2],
      [RAM, 1],
      [RAM - 1, 2],
      [0, RAM + 1],
      [2 ** 52, 16],
    ])
      expect(lend(r, m, 0, at, length)).toBe(DMA_UNMAPPABLE)
    expect(r.backend.counters).toMatchObject({ unmappable: 6, maps: 0, mapRequests: 0 })
    expect([r.backend.commitMaps(), r.domain.commits]).toEqual([DMA_OK, 0])
  })
})

describe('lengths and addresses', () => {
  test('what is longer than a mapping may be is refused for good', () => {
    const length = 2 ** 28 + 4096
    const memory = new GuestMemory([{ base: BASE, length, memory: new ArrayBuffer(length) }])
    const r = rig({ memory })
    const m = table(1)
    expect(lend(r, m, 0, 0, r.backend.limits.maxMappingLength)).toBe(DMA_OK)
    expect(lend(r, m, 0, 0, r.backend.limits.maxMappingLength + 1)).toBe(DMA_TOO_LONG)
    expect(r.backend.counters.tooLong).toBe(1)
  })

  test('what a narrow input range can never hold is too long, and the limit says so', () => {
    const r = rig({ space: { inputStart: 0x1_0000, inputEnd: 0x1_ffff } })
    const m = table(1)
    expect(r.backend.limits.maxMappingLength).toBeLessThanOrEqual(0x1_0000)
    expect(lend(r, m, 0, 0, 0x1_0001)).toBe(DMA_TOO_LONG)
  })

  test('device addresses stay in the input range and out of reserved ranges', {
    tags: ['5.13.6.8.1.1/unmapped', '5.13.6.1/input-range'],
  }, () => {
    const reserved = [{ start: 0x12_0000, end: 0x13_0fff }]
    const r = rig({ space: { inputStart: 0x11_f000, inputEnd: 0x14_ffff, reserved } })
    const m = table(100)
    let rows = 0
    while (lend(r, m, rows, 4096 * rows, 4096) === DMA_OK) rows++
    // 1 page before the reserved range, 31 behind it.
    expect([rows, r.backend.commitMaps()]).toEqual([32, DMA_OK])
    expect(r.backend.counters.exhausted).toBe(1)
    expect(r.domain.violations).toEqual([])
    expect(r.backend.limits.maxDeviceAddress).toBe(0x14_ffff)
    for (let row = 0; row < rows; row++) r.backend.unmap(m, row, 0)
    r.backend.commitUnmaps()
    expect(lend(r, m, 0, 0, 4096)).toBe(DMA_OK)
  })

  test('no more addresses: DMA_EXHAUSTED, and what is lent stays as it is', () => {
    const r = rig({ space: { inputStart: 0x1000, inputEnd: 0x2fff } })
    const m = table(3)
    const statuses = [0, 1, 2].map((row) => lend(r, m, row, 4096 * row, 4096))
    expect(statuses).toEqual([DMA_OK, DMA_OK, DMA_EXHAUSTED])
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    expect(r.domain.translate(m.device[1], DOMAIN_READ)).toBe(BASE + 4096)
    expect(r.backend.counters).toMatchObject({ maps: 2, exhausted: 1 })
  })

  test('memory that grows between batches is found again', () => {
    const source = new WebAssembly.Memory({ initial: RAM / 65_536, maximum: RAM / 65_536 + 2 })
    const r = rig({ source, subGranule: 'bounce' })
    const m = table(2)
    new Uint8Array(source.buffer)[101] = 7
    lend(r, m, 0, 100, 50, 3)
    r.backend.commitMaps()
    source.grow(1)
    expect(poke(r, m.device[0], 0)).toBe(true)
    r.memory.refresh()
    poke(r, m.device[0] + 1, 9)
    expect(r.backend.unmap(m, 0, 50)).toBe(DMA_OK)
    source.grow(1)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect(new Uint8Array(source.buffer)[101]).toBe(9)
    expect(lend(r, m, 0, 100, 50, 3)).toBe(DMA_OK)
    r.backend.commitMaps()
    expect(peek(r, m.device[0] + 1)).toBe(9)
  })
})

describe('limits and traits', () => {
  test('say what is true of each kind', () => {
    const traits = (granule: number, subGranule: 'share' | 'bounce', mode: 'strict' | 'lazy') => {
      const { backend } = rig({ space: { granule }, subGranule, mode, lazy: { entries: 8, ms: 3 } })
      const { streaming, reach, revocation } = backend.traits
      return [streaming, reach, revocation, backend.limits.staleEntries, backend.limits.staleNs]
    }
    expect(traits(1, 'share', 'strict')).toEqual(['in-place', 'byte', 'strict', 0, 0])
    expect(traits(1, 'share', 'lazy')).toEqual(['in-place', 'byte', 'deferred', 8, 3e6])
    expect(traits(4096, 'share', 'strict')).toEqual(['in-place', 'granule', 'deferred', Infinity, Infinity])
    expect(traits(4096, 'bounce', 'strict')).toEqual(['mixed', 'granule', 'strict', 0, 0])
    expect(traits(4096, 'bounce', 'lazy')).toEqual(['mixed', 'granule', 'deferred', 8, 3e6])
  })
})
