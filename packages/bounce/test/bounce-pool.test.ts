import { TO_DEVICE } from '@guestdma/dma'
import { type DeviceAddress, Region } from '@guestdma/memory'
import { describe, expect, test } from 'vitest'
import { BouncePool, MAX_RUN, SLOT_BYTES } from '../src/index.ts'
import { code, newPool, POOL_DEVICE, POOL_OFFSET } from './support/pool-rig.ts'

// Takes until none is left; returns how many runs of `count` slots there were.
function drain(pool: BouncePool, user: ReturnType<BouncePool['attach']>, count: number, standing: boolean): number {
  let runs = 0
  while (pool.take(user, count, standing) >= 0) runs++
  return runs
}

describe('a pool', () => {
  test('keeps an eighth for requests, from 1 to 128 slots', () => {
    for (const [slots, reserve] of [
      [1, 1],
      [8, 1],
      [16, 2],
      [100, 12],
      [1024, 128],
      [4096, MAX_RUN],
    ]) {
      const { pool } = newPool(slots)
      expect([pool.slots, pool.maxRun, pool.maxMappingLength]).toEqual([slots, reserve, reserve * SLOT_BYTES - 7])
    }
  })

  test('ignores bytes beyond its last whole slot', () => {
    const region = new Region(new ArrayBuffer(8192), 'pool')
    const pool = new BouncePool({
      name: 'p',
      pool: {
        window: { region, offset: 0, length: 3 * SLOT_BYTES + 100 },
        device: 0 as DeviceAddress,
        home: 'guest-ram',
      },
    })
    expect(pool.slots).toBe(3)
  })

  test('clears its memory, and only that, when it is made', () => {
    const { pool, fact } = newPool(4)
    const { u8 } = fact.window.region
    expect(u8.subarray(POOL_OFFSET, POOL_OFFSET + 4 * SLOT_BYTES).every((byte) => byte === 0)).toBe(true)
    expect([u8[POOL_OFFSET - 1], u8[POOL_OFFSET + pool.slots * SLOT_BYTES]]).toEqual([0xa5, 0xa5])
  })

  test.each([0, -1, 1.5, 129, 200])('refuses a reserve of %d', (reserve) => {
    expect(code(() => newPool(256, reserve))).toBe('BOUNCE_RESERVE')
  })

  test('refuses a reserve larger than itself, memory that holds no slot, and slots that are not aligned', () => {
    expect(code(() => newPool(4, 5))).toBe('BOUNCE_RESERVE')
    const region = new Region(new ArrayBuffer(16_384), 'pool')
    const make = (offset: number, length: number, device: number): string =>
      code(
        () =>
          new BouncePool({
            name: 'p',
            pool: { window: { region, offset, length }, device: device as DeviceAddress, home: 'guest-ram' },
          }),
      )
    expect(make(0, SLOT_BYTES - 1, 0)).toBe('BOUNCE_POOL_SIZE')
    expect(make(0, 0, 0)).toBe('BOUNCE_POOL_SIZE')
    for (const misfit of [1, 8, 1024, 2047]) {
      expect(make(misfit, 8192, 0)).toBe('BOUNCE_POOL_ALIGN')
      expect(make(0, 8192, misfit)).toBe('BOUNCE_POOL_ALIGN')
    }
  })
})

describe('zones: every queue can go on', () => {
  for (const slots of [1, 2, 3, 4, 5, 6, 7, 8, 64]) {
    for (let reserve = 1; reserve <= Math.min(8, slots); reserve++) {
      test(`${slots} slots with a reserve of ${reserve}: a request of ${reserve} slots finds room beside receive buffers and rings`, () => {
        for (const receive of [1, reserve]) {
          const { pool } = newPool(slots, reserve)
          const user = pool.attach()
          const ring = code(() => pool.alloc(SLOT_BYTES, 16, TO_DEVICE)) === 'nothing was thrown' ? 1 : 0
          expect(ring).toBe(slots > reserve ? 1 : 0)
          const held = drain(pool, user, receive, true) * receive
          expect(held + ring).toBeLessThanOrEqual(slots - reserve)
          const slot = pool.take(user, reserve, false)
          expect(slot).toBeGreaterThanOrEqual(0)
          pool.give(user, slot, reserve, false)
          // Whatever the first request left behind, the next one finds it whole.
          expect(pool.take(user, reserve, false)).toBeGreaterThanOrEqual(0)
        }
      })
    }
  }

  test('rings and buffer pools never take the reserve', () => {
    const { pool } = newPool(16, 4)
    const regions = Array.from({ length: 12 }, () => pool.alloc(SLOT_BYTES, 16, TO_DEVICE))
    expect(code(() => pool.alloc(1, 1, TO_DEVICE))).toBe('DMA_ALLOC')
    expect(pool.take(pool.attach(), 4, false)).toBe(12)
    pool.free(regions[5])
    expect(pool.alloc(1, 1, TO_DEVICE).device).toBe(POOL_DEVICE + 5 * SLOT_BYTES)
  })

  test('receive buffers hold at most half of the pool, requests all of it', () => {
    const { pool } = newPool(64, 8)
    const user = pool.attach()
    expect(drain(pool, user, 1, true)).toBe(32)
    expect(drain(pool, user, 1, false)).toBe(32)
    expect(drain(pool, user, 1, false)).toBe(0)
    expect([pool.inUse, pool.highWater, pool.stalls]).toEqual([64, 64, 3])
  })

  test('users share the receive half evenly, and what a user leaves goes to the others', () => {
    const { pool } = newPool(64, 4)
    const users = [pool.attach(), pool.attach(), pool.attach(), pool.attach()]
    expect(users.map((user) => drain(pool, user, 1, true))).toEqual([8, 8, 8, 8])
    expect(pool.sharedBy).toBe(4)
    pool.detach(users[3])
    pool.detach(users[2])
    expect(drain(pool, users[0], 1, true)).toBe(8)
  })

  test('a share holds one maximal mapping, however many share, as long as there is room', () => {
    const { pool } = newPool(64, 8)
    const users = Array.from({ length: 16 }, () => pool.attach())
    for (const user of users.slice(0, 3)) expect(pool.take(user, 8, true)).toBeGreaterThanOrEqual(0)
  })

  test.each([1, 2, 5, 24, 100])('%d users have even shares of half of the pool, whoever posts first', (users) => {
    const { pool } = newPool(2048)
    const all = Array.from({ length: users }, () => pool.attach())
    const held = all.map((user) => drain(pool, user, 1, true))
    expect(new Set(held)).toEqual(new Set([Math.floor(1024 / users)]))
  })

  test.each([
    [24, 1],
    [24, 33],
    [60, 12],
    [500, 1],
    [900, 2],
  ])('every one of %d users can post a buffer of %d slots, also beyond its share', (users, count) => {
    const { pool } = newPool(2048)
    for (let i = 0; i < users; i++) {
      const user = pool.attach()
      expect(pool.take(user, count, true)).toBeGreaterThanOrEqual(0)
    }
  })

  test('who came late has its share at once, and those who hold more post nothing until they are below theirs', () => {
    const { pool } = newPool(256, 8)
    const early = pool.attach()
    const slots: number[] = []
    for (let slot = pool.take(early, 1, true); slot >= 0; slot = pool.take(early, 1, true)) slots.push(slot)
    expect(slots.length).toBe(128)
    const late = pool.attach()
    expect(drain(pool, late, 1, true)).toBe(64)
    // A buffer of the early one came back: it is not posted again, up to the share.
    for (let held = 127; held >= 64; held--) {
      expect(pool.take(early, 1, true)).toBe(-1)
      pool.give(early, slots.pop() as number, 1, true)
    }
    expect(pool.take(early, 1, true)).toBe(-1)
    pool.give(early, slots.pop() as number, 1, true)
    expect(pool.take(early, 1, true)).toBeGreaterThanOrEqual(0)
    expect([early.standing, late.standing, pool.standingShare]).toEqual([64, 64, 64])
    // Whoever goes leaves its share to the others.
    pool.detach(late)
    expect(pool.standingShare).toBe(128)
  })

  test('receive buffers of any number of users leave a quarter of the pool, whatever the order in which they came', () => {
    const { pool } = newPool(256, 8)
    let held = 0
    for (let i = 0; i < 12; i++) held += drain(pool, pool.attach(), 1, true)
    // One buffer each may be beyond it.
    expect(held).toBeLessThanOrEqual(192 + 12)
    const sender = pool.attach()
    expect(code(() => pool.alloc(16 * SLOT_BYTES, 16, TO_DEVICE))).toBe('nothing was thrown')
    expect(pool.take(sender, 8, false)).toBeGreaterThanOrEqual(0)
  })

  test('what rings take is not there for receive buffers', () => {
    const { pool } = newPool(64, 8)
    const region = pool.alloc(40 * SLOT_BYTES, 16, TO_DEVICE)
    const user = pool.attach()
    expect(drain(pool, user, 1, true)).toBe(12)
    pool.free(region)
    expect(drain(pool, user, 1, true)).toBe(20)
  })
})

describe('users of a pool', () => {
  test('no two of them have one number at the same time, also after 65,534 have come and gone', () => {
    const { pool } = newPool(8)
    const first = pool.attach()
    const others = new Set<number>()
    for (let i = 0; i < 0xffff; i++) {
      const other = pool.attach()
      others.add(other.id)
      pool.detach(other)
    }
    expect([others.has(first.id), others.size]).toEqual([false, 0xffff - 2])
  })

  test('who goes gives back what it still has, and nobody else does', () => {
    const { pool } = newPool(8)
    const [first, second] = [pool.attach(), pool.attach()]
    expect([pool.take(first, 2, false), pool.take(second, 1, false), pool.take(first, 1, true)]).not.toContain(-1)
    expect([pool.detach(first), pool.inUse, pool.detach(first)]).toEqual([2, 1, 0])
    expect([pool.detach(second), pool.inUse]).toEqual([1, 0])
  })
})

describe('counters', () => {
  test('high water stays, use goes down, and each refusal is a stall', () => {
    const { pool } = newPool(8, 1)
    const user = pool.attach()
    const slots = [pool.take(user, 1, false), pool.take(user, 3, false)]
    expect([pool.inUse, pool.highWater, pool.stalls]).toEqual([4, 4, 0])
    pool.give(user, slots[1], 3, false)
    pool.give(user, slots[0], 1, false)
    expect([pool.inUse, pool.highWater, pool.stalls]).toEqual([0, 4, 0])
    expect(pool.take(user, 9, false)).toBe(-1)
    expect(pool.take(user, 2, true)).toBeGreaterThanOrEqual(0)
    expect(pool.take(user, 3, true)).toBe(-1)
    expect([pool.inUse, pool.stalls]).toEqual([2, 2])
  })
})

describe('allocations', () => {
  test.each([1, 16, 2048, 4096, 8192, 65_536])('are aligned to %d on the bus, zeroed, and whole slots', (align) => {
    const { pool, fact } = newPool(64, 4)
    const first = pool.alloc(100, 1, TO_DEVICE)
    const { device, offset, region, length } = pool.alloc(3000, align, TO_DEVICE)
    expect([device % align, device - POOL_DEVICE, length]).toEqual([0, offset - POOL_OFFSET, 3000])
    expect(device).not.toBe(first.device)
    expect(region).toBe(fact.window.region)
  })

  test('are cleared when they are freed, so that the next user finds nothing', () => {
    const { pool, fact } = newPool(8, 1)
    const region = pool.alloc(3 * SLOT_BYTES, 16, TO_DEVICE)
    const { u8 } = fact.window.region
    u8.fill(0x5e, region.offset, region.offset + 3 * SLOT_BYTES)
    pool.free(region)
    expect(u8.subarray(POOL_OFFSET, POOL_OFFSET + 8 * SLOT_BYTES).includes(0x5e)).toBe(false)
  })
})
