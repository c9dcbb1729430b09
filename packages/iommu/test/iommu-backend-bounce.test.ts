import { DMA_EXHAUSTED, DMA_OK, DMA_UNMAPPABLE } from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import { DOMAIN_READ, DOMAIN_WRITE } from '../src/index.ts'
import { BASE, LENDABLE, lend, peek, poke, type Rig, rig, table } from './support/model-domain.ts'

const SECRET = 0x5e
const BUFFER = 0x11
const GRANULES = [2, 4, 16, 4096, 65_536] as const

// Head, middle and tail of several kinds: [offset in the first granule, bytes].
const shapes = (granule: number): (readonly [number, number])[] => [
  [1, 1],
  [0, granule - 1],
  [granule - 1, 1],
  [granule - 1, 2],
  [1, granule],
  [granule >> 1, 2 * granule],
  [1, 3 * granule + (granule >> 1)],
  [0, 2 * granule + 1],
  [granule - 1, 2 * granule + 1],
]

/** Everything that the device can read now, as counts by value. */
function readable(r: Rig): Map<number, number> {
  const seen = new Map<number, number>()
  for (const { guest, length, access } of r.domain.mapped) {
    if ((access & DOMAIN_READ) === 0) continue
    for (const value of r.bytes.subarray(guest - BASE, guest - BASE + length))
      seen.set(value, (seen.get(value) ?? 0) + 1)
  }
  return seen
}

describe.each(GRANULES)('bounce, granule %d', (granule) => {
  const at = 4 * granule
  const guarded = (direction: number, from: number, length: number, mode: 'strict' | 'lazy' = 'strict') => {
    const r = rig({ space: { granule }, subGranule: 'bounce', mode })
    r.bytes.fill(SECRET, 0, 16 * granule)
    r.bytes.fill(BUFFER, at + from, at + from + length)
    const m = table(4)
    expect(lend(r, m, 0, at + from, length, direction)).toBe(DMA_OK)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    return { r, m }
  }

  test('the device reads the bytes of the buffer and zeros, and nothing of its neighbours', () => {
    for (const [from, length] of shapes(granule)) {
      const { r } = guarded(1, from, length)
      const seen = readable(r)
      expect(seen.get(SECRET), `${from} + ${length}`).toBeUndefined()
      expect(seen.get(BUFFER), `${from} + ${length}`).toBe(length)
      expect([...seen.keys()].filter((value) => value !== BUFFER && value !== 0)).toEqual([])
    }
  })

  test('a buffer that is not for reading is not readable, and its slots hold nothing', () => {
    for (const [from, length] of shapes(granule)) {
      const { r, m } = guarded(2, from, length)
      expect(readable(r).size).toBe(0)
      for (const { guest, length: bytes } of r.domain.mapped)
        if (guest >= BASE + LENDABLE)
          expect(r.bytes.subarray(guest - BASE, guest - BASE + bytes).every((value) => value === 0)).toBe(true)
      r.backend.unmap(m, 0, 0)
    }
  })

  test('writes of the device to all that it reaches stay in the buffer', () => {
    for (const [from, length] of shapes(granule)) {
      const { r, m } = guarded(3, from, length)
      for (const { guest, length: bytes } of r.domain.mapped) r.bytes.fill(0x77, guest - BASE, guest - BASE + bytes)
      expect(r.backend.unmap(m, 0, length)).toBe(DMA_OK)
      expect(r.backend.commitUnmaps()).toBe(DMA_OK)
      const where = `${from} + ${length}`
      expect(
        r.bytes.subarray(at + from, at + from + length).every((value) => value === 0x77),
        where,
      ).toBe(true)
      expect(
        r.bytes.subarray(0, at + from).every((value) => value === SECRET),
        where,
      ).toBe(true)
      expect(
        r.bytes.subarray(at + from + length, 16 * granule).every((value) => value === SECRET),
        where,
      ).toBe(true)
    }
  })

  test('head, middle and tail of what the device wrote arrive in their places', () => {
    for (const [from, length] of shapes(granule)) {
      const { r, m } = guarded(3, from, length)
      for (let i = 0; i < length; i += i < 20 || i > length - 20 ? 1 : 17)
        expect(poke(r, m.device[0] + i, 1 + (i % 251))).toBe(true)
      expect(r.backend.unmap(m, 0, length)).toBe(DMA_OK)
      for (let i = 0; i < length; i += i < 20 || i > length - 20 ? 1 : 17)
        expect(r.bytes[at + from + i], `${from} + ${length}, byte ${i}`).toBe(1 + (i % 251))
    }
  })

  test.each(['strict', 'lazy'] as const)('%s: slots are scrubbed before anyone else gets them', (mode) => {
    for (const direction of [1, 2, 3]) {
      const { r, m } = guarded(direction, 1, granule + 1, mode)
      const slots = r.domain.mapped.filter(({ guest }) => guest >= BASE + LENDABLE)
      expect(slots.length).toBeGreaterThan(0)
      if (direction !== 1) for (const { guest } of slots) r.bytes.fill(SECRET, guest - BASE, guest - BASE + granule)
      r.backend.unmap(m, 0, 0)
      r.clock.now = 1000
      r.backend.commitUnmaps()
      r.backend.poll()
      expect(r.domain.mapped).toEqual([])
      const area = r.bytes.subarray(LENDABLE, LENDABLE + (2 << 20))
      expect([area.indexOf(SECRET), area.indexOf(BUFFER)], `direction ${direction}`).toEqual([-1, -1])
    }
  })

  test('syncs move just the range that they are asked for, across head, middle and tail', () => {
    const [from, length] = [1, 2 * granule + 1]
    for (const [offset, count] of [
      [0, length],
      [0, 1],
      [granule - 2, 3],
      [granule - 1, granule],
      [length - 2, 2],
      [length - 1, 1],
      [1, length - 2],
      [length, 0],
    ]) {
      const { r, m } = guarded(3, from, length)
      const { r: other, m: n } = guarded(3, from, length)
      // The CPU writes all of it and shows a part.
      r.bytes.fill(0x33, at + from, at + from + length)
      expect(r.backend.syncForDevice(m, 0, offset, count)).toBe(DMA_OK)
      // The device writes all of it and the CPU looks at a part.
      for (const { guest, length: bytes } of other.domain.mapped)
        other.bytes.fill(0x44, guest - BASE, guest - BASE + bytes)
      expect(other.backend.syncForCpu(n, 0, offset, count)).toBe(DMA_OK)
      const edge = (i: number): boolean => i < granule - from || i >= length - ((from + length) % granule)
      for (const i of [0, 1, granule - 2, granule - 1, granule, length - 2, length - 1]) {
        const inside = i >= offset && i < offset + count
        const where = `byte ${i} of ${offset} + ${count}`
        expect(peek(r, m.device[0] + i), where).toBe(inside || !edge(i) ? 0x33 : BUFFER)
        if (edge(i)) expect(other.bytes[at + from + i], where).toBe(inside ? 0x44 : BUFFER)
      }
    }
  })

  test('syncs outside of the mapping are refused', () => {
    const { r, m } = guarded(3, 1, granule)
    for (const [offset, count] of [
      [-1, 1],
      [0, granule + 1],
      [granule, 1],
      [0, -1],
    ]) {
      expect(r.backend.syncForCpu(m, 0, offset, count)).toBe(DMA_UNMAPPABLE)
      expect(r.backend.syncForDevice(m, 0, offset, count)).toBe(DMA_UNMAPPABLE)
    }
  })

  test('syncs do not carry bytes against the direction', () => {
    const readOnly = guarded(1, 1, granule)
    const { r, m } = readOnly
    // Somebody writes to the slot all the same.
    const slot = r.domain.translate(m.device[0], DOMAIN_READ) - BASE
    r.bytes[slot] = 0x66
    r.backend.syncForCpu(m, 0, 0, granule)
    r.backend.unmap(m, 0, granule)
    expect(r.bytes[at + 1]).toBe(BUFFER)
    const writeOnly = guarded(2, 1, granule)
    writeOnly.r.backend.syncForDevice(writeOnly.m, 0, 0, granule)
    const shown = writeOnly.r.domain.translate(writeOnly.m.device[0], DOMAIN_WRITE) - BASE
    expect(writeOnly.r.bytes[shown]).toBe(0)
  })

  test('no more slots: DMA_EXHAUSTED, nothing is queued for it, and it can be had again after a completion', () => {
    const r = rig({ space: { granule }, subGranule: 'bounce' })
    const m = table(2000)
    let rows = 0
    while (lend(r, m, rows, granule - 1, 2, 3) === DMA_OK) rows++
    expect(rows).toBe(r.backend.limits.maxLiveMappings / 2)
    expect(r.backend.counters).toMatchObject({ exhausted: 1, maps: rows })
    const queued = r.domain.queued.length
    expect([lend(r, m, rows, granule - 1, 2, 3), r.domain.queued.length]).toEqual([DMA_EXHAUSTED, queued])
    expect(r.backend.commitMaps()).toBe(DMA_OK)
    r.backend.unmap(m, 0, 0)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect(lend(r, m, 0, granule - 1, 2, 3)).toBe(DMA_OK)
    r.backend.unmap(m, 1, 0)
    // A backend may wait here for the removal that is queued; the domain says whether it used a slot too early.
    lend(r, m, 1, granule - 1, 2, 3)
    expect(r.domain.violations).toEqual([])
    // Whole granules need no slot.
    expect(lend(r, m, 1999, 0, granule, 3)).toBe(DMA_OK)
    expect(r.backend.commitMaps()).toBe(DMA_OK)
  })

  test('receive buffers leave requests their slots', () => {
    const r = rig({ space: { granule }, subGranule: 'bounce' })
    const standing = table(2000, true)
    let posted = 0
    while (lend(r, standing, posted, granule - 1, 2, 2) === DMA_OK) posted++
    expect(posted).toBe(r.backend.limits.maxLiveMappings / 4)
    const m = table(2000)
    for (let round = 0; round < 3; round++) {
      for (let row = 0; row < r.backend.limits.assuredMappings; row++)
        expect(lend(r, m, row, granule - 1, 2, 3), `request ${row}`).toBe(DMA_OK)
      expect(r.backend.commitMaps()).toBe(DMA_OK)
      for (let row = 0; row < r.backend.limits.assuredMappings; row++) r.backend.unmap(m, row, 0)
      expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    }
    // And what a receive buffer gives back, another one gets.
    r.backend.unmap(standing, 0, 0)
    r.backend.commitUnmaps()
    expect(lend(r, standing, 0, granule - 1, 2, 2)).toBe(DMA_OK)
    expect(lend(r, standing, posted, granule - 1, 2, 2)).toBe(DMA_EXHAUSTED)
  })
})

describe('one byte, where the least mapping is two', () => {
  test('the device gets a copy and a zero, and not the neighbour', { tags: ['5.13.6.5.1/range'] }, () => {
    const r = rig({ space: { granule: 1 } })
    r.bytes.fill(SECRET, 0, 64)
    r.bytes[10] = BUFFER
    const m = table(1)
    expect(lend(r, m, 0, 10, 1, 3)).toBe(DMA_OK)
    r.backend.commitMaps()
    expect([0, 1, 2, -1].map((i) => peek(r, m.device[0] + i))).toEqual([BUFFER, 0, -1, -1])
    poke(r, m.device[0], 0x77)
    poke(r, m.device[0] + 1, 0x78)
    r.backend.unmap(m, 0, 1)
    expect(r.backend.commitUnmaps()).toBe(DMA_OK)
    expect([...r.bytes.subarray(9, 13)]).toEqual([SECRET, 0x77, SECRET, SECRET])
    expect(r.domain.violations).toEqual([])
  })
})
