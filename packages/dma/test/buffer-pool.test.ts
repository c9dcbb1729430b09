import { describe, expect, test } from 'vitest'
import {
  BUFFER_ACQUIRED,
  BUFFER_FREE,
  BUFFER_LENT,
  BufferPool,
  type DmaBackend,
  DmaMappings,
  describeStatus,
  TO_DEVICE,
} from '../src/index.ts'
import { direct } from './support/offers.ts'

const make = (backend: DmaBackend, count = 4, bytes = 100): BufferPool =>
  new BufferPool(backend, { name: 'a pool', count, bytes, direction: TO_DEVICE })

describe('a buffer pool', () => {
  test('has buffers that share no cache line, on either side', () => {
    const backend = direct(0x10_0000)
    const pool = make(backend)
    for (let i = 0; i < 4; i++) {
      expect([pool.device[i] % 64, pool.device[i] - pool.device[0], pool.offset[i] - pool.offset[0]]).toEqual([
        0,
        128 * i,
        128 * i,
      ])
    }
    expect([pool.count, pool.bytes, backend.counters.allocatedBytes]).toEqual([4, 100, 512])
  })

  test('hands each buffer to one owner, the one used last first', () => {
    const pool = make(direct())
    const held = [pool.acquire(), pool.acquire(), pool.acquire(), pool.acquire()]
    expect([...held].sort()).toEqual([0, 1, 2, 3])
    expect([pool.acquire(), pool.available]).toEqual([-1, 0])
    pool.release(held[2])
    pool.release(held[0])
    expect([pool.available, pool.acquire(), pool.acquire()]).toEqual([2, held[0], held[2]])
  })

  test('knows who holds a buffer, and takes back lent ones', () => {
    const pool = make(direct())
    const buffer = pool.acquire()
    expect(pool.held[buffer]).toBe(BUFFER_ACQUIRED)
    pool.held[buffer] = BUFFER_LENT
    pool.release(buffer)
    expect(pool.held[buffer]).toBe(BUFFER_FREE)
  })

  test.each([0, 3, 4, -1, 0.5, 1000, Number.NaN])('refuses buffer %d, which nobody holds', (buffer) => {
    const pool = make(direct())
    pool.release(pool.acquire())
    expect(() => pool.release(buffer)).toThrow(expect.objectContaining({ code: 'DMA_BUFFER_RELEASE' }))
    expect(pool.available).toBe(4)
  })

  test.each([
    [0, 64],
    [1, 0],
    [-1, 64],
    [1.5, 64],
    [1, 0.5],
  ])('of %d buffers of %d bytes is refused', (count, bytes) => {
    expect(() => make(direct(), count, bytes)).toThrow(expect.objectContaining({ code: 'DMA_BUFFER_SIZE' }))
  })

  test('cannot be had where payload is transformed, or where there is no room', () => {
    const sealing = Object.create(direct(), {
      traits: { value: { ...direct().traits, payload: 'transformed' } },
    }) as DmaBackend
    expect(() => make(sealing)).toThrow(expect.objectContaining({ code: 'DMA_POOL_TRANSFORMED' }))
    const backend = direct()
    expect(() => make(backend, 1000, 1000)).toThrow(expect.objectContaining({ code: 'DMA_ALLOC' }))
    expect(backend.counters.allocatedBytes).toBe(0)
  })

  test('gives its memory back', () => {
    const backend = direct()
    const pool = make(backend)
    pool.dispose()
    expect(backend.counters.allocatedBytes).toBe(0)
    expect(() => pool.dispose()).toThrow(expect.objectContaining({ code: 'DMA_FREE' }))
  })
})

describe('small things', () => {
  test('statuses have words', () => {
    expect([0, -1, -2, -3, -4, -5, -16].map(describeStatus)).toEqual([
      'ok',
      'exhausted',
      'too long',
      'unmappable',
      'corrupt',
      'failed',
      'status -16',
    ])
  })

  test('a new table of mappings holds no token and lends for requests', () => {
    const m = new DmaMappings(3)
    expect([m.rows, [...m.token], m.standing, new DmaMappings(1, true).standing]).toEqual([
      3,
      [-1, -1, -1],
      false,
      true,
    ])
  })
})
