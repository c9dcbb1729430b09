// What one poll does is bounded by work and not by requests: one guest's requests never make another's turn long.
import { VIRTIO_F_RING_RESET, VIRTIO_F_SUSPEND } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import type { MappingPool } from '../src/iommu/mapping-pool.ts'
import { access, F_MAP_UNMAP, halves, INVAL, IommuMachine, MAP, OK, pack, RANGE, UNMAP } from './support/iommu.ts'

const RAM = 0x8000_0000
const TOP = 2n ** 64n - 1n

/** A machine with endpoint 8 in domain 1 and so many pages mapped from page 1 on. */
function mapped(count: number, options: ConstructorParameters<typeof IommuMachine>[0] = {}): IommuMachine {
  const m = new IommuMachine(options, 64).start()
  m.endpoint(8)
  expect(m.attach(1, 8)).toBe(OK)
  for (let page = 1; page <= count; page++) expect(m.map(1, page * 4096, page * 4096 + 4095, RAM)).toBe(OK)
  return m
}

/** Makes a request available without executing it; where its status will be. */
function offer(m: IommuMachine, bytes: Uint8Array, writable = 4): number {
  const tail = m.ram.alloc(writable, 16)
  m.ram.bytes.fill(0xee, m.ram.at(tail), m.ram.at(tail) + writable)
  const elements = [
    { address: m.ram.put(bytes, 16), length: bytes.length },
    { address: tail, length: writable, w: true },
  ]
  m.requests.offer(m.requests.chain(...elements))
  return tail + writable - 4
}

const removal = (from: number | bigint, to: number | bigint): Uint8Array =>
  pack(UNMAP, [1, ...halves(from), ...halves(to), 0])
const poolOf = (m: IommuMachine): MappingPool =>
  (m.device as unknown as { requests: { pool: MappingPool } }).requests.pool

describe('an UNMAP of everything', () => {
  test.each([1, 4, 64])(
    'with a budget of %i: each poll removes in proportion, and it is answered once, at the end',
    (budget) => {
      const count = 5000
      const m = mapped(count)
      const status = offer(m, removal(0, TOP))
      m.driver.kick(0)
      let polls = 0
      for (let left = count; left > 0; polls++) {
        expect(m.requests.reap()).toEqual([])
        expect(m.ram.get(status, 1)[0]).toBe(0xee)
        expect(m.device.poll(budget)).toBeGreaterThan(0)
        expect(left - m.device.counters.mappings).toBeLessThanOrEqual(16 * budget)
        left = m.device.counters.mappings
      }
      m.device.poll(budget)
      expect(polls).toBeGreaterThanOrEqual(count / (16 * budget))
      expect([m.requests.reap().length, m.ram.get(status, 1)[0], m.device.counters.unmap]).toEqual([1, OK, 1])
      expect(m.device.poll(budget)).toBe(0)
    },
  )

  test('what is behind it in the queue waits for it, and nothing is done out of order', () => {
    const m = mapped(3000)
    const statuses = [
      offer(m, removal(0, TOP)),
      offer(m, pack(MAP, [1, ...halves(4096), ...halves(8191), ...halves(RAM + 4096), 3])),
      offer(m, pack(MAP, [1, ...halves(4096), ...halves(8191), ...halves(RAM), 3])),
    ]
    m.driver.kick(0)
    m.device.poll(8)
    expect(m.requests.reap()).toEqual([])
    for (let i = 0; i < 100; i++) m.device.poll(8)
    expect(statuses.map((at) => m.ram.get(at, 1)[0])).toEqual([OK, OK, INVAL])
    expect(m.device.counters.mappings).toBe(1)
  })

  test('one that would split a mapping does nothing at all', () => {
    const m = mapped(3000)
    expect(m.map(1, 3001 * 4096, 3003 * 4096 - 1, RAM)).toBe(OK)
    expect(m.unmap(1, 0, 3002 * 4096 - 1)).toBe(RANGE)
    expect(m.device.counters.mappings).toBe(3001)
  })

  test('one that was begun is carried on to its end before the device suspends (§3.4.2)', {
    tags: ['3.4.2/before-suspending'],
  }, () => {
    const m = mapped(3000).start([F_MAP_UNMAP, VIRTIO_F_SUSPEND])
    expect(m.attach(1, 8)).toBe(OK)
    for (let page = 1; page <= 300; page++) expect(m.map(1, page * 4096, page * 4096 + 4095, RAM)).toBe(OK)
    const first = offer(m, removal(0, TOP))
    const second = offer(m, pack(MAP, [1, ...halves(4096), ...halves(8191), ...halves(RAM), 3]))
    m.driver.kick(0)
    m.device.poll(8)
    m.driver.status = 31
    for (let i = 0; i < 100 && m.driver.status === 31; i++) m.device.poll(8)
    expect([m.driver.status, m.ram.get(first, 1)[0], m.device.counters.mappings]).toEqual([27, OK, 0])
    expect(m.requests.reap()).toHaveLength(1)
    m.driver.status = 31
    m.device.poll(8)
    expect([m.driver.status, m.ram.get(second, 1)[0], m.device.counters.mappings]).toEqual([15, OK, 1])
  })

  test.each(['device', 'queue'] as const)('a reset of the %s in the middle leaves nothing half done', (what) => {
    const m = mapped(3000).start([F_MAP_UNMAP, VIRTIO_F_RING_RESET])
    expect(m.attach(1, 8)).toBe(OK)
    for (let page = 1; page <= 3000; page++) expect(m.map(1, page * 4096, page * 4096 + 4095, RAM)).toBe(OK)
    offer(m, removal(0, TOP))
    m.driver.kick(0)
    m.device.poll(8)
    expect(m.device.counters.mappings).toBe(3000 - 128)
    if (what === 'queue') m.device.resetQueue(m.device.queues[0])
    m.start()
    if (what === 'device') expect(m.device.counters.mappings).toBe(0)
    expect(m.attach(1, 8)).toBe(OK)
    expect([m.map(1, 2 ** 40, 2 ** 40 + 4095, RAM), m.unmap(1, 2 ** 40, 2 ** 40 + 4095)]).toEqual([OK, OK])
  })
})

describe('budgets', () => {
  test('16 mappings that are removed count as one request', () => {
    const m = mapped(640)
    for (let i = 0; i < 10; i++) offer(m, removal((64 * i + 1) * 4096, (64 * i + 65) * 4096 - 1))
    m.driver.kick(0)
    // 1 for each request and 4 for what it removes.
    expect(m.device.poll(15)).toBe(15)
    expect(m.device.counters.mappings).toBe(640 - 3 * 64)
    let done = 0
    for (let i = 0; i < 20; i++) done += m.device.poll(15)
    expect([done, m.device.counters.mappings, m.requests.reap().length]).toEqual([35, 0, 10])
  })

  test('4 KiB that are zeroed count as one request', () => {
    const m = mapped(1)
    for (let i = 0; i < 8; i++) offer(m, removal(i * 2 ** 30, i * 2 ** 30 + 1), 16 * 1024)
    m.driver.kick(0)
    expect(m.device.poll(10)).toBe(10)
    expect(m.requests.reap()).toHaveLength(2)
  })

  test('requests that are small cost one each', () => {
    const m = mapped(1)
    for (let i = 0; i < 10; i++) offer(m, removal(2 ** 30, 2 ** 30 + 1))
    m.driver.kick(0)
    expect([m.device.poll(4), m.device.poll(4), m.device.poll(4), m.device.poll(4)]).toEqual([4, 4, 2, 0])
  })
})

describe('faults are reported while requests take all of every budget: §5.13.6.9', () => {
  const floods: readonly (readonly [string, number, (m: IommuMachine) => void])[] = [
    [
      'small requests',
      4,
      (m) => {
        for (let i = 0; i < 20; i++) offer(m, removal(2 ** 30, 2 ** 30 + 1))
      },
    ],
    ['a removal of everything', 64, (m) => void offer(m, removal(0, TOP))],
  ]
  test.each(floods)('%s: one report a poll', (_what, budget, flood) => {
    const m = mapped(5000)
    const port = m.endpoint(9)
    m.buffer(24, 24, 24)
    for (let page = 0; page < 3; page++) expect(access(port, m.ram, page * 4096, 4, 1)).toBeNull()
    flood(m)
    m.driver.kick(0)
    expect(m.device.poll(0)).toBe(0)
    for (let reported = 1; reported <= 3; reported++) {
      expect(m.device.poll(budget)).toBeGreaterThanOrEqual(budget)
      expect(m.device.counters.faultsReported).toBe(reported)
    }
    // There was more for each of those polls to do.
    expect(m.device.poll(1)).toBeGreaterThan(0)
  })
})

test('memory of mappings is given back when they go: by UNMAP, by DETACH and by reset', () => {
  const m = mapped(0)
  const least = poolOf(m).bytes
  const fill = (): number => {
    for (let page = 0; page < 20_000; page++) expect(m.map(1, page * 4096, page * 4096 + 4095, RAM)).toBe(OK)
    return poolOf(m).bytes
  }
  const ways = [
    () => {
      offer(m, removal(0, TOP))
      m.driver.kick(0)
      for (let i = 0; i < 40; i++) m.device.poll(64)
    },
    () => expect(m.detach(1, 8)).toBe(OK),
    () => void m.start(),
  ]
  for (const way of ways) {
    const most = fill()
    expect(most).toBeGreaterThan(600_000)
    way()
    expect(m.device.counters.mappings).toBe(0)
    expect(poolOf(m).bytes).toBeLessThanOrEqual(least + 100_000)
    m.requests.reap()
    if (m.device.counters.domains === 0) expect(m.attach(1, 8)).toBe(OK)
  }
})

describe('thousands of reserved regions', () => {
  const reserved = Array.from({ length: 2700 }, (_, i) => ({
    start: 0x10_0000 + i * 0x4000,
    end: 0x10_0000 + i * 0x4000 + (i % 3) * 0x1000 + 0xfff,
    kind: 'reserved' as const,
  }))
  const within = (address: number): boolean => reserved.some(({ start, end }) => start <= address && address <= end)

  test('are refused by MAP, each to its last page, and what is between is mapped', () => {
    const m = new IommuMachine({ probeSize: 65_536 }).start()
    const port = m.endpoint(8, { reserved })
    expect(m.attach(1, 8)).toBe(OK)
    for (let page = 0x100 - 3; page < 0x100 + 2700 * 4 + 3; page += page % 97 === 0 ? 61 : 1) {
      const expected = within(page * 4096) ? INVAL : OK
      expect(m.map(1, page * 4096, page * 4096 + 4095, RAM)).toBe(expected)
      expect(access(port, m.ram, page * 4096, 4, 1)).toEqual(expected === OK ? [4, RAM] : null)
    }
    expect(m.map(1, 0, 2 ** 40 - 1, RAM)).toBe(INVAL)
  })

  test('are out of reach in bypass mode, and what is between is not', () => {
    const m = new IommuMachine({ probeSize: 65_536, bypass: 'on' })
    const near = reserved.map(({ start, end, kind }) => ({
      start: start + RAM - 0x10_0000,
      end: end + RAM - 0x10_0000,
      kind,
    }))
    const port = m.endpoint(8, { reserved: near })
    for (let page = 0; page < 64; page++) {
      const address = RAM + page * 4096
      const refused = near.some(({ start, end }) => start <= address && address <= end)
      const next = near.find(({ start }) => start > address)?.start ?? Infinity
      expect(access(port, m.ram, address, 1e6, 1)).toEqual(refused ? null : [next - address, address])
    }
  })
})

test('an area over scattered pages is granted in pieces, each where it lies', () => {
  const m = new IommuMachine().start()
  const port = m.endpoint(8)
  expect(m.attach(1, 8)).toBe(OK)
  const places = [5, 2, 9, 3]
  places.forEach((page, i) => {
    expect(m.map(1, 0x10_0000 + i * 4096, 0x10_0000 + i * 4096 + 4095, RAM + page * 4096)).toBe(OK)
  })
  const { epoch } = port
  const pieces: [number, number][] = []
  for (let at = 0x10_0100, left = 3 * 4096; left > 0; ) {
    const piece = access(port, m.ram, at, left, 2)
    if (piece === null) throw new Error(`nothing at ${at}`)
    pieces.push(piece as [number, number])
    at += piece[0]
    left -= piece[0]
  }
  expect(pieces).toEqual([
    [4096 - 0x100, RAM + 5 * 4096 + 0x100],
    [4096, RAM + 2 * 4096],
    [4096, RAM + 9 * 4096],
    [0x100, RAM + 3 * 4096],
  ])
  // All of them stay valid together.
  expect(port.epoch).toBe(epoch)
})
