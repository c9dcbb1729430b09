import { DMA_OK, DMA_TOO_LONG, DMA_UNMAPPABLE, DmaMappings } from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import { BouncePool, type ClearPolicy, SLOT_BYTES } from '../src/index.ts'
import { BASE, code, map, newPool, POOL_DEVICE, RAM, rig, table } from './support/pool-rig.ts'

// The contract is checked by the conformance suite; here is what only this backend has.
describe('slots', () => {
  test('keep the address modulo 8, so that copies move whole words', () => {
    const { backend, ram, slots } = rig(16)
    ram.set([1, 2, 3, 4, 5, 6, 7, 8, 9], 4096)
    for (let offset = 0; offset < 8; offset++) {
      const m = table(1)
      expect(map(backend, m, 0, 4096 + offset, 100, 1)).toBe(DMA_OK)
      expect([m.device[0] % 8, (m.device[0] - POOL_DEVICE) % SLOT_BYTES]).toEqual([offset, offset])
      expect(slots[m.device[0] - POOL_DEVICE]).toBe(1 + offset)
      backend.unmap(m, 0, 0)
    }
  })

  test('are as many as bytes and offset need', () => {
    const { backend, pool } = rig(64, { reserve: 8 })
    for (const [length, offset, count] of [
      [2048, 0, 1],
      [2048, 1, 2],
      [2041, 7, 1],
      [2042, 7, 2],
      [8 * 2048 - 7, 7, 8],
      [8 * 2048, 0, 8],
    ]) {
      const m = table(1)
      expect(map(backend, m, 0, 4096 + offset, length)).toBe(DMA_OK)
      expect([length, offset, pool.inUse]).toEqual([length, offset, count])
      backend.unmap(m, 0, length)
    }
    const m = table(1)
    expect(map(backend, m, 0, 1, 8 * 2048)).toBe(DMA_TOO_LONG)
    expect(map(backend, m, 0, RAM - 10, 11)).toBe(DMA_UNMAPPABLE)
    expect(backend.counters).toMatchObject({ tooLong: 1, unmappable: 1, slotsInUse: 0 })
  })

  test('addresses beyond 2^31 and 2^32 are bounced like others', () => {
    const { backend } = rig(16)
    const m = table(1)
    expect(map(backend, m, 0, RAM - 3, 3, 1)).toBe(DMA_OK)
    expect(m.guest[0]).toBe(BASE + RAM - 3)
    expect(m.device[0] % 8).toBe((BASE + RAM - 3) % 8)
  })
})

describe('counters of backend and pool', () => {
  test('say how full the pool was and how often it was too full', () => {
    const { backend } = rig(16, { reserve: 2 })
    const m = table(20)
    let rows = 0
    while (map(backend, m, rows, 0, 10) === DMA_OK) rows++
    expect(rows).toBe(16)
    expect(backend.counters).toMatchObject({
      slots: 16,
      slotsInUse: 16,
      slotsHighWater: 16,
      stalls: 1,
      exhausted: 1,
      maps: 16,
    })
    for (let row = 0; row < 16; row++) backend.unmap(m, row, 0)
    expect(backend.counters).toMatchObject({ slotsInUse: 0, slotsHighWater: 16, unmaps: 16 })
  })

  test('cleared bytes stand beside copied ones', () => {
    const { backend } = rig(16, { clear: 'on-lend' })
    const m = table(1)
    map(backend, m, 0, 3, 1526)
    backend.unmap(m, 0, 64)
    expect(backend.counters).toMatchObject({ bytesCleared: 1526, bytesCopiedFromDevice: 64, bytesCopiedToDevice: 0 })
  })
})

describe('clear policies (ring/used: nothing unwritten leaks)', () => {
  const cases: ReadonlyArray<readonly [ClearPolicy, residue: string, left: number, delivered: number]> = [
    ['foreign', 'own-writes', 0x5e, 0],
    ['on-lend', 'none', 0x5e, 0],
    ['on-return', 'none', 0, 0],
    ['never', 'own', 0x5e, 0x5e],
  ]
  test.each(cases)('%s: residue %s', (clear, residue, left, delivered) => {
    const { backend, ram, slots } = rig(8, { clear })
    expect(backend.traits.residue).toBe(residue)
    ram.fill(0x5e, 0, 1000)
    const m = table(1)
    map(backend, m, 0, 0, 1000, 1)
    const at = m.device[0] - POOL_DEVICE
    backend.unmap(m, 0, 0)
    expect(slots[at]).toBe(left)
    ram.fill(0x11, 0, 1000)
    map(backend, m, 0, 0, 1000, 2)
    expect(m.device[0] - POOL_DEVICE).toBe(at)
    // The device wrote nothing and says that it wrote everything.
    backend.unmap(m, 0, 1000)
    expect([ram[0], ram[999], ram[1000]]).toEqual([delivered, delivered, 0])
  })

  test.each([
    ['on-return by default', {}, 'none', 0],
    ['foreign', { clear: 'foreign' }, 'other-devices', 0x5e],
    ['on-lend', { clear: 'on-lend' }, 'other-devices', 0x5e],
    ['never', { clear: 'never' }, 'other-devices', 0x5e],
  ] as const)('in a pool that others reach, %s: residue %s', (_policy, options, residue, left) => {
    const { backend, ram, slots } = rig(8, { ...options, exclusive: false })
    expect(backend.traits.residue).toBe(residue)
    ram.fill(0x5e, 0, 1000)
    const m = table(1)
    map(backend, m, 0, 0, 1000, 1)
    const at = m.device[0] - POOL_DEVICE
    expect(slots[at]).toBe(0x5e)
    backend.unmap(m, 0, 0)
    expect([slots[at], slots[at + 999]]).toEqual([left, left])
  })

  describe('foreign', () => {
    const standing = (): DmaMappings => new DmaMappings(1, true)

    test('a receive buffer clears its slots once, whole, and then no more', () => {
      const { backend, ram, slots } = rig(8)
      ram.fill(0x5e, 0, 2048)
      // All slots hold what the guest sent.
      const sent = table(8)
      for (let row = 0; row < 7; row++) map(backend, sent, row, 0, 2048, 1)
      for (let row = 0; row < 7; row++) backend.unmap(sent, row, 0)
      const m = standing()
      for (let round = 0; round < 5; round++) {
        map(backend, m, 0, 3, 1526)
        const slot = (m.device[0] - POOL_DEVICE) & ~2047
        expect(slots.subarray(slot, slot + 2048)).toEqual(new Uint8Array(2048))
        expect(backend.counters.bytesCleared).toBe(2048)
        backend.unmap(m, 0, 64)
      }
      // What this device wrote stays: nobody else finds it, and a longer buffer there delivers nothing of the guest's.
      map(backend, m, 0, 0, 1000)
      const at = m.device[0] - POOL_DEVICE
      slots.fill(0x77, at, at + 1000)
      backend.unmap(m, 0, 0)
      map(backend, m, 0, 0, 2040)
      backend.unmap(m, 0, 2040)
      expect([ram[0], ram[999], ram[1000], ram[2039]]).toEqual([0x77, 0x77, 0, 0])
      expect(backend.counters.bytesCleared).toBe(2048)
    })

    test('a request clears what it is lent where a slot held what was sent, each time', () => {
      const { backend, ram } = rig(8)
      ram.fill(0x5e, 0, 1000)
      const m = table(1)
      for (let round = 1; round <= 3; round++) {
        map(backend, m, 0, 0, 1000, 1)
        backend.unmap(m, 0, 0)
        ram.fill(0x11, 0, 1000)
        map(backend, m, 0, 0, 1000, 2)
        backend.unmap(m, 0, 1000)
        expect([ram[0], ram[999], backend.counters.bytesCleared]).toEqual([0, 0, 1000 * round])
        ram.fill(0x5e, 0, 1000)
      }
    })

    test('what an earlier user of the pool had written is cleared', () => {
      const { pool } = newPool(8)
      const m = standing()
      for (let user = 0; user < 3; user++) {
        const { backend, ram, slots } = rig(8, { pool })
        map(backend, m, 0, 0, 1000)
        const at = m.device[0] - POOL_DEVICE
        expect(slots.subarray(at, at + 1000)).toEqual(new Uint8Array(1000))
        slots.fill(0x77, at, at + 1000)
        backend.unmap(m, 0, 10)
        expect(ram[9]).toBe(0x77)
        backend.dispose()
      }
    })

    test('65,535 users later it is cleared as well', () => {
      const { pool } = newPool(8)
      const first = rig(8, { pool })
      const m = standing()
      map(first.backend, m, 0, 0, 1000)
      const at = m.device[0] - POOL_DEVICE
      first.slots.fill(0x77, at, at + 1000)
      first.backend.unmap(m, 0, 0)
      first.backend.dispose()
      for (let user = 1; user < 0xffff - 1; user++) pool.detach(pool.attach())
      const last = rig(8, { pool })
      map(last.backend, m, 0, 0, 1000)
      expect([m.device[0] - POOL_DEVICE, last.slots[at], last.slots[at + 999]]).toEqual([at, 0, 0])
    })
  })

  test('what keeps a device inside the pool is what the composition says, and a port of ours by default', () => {
    expect(rig(8).backend.traits.enforcedBy).toBe('trusted-code')
    for (const enforcedBy of ['construction', 'peer'] as const)
      expect(rig(8, { enforcedBy }).backend.traits.enforcedBy).toBe(enforcedBy)
  })

  test.each(['foreign', 'on-lend', 'on-return'] as const)(
    '%s: what is lent when the backend is disposed does not reach the next user of its slots',
    (clear) => {
      const { pool } = newPool(8)
      const first = rig(8, { pool, clear })
      first.ram.fill(0x5e, 0, 1000)
      map(first.backend, table(1), 0, 0, 1000, 1)
      first.backend.dispose()
      expect(pool.inUse).toBe(0)
      const second = rig(8, { pool, clear })
      const m = table(8)
      let rows = 0
      while (map(second.backend, m, rows, 2048 * rows, 1000, 2) === DMA_OK) rows++
      for (let row = 0; row < rows; row++) second.backend.unmap(m, row, 1000)
      expect([rows, second.ram.includes(0x5e)]).toEqual([8, false])
    },
  )
})

describe('several backends over one pool', () => {
  test('share its slots, and each gives back its own', () => {
    const { pool } = newPool(32, 4)
    const [a, b] = [rig(32, { pool }), rig(32, { pool })]
    expect(pool.sharedBy).toBe(2)
    const [ma, mb] = [table(40), table(40)]
    for (let row = 0; row < 10; row++) {
      expect(map(a.backend, ma, row, 0, 64)).toBe(DMA_OK)
      expect(map(b.backend, mb, row, 0, 64)).toBe(DMA_OK)
    }
    const taken = new Set([...ma.token.subarray(0, 10), ...mb.token.subarray(0, 10)])
    expect([taken.size, pool.inUse]).toEqual([20, 20])
    a.backend.dispose()
    expect([pool.inUse, pool.sharedBy]).toEqual([10, 1])
    expect(a.backend.counters.slotsInUse).toBe(10)
  })

  test('each may hold its share of receive buffers', () => {
    const { pool } = newPool(32, 4)
    const backends = [rig(32, { pool }).backend, rig(32, { pool }).backend]
    for (const backend of backends) {
      const m = table(32, true)
      let rows = 0
      while (map(backend, m, rows, 0, 64) === DMA_OK) rows++
      expect(rows).toBe(8)
      expect(backend.counters.exhausted).toBe(1)
    }
  })

  test('posted receive buffers of a backend that was disposed count against nobody', () => {
    const { pool } = newPool(32, 4)
    for (let i = 0; i < 4; i++) {
      const { backend } = rig(32, { pool })
      const m = table(32, true)
      let rows = 0
      while (map(backend, m, rows, 0, 64) === DMA_OK) rows++
      expect(rows).toBe(16)
      backend.dispose()
    }
    expect([pool.inUse, pool.sharedBy]).toEqual([0, 0])
  })

  test('one cannot free what another allocated', () => {
    const { pool } = newPool(32, 4)
    const [a, b] = [rig(32, { pool }).backend, rig(32, { pool }).backend]
    const region = a.alloc(100, 16, 1, 'ring')
    expect(code(() => b.free(region))).toBe('DMA_FREE')
    a.dispose()
    expect(code(() => a.free(region))).toBe('DMA_FREE')
  })
})

describe('a pool inside guest RAM', () => {
  test('copies within one buffer, up to the edges of both', () => {
    const { memory } = rig(1)
    const { region } = memory.ranges[0]
    const window = { region, offset: RAM - 8 * SLOT_BYTES, length: 8 * SLOT_BYTES }
    const pool = new BouncePool({
      name: 'in RAM',
      pool: { window, device: (BASE + window.offset) as never, home: 'guest-ram' },
    })
    const { backend } = rig(8, { pool, memory })
    region.u8.set([1, 2, 3, 4], 100)
    const m = table(1)
    expect(map(backend, m, 0, 100, 4, 3)).toBe(DMA_OK)
    const at = m.device[0] - BASE
    expect([...region.u8.subarray(at, at + 4)]).toEqual([1, 2, 3, 4])
    region.u8.set([9, 8, 7, 6], at)
    backend.unmap(m, 0, 2)
    expect([...region.u8.subarray(99, 105)]).toEqual([0, 9, 8, 3, 4, 0])
    expect(backend.traits.home).toBe('guest-ram')
    expect(map(backend, table(9), 0, 0, 3 * SLOT_BYTES)).toBe(DMA_TOO_LONG)
  })
})
