import fc from 'fast-check'
import { expect, test } from 'vitest'
import { copy, Region } from '../src/index.ts'

test('copy() moves exactly the bytes it is asked to, at any alignment and length', () => {
  const place = fc.integer({ min: 0, max: 40 })
  const length = fc.oneof(fc.integer({ min: 0, max: 300 }), fc.constantFrom(7, 8, 9, 256, 257, 4096, 4097))
  fc.assert(
    fc.property(place, place, length, fc.boolean(), (toOffset, fromOffset, bytes, oneBuffer) => {
      const from = new Region(new ArrayBuffer(16384), 'from')
      const to = oneBuffer ? from : new Region(new ArrayBuffer(16384), 'to')
      for (let i = 0; i < 16384; i++) from.u8[i] = (i * 7 + (i >>> 8)) & 0xff
      const at = toOffset + 8192
      const expected = to.u8.slice()
      expected.set(from.u8.slice(fromOffset, fromOffset + bytes), at)
      copy(to, at, from, fromOffset, bytes)
      expect(to.u8).toEqual(expected)
    }),
    { numRuns: 300 },
  )
})
