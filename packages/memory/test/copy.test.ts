import { describe, expect, test } from 'vitest'
import { clear, copy, copyEach, Meter, Region } from '../src/index.ts'

const GUARD = 16

function filled(bytes: number, seed: number, shared = false): Region {
  const region = new Region(shared ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes), 'test')
  for (let i = 0; i < bytes; i++) region.u8[i] = 1 + ((i * 131 + seed * 17 + (i >>> 8)) % 255)
  return region
}

// Byte by byte, as the model.
function expected(to: Uint8Array, toOffset: number, from: Uint8Array, fromOffset: number, length: number): Uint8Array {
  const result = to.slice()
  for (let i = 0; i < length; i++) result[toOffset + i] = from[fromOffset + i]
  return result
}

function differ(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return i
  return -1
}

describe('copyEach() does what a copy of each piece does, and touches nothing else', () => {
  test.each([
    ['counted', true],
    ['not counted', false],
  ])('pieces of all alignments and lengths together, %s', (_, counted) => {
    // Each piece has room of its own. Long ones, odd ones and usual ones follow each other in all ways.
    const lengths = Int32Array.from([64, 64, 300, 5, 64, 1514, 64, 7, 8, 0, 64, 257, 256, 60])
    const shifts = [0, 8, 0, 0, 0, 4, 0, 1, 3, 0, 2, 5, 5, 4]
    const fromOffsets = lengths.map((_, i) => GUARD + 2048 * i + (i % 8))
    const toOffsets = fromOffsets.map((offset, i) => offset + shifts[i])
    for (const [first, end] of [
      [0, lengths.length],
      [2, 11],
      [5, 5],
      [13, 14],
    ]) {
      const from = filled(2048 * lengths.length, 1)
      const [together, oneByOne] = [2, 2].map((seed) => filled(2048 * lengths.length, seed))
      const meters = [new Meter(), new Meter()]
      if (counted) [together.meter, oneByOne.meter] = meters
      copyEach(together, toOffsets, from, fromOffsets, lengths, first, end)
      for (let i = first; i < end; i++) copy(oneByOne, toOffsets[i], from, fromOffsets[i], lengths[i])
      expect(differ(together.u8, oneByOne.u8)).toBe(-1)
      expect(meters[0].snapshot()).toEqual(meters[1].snapshot())
    }
  })
})

describe('copy() does what a copy byte by byte does, and touches nothing else', () => {
  test.each([
    ['between two buffers', false],
    ['in one buffer', true],
  ])('at all alignments, lengths 0 to 600, %s', (_, same) => {
    for (let length = 0; length <= 600; length++) {
      // All pairs for the lengths at which another way is taken, and a walk through them elsewhere.
      const all = length < 20 || Math.abs(length - 257) < 3 || length % 100 === 0
      for (let pair = 0; pair < 64; pair += all ? 1 : 9) {
        const a = pair & 7
        const b = (pair + length) & 7
        const from = filled(same ? 1280 : GUARD + 8 + length + GUARD, length)
        const to = same ? from : filled(GUARD + 8 + length + GUARD, length + 1)
        const toOffset = (same ? 640 : GUARD) + a
        const want = expected(to.u8, toOffset, from.u8, GUARD + b, length)
        copy(to, toOffset, from, GUARD + b, length)
        expect([length, a, b, differ(to.u8, want)]).toEqual([length, a, b, -1])
      }
    }
  })

  test.each([4095, 4096, 4097, 5000, 65_536, 65_539])('%d bytes, between two buffers, one of them shared', (length) => {
    for (const [a, b] of [
      [0, 0],
      [3, 3],
      [1, 6],
    ]) {
      const from = filled(length + 64, 3, true)
      const to = filled(length + 64, 4)
      const want = expected(to.u8, 16 + a, from.u8, 16 + b, length)
      copy(to, 16 + a, from, 16 + b, length)
      expect(differ(to.u8, want)).toBe(-1)
    }
  })

  test('up to the last byte of a buffer whose length is no multiple of 8', () => {
    for (let bytes = 8; bytes < 80; bytes++) {
      for (let offset = 0; offset < 8 && offset < bytes; offset++) {
        const from = filled(bytes, 5)
        const to = filled(bytes, 6)
        const want = expected(to.u8, offset, from.u8, offset, bytes - offset)
        copy(to, offset, from, offset, bytes - offset)
        expect([bytes, offset, differ(to.u8, want)]).toEqual([bytes, offset, -1])
      }
    }
  })

  test('neighbouring spans of one buffer that touch', () => {
    const region = filled(64, 7)
    const want = expected(region.u8, 32, region.u8, 0, 32)
    copy(region, 32, region, 0, 32)
    expect(differ(region.u8, want)).toBe(-1)
  })
})

describe('clear() zeroes its bytes and nothing else', () => {
  test('at all alignments, lengths 0 to 300', () => {
    for (let length = 0; length <= 300; length++) {
      for (let offset = 0; offset < 8; offset++) {
        const region = filled(GUARD + 8 + length + GUARD, length)
        const want = region.u8.slice().fill(0, GUARD + offset, GUARD + offset + length)
        clear(region, GUARD + offset, length)
        expect([length, offset, differ(region.u8, want)]).toEqual([length, offset, -1])
      }
    }
  })
})

describe('metering', () => {
  test('counts a copy on both sides: all bytes, in words of 8 and single bytes', () => {
    for (const length of [0, 1, 7, 8, 9, 64, 100, 256, 257, 1514, 5000]) {
      const [from, to] = [filled(6000, 1), filled(6000, 2)]
      from.meter = new Meter()
      to.meter = new Meter()
      copy(to, 3, from, 5, length)
      expect(from.meter.snapshot()).toMatchObject({ bytesLoaded: length, bytesStored: 0 })
      expect(to.meter.snapshot()).toMatchObject({ bytesLoaded: 0, bytesStored: length })
      expect(from.meter.snapshot().loads).toEqual({ 1: length % 8, 2: 0, 4: 0, 8: Math.floor(length / 8) })
    }
  })

  test('counts on the side that has a meter, and in one region both', () => {
    const region = filled(1000, 1)
    region.meter = new Meter()
    copy(region, 500, region, 0, 100)
    clear(region, 0, 77)
    expect(region.meter.snapshot()).toMatchObject({ bytesLoaded: 100, bytesStored: 177 })
  })

  test('sums widths, and starts again after a reset', () => {
    const meter = new Meter()
    for (const [i, width] of ([1, 2, 4, 8] as const).entries()) {
      meter.load(width, i + 1)
      meter.store(width, 10 * (i + 1))
    }
    expect(meter.snapshot()).toEqual({
      loads: { 1: 1, 2: 2, 4: 3, 8: 4 },
      stores: { 1: 10, 2: 20, 4: 30, 8: 40 },
      bytesLoaded: 1 + 4 + 12 + 32,
      bytesStored: 10 + 40 + 120 + 320,
    })
    meter.reset()
    expect(meter.snapshot()).toMatchObject({ bytesLoaded: 0, bytesStored: 0 })
  })
})
