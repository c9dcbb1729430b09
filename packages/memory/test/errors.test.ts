import { GuestDmaError, MemoryError } from '@guestdma/memory'
import { describe, expect, test } from 'vitest'

describe('an error as a record', () => {
  test('has no cause where there is none', () => {
    const record = new MemoryError('MEMORY_EMPTY', 'ram', 'no ranges').toRecord()
    expect(record).toStrictEqual({ code: 'MEMORY_EMPTY', part: 'ram', message: 'ram: no ranges', details: {} })
  })

  test('keeps its causes, and survives structuredClone and JSON', () => {
    const low = new TypeError('socket closed')
    const middle = new MemoryError('MEMORY_EXHAUSTED', 'ram', 'full', { length: 4096 }, { cause: low })
    const record = new GuestDmaError('MY_CODE', 'dev', 'failed', {}, { cause: middle }).toRecord()
    expect(record.cause).toStrictEqual({
      name: 'MemoryError',
      message: 'ram: full',
      code: 'MEMORY_EXHAUSTED',
      part: 'ram',
      details: { length: 4096 },
      cause: { name: 'TypeError', message: 'socket closed' },
    })
    expect(structuredClone(record)).toStrictEqual(record)
    expect(JSON.parse(JSON.stringify(record))).toStrictEqual(record)
  })

  test('says what was thrown that is no error', () => {
    expect(new GuestDmaError('MY_CODE', 'dev', 'failed', {}, { cause: 7n }).toRecord().cause).toStrictEqual({
      name: 'bigint',
      message: '7',
    })
  })

  test('ends although its causes are a circle', () => {
    const error = new GuestDmaError('MY_CODE', 'dev', 'failed')
    error.cause = error
    let depth = 0
    for (let at = error.toRecord().cause; at !== undefined; at = at.cause) depth++
    expect(depth).toBe(8)
  })
})
