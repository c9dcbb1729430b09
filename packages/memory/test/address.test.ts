import { describe, expect, test } from 'vitest'
import {
  ADDRESS_HIGH_LIMIT,
  ADDRESS_LIMIT,
  checkSpan,
  deviceAddress,
  GuestDmaError,
  guestAddress,
  hex,
  MemoryError,
} from '../src/index.ts'

describe('addresses are integers from 0 to 2^53 - 1', () => {
  test.each([0, 1, 0x8000_0000, 2 ** 32, ADDRESS_LIMIT - 1])('%d is one', (value) => {
    expect(guestAddress(value)).toBe(value)
    expect(deviceAddress(value)).toBe(value)
  })

  test.each([-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, ADDRESS_LIMIT, -0.1])('%d is none', (value) => {
    expect(() => guestAddress(value)).toThrow(expect.objectContaining({ code: 'MEMORY_ADDRESS', details: { value } }))
    expect(() => deviceAddress(value)).toThrow(expect.objectContaining({ code: 'MEMORY_ADDRESS' }))
  })

  test('the high half that ends them belongs to the limit', () => {
    expect(ADDRESS_HIGH_LIMIT * 2 ** 32).toBe(ADDRESS_LIMIT)
    expect(ADDRESS_LIMIT).toBe(Number.MAX_SAFE_INTEGER + 1)
  })
})

describe('spans end at or below 2^53', () => {
  test.each([
    [0, 1],
    [0, ADDRESS_LIMIT],
    [ADDRESS_LIMIT - 1, 1],
    [ADDRESS_LIMIT - 4096, 4096],
  ])('%d + %d is one', (base, length) => {
    expect(checkSpan(base, length, 'part')).toBeUndefined()
  })

  test.each([
    [0, 0],
    [0, -1],
    [0, 1.5],
    [1, ADDRESS_LIMIT],
    [ADDRESS_LIMIT - 1, 2],
    [ADDRESS_LIMIT - 4096, 4097],
    [16, Number.POSITIVE_INFINITY],
    [16, Number.NaN],
  ])('%d + %d is none', (base, length) => {
    expect(() => checkSpan(base, length, 'part')).toThrow(
      expect.objectContaining({ code: 'MEMORY_LENGTH', part: 'part' }),
    )
  })
})

describe('errors', () => {
  test('say what is wrong as plain data that crosses threads', () => {
    const error = new MemoryError('MEMORY_LENGTH', 'a part', 'a message', { length: 3 })
    expect(error).toBeInstanceOf(GuestDmaError)
    expect(error).toBeInstanceOf(Error)
    expect([error.name, error.message]).toEqual(['MemoryError', 'a part: a message'])
    const record = { code: 'MEMORY_LENGTH', part: 'a part', message: 'a part: a message', details: { length: 3 } }
    expect(structuredClone(error.toRecord())).toEqual(record)
    expect(JSON.parse(JSON.stringify(error.toRecord()))).toEqual(record)
  })

  test('numbers in messages are hexadecimal, with their sign', () => {
    expect([hex(0), hex(255), hex(-16), hex(2 ** 40)]).toEqual(['0x0', '0xff', '-0x10', '0x10000000000'])
  })
})
