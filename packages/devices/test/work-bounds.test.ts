// Budgets are of work: what one poll may cost is bounded in descriptors, pieces and bytes, whatever a guest puts into
// its rings. Counted, not timed.
import { beforeEach, describe, expect, test } from 'vitest'
import {
  type BlockRequest,
  BusWindows,
  type FrameReceiver,
  type Frames,
  type NetLink,
  PagePort,
  Wire,
} from '../src/index.ts'
import { blkMachine, DISK_BYTES, header, type NetMachine, netMachine, packet, status } from './support/devices.ts'
import { EventLoop } from './support/event-loop.ts'
import { BASE, type Element, OFFSET, pattern, Ram } from './support/guest.ts'

const BUDGET = 64
/** What a chain may cost within a budget, as `poll` says, and what receive chains may cost between two polls. */
const STEPS = 64
const RECEIVE_CHAINS = 1024

/** Is asked for every buffer, since it shows no window that could be remembered. */
class CountingPort extends BusWindows {
  resolves = 0
  override resolve(length: number, access: 1 | 2): number {
    this.resolves++
    const granted = super.resolve(length, access)
    this.window.fill(0)
    return granted
  }
}

let ram: Ram
let port: CountingPort

beforeEach(() => {
  ram = new Ram(4 << 20)
  port = new CountingPort('p', [{ base: BASE, length: 4 << 20, region: ram.memory.regions[0], offset: OFFSET }])
})

/** How many resolves `act` took. */
function cost(act: () => void): number {
  const before = port.resolves
  act()
  return port.resolves - before
}

/** Offers `chains` chains that all refer to one indirect table. */
function shareTable(ring: NetMachine['rx'], chains: number, elements: readonly Element[]): void {
  const table = ring.table(elements)
  for (let i = 0; i < chains; i++) {
    ring.describe(i, table, 16 * elements.length, 4, 0)
    ring.offer(i)
  }
}

const single = (count: number, w: boolean): Element[] =>
  Array.from({ length: count }, () => ({ address: BASE, length: 1, w }))

describe('a frame that does not fit yet', () => {
  class Waiting implements NetLink {
    device: FrameReceiver | null = null
    frame: Uint8Array<ArrayBuffer> | null = null
    transmit({ count }: Frames): number {
      return count
    }
    attach(device: FrameReceiver): void {
      this.device = device
    }
    deliver(): number {
      if (this.frame === null || this.device?.receive(this.frame) !== true) return 0
      this.frame = null
      return 1
    }
  }

  test.each([true, false])('walks each posted chain once, however often it is offered (event index: %s)', (event) => {
    const link = new Waiting()
    const m = netMachine({ port, link, mtu: 65535, queueSize: 1024 }, 1024, ram)
    m.driver.start([m.rx, m.tx], 3, 15, 28, ...(event ? [29] : []))
    shareTable(m.rx, 512, single(STEPS, true))
    link.frame = new Uint8Array(65000)
    let sum = 0
    for (let i = 0; i < 20; i++) {
      const walked = cost(() => m.device.poll(BUDGET))
      expect(walked).toBeLessThanOrEqual(RECEIVE_CHAINS * STEPS)
      sum += walked
    }
    expect(sum).toBeGreaterThanOrEqual(512 * STEPS)
    expect(sum).toBeLessThan(512 * (STEPS + 2))
    // What is added is walked, and nothing else.
    const table = m.rx.table([{ address: BASE + (1 << 20), length: 65535, w: true }])
    m.rx.describe(512, table, 16, 4, 0)
    m.rx.offer(512)
    m.driver.kick(0)
    expect(cost(() => m.device.poll(BUDGET))).toBeLessThan(10)
    expect([link.frame, m.rx.reap().length]).toEqual([null, 513])
  })

  test('without mergeable buffers, too: frames that are too long are dropped over one walk', () => {
    const link = new Waiting()
    const m = netMachine({ port, link, queueSize: 1024 }, 1024, ram)
    m.driver.start([m.rx, m.tx], 28)
    shareTable(m.rx, 512, single(STEPS, true))
    const walked = cost(() => {
      for (let i = 0; i < 20; i++) expect(m.device.receive(pattern(100))).toBe(true)
    })
    expect(walked).toBeLessThan(STEPS + 20)
    expect(m.device.counters.receiveTooSmall).toBe(20)
    expect(m.device.receive(pattern(50))).toBe(true)
    m.device.poll(BUDGET)
    expect(m.rx.reap()).toEqual([{ id: 0, length: 62 }])
  })

  test('a shorter frame takes what it needs of the chains that were walked, and gives the rest back', () => {
    const m = netMachine({ port }, 8, ram)
    m.driver.start([m.rx, m.tx], 15)
    const buffers = Array.from({ length: 4 }, () => ({ address: ram.alloc(100), length: 100, w: true }))
    m.rx.offer(...buffers.map((buffer) => m.rx.chain(buffer)))
    expect(m.device.receive(pattern(500))).toBe(false)
    expect(m.device.receive(pattern(150))).toBe(true)
    expect(m.device.receive(pattern(151, 9))).toBe(true)
    m.device.poll(BUDGET)
    expect(m.rx.reap().map(({ id, length }) => [id, length])).toEqual([
      [0, 100],
      [1, 62],
      [2, 100],
      [3, 63],
    ])
    expect(ram.get(buffers[2].address + 12, 88)).toEqual(pattern(151, 9).slice(0, 88))
  })

  test('chains that were walked are given back before the device is saved, and asked for anew if the port changed', () => {
    const m = netMachine({ port }, 8, ram)
    m.driver.start([m.rx, m.tx], 15)
    for (let i = 0; i < 3; i++) m.rx.offer(m.rx.chain({ address: ram.alloc(100), length: 100, w: true }))
    expect(m.device.receive(pattern(500))).toBe(false)
    expect(m.device.save().queues[0]).toMatchObject({ next: 0, used: 0 })
    expect(m.device.receive(pattern(500))).toBe(false)
    port.setWindows(port.windows)
    expect(cost(() => m.device.receive(pattern(200)))).toBeGreaterThanOrEqual(3)
    m.device.poll(BUDGET)
    expect(m.rx.reap()).toHaveLength(3)
  })

  test('chains that were walked do not outlive a reset', () => {
    const m = netMachine({ port }, 8, ram)
    m.driver.start([m.rx, m.tx], 15)
    m.rx.offer(m.rx.chain({ address: ram.alloc(100), length: 100, w: true }))
    expect(m.device.receive(pattern(500))).toBe(false)
    const again = netMachine({}, 8, ram)
    m.driver.start([again.rx, again.tx], 15)
    again.rx.offer(again.rx.chain({ address: ram.alloc(600), length: 600, w: true }))
    expect(m.device.receive(pattern(500))).toBe(true)
    m.device.poll(BUDGET)
    expect(again.rx.reap()).toEqual([{ id: 0, length: 512 }])
  })
})

describe('one shared indirect table behind every entry of a ring', () => {
  const elements = 1024

  test('net, transmit', () => {
    const m = netMachine({ port, queueSize: 1024 }, 1024, ram)
    m.driver.start([m.rx, m.tx], 28)
    shareTable(m.tx, 1024, single(elements, false))
    m.driver.kick(1)
    let polls = 0
    for (let left = 1; left > 0; polls++) {
      expect(cost(() => (left = m.device.poll(BUDGET)))).toBeLessThan(BUDGET * STEPS + 2 * elements)
    }
    expect([m.tx.reap().length, polls > 100]).toEqual([1024, true])
  })

  test('blk, with a store that answers at once and with one that answers late', () => {
    for (const late of [false, true]) {
      const waiting: BlockRequest[] = []
      const take = (r: BlockRequest): void => {
        if (late) waiting.push(r)
        else r.done(0)
      }
      const store = { capacity: DISK_BYTES, read: take, write: take, flush: take }
      const m = blkMachine({ port, store, queueSize: 1024, maxInFlight: 1024 }, 1024, ram)
      m.driver.start([m.ring], 28)
      ram.set32(BASE + 4096, 0)
      ram.set64(BASE + 4096 + 8, 0)
      shareTable(m.ring, 256, [
        { address: BASE + 4096, length: 16 },
        ...Array.from({ length: 512 }, () => ({ address: BASE, length: 1, w: true })),
        { address: BASE, length: 1, w: true },
      ])
      m.driver.kick(0)
      const bound = BUDGET * STEPS + 2 * elements
      const run = (): void => {
        for (let left = 1; left > 0; ) expect(cost(() => (left = m.device.poll(BUDGET)))).toBeLessThan(bound)
      }
      run()
      if (late) expect(waiting).toHaveLength(256)
      for (const r of waiting.splice(0)) r.done(0)
      run()
      expect(m.ring.reap()).toHaveLength(256)
    }
  })

  test('a request that waits for staging memory is walked once, and again when there is room', () => {
    const waiting: BlockRequest[] = []
    const take = (r: BlockRequest): void => void waiting.push(r)
    const store = { capacity: 1 << 20, read: take, write: take, flush: take }
    const m = blkMachine({ port, store, stagingBytes: 8192 }, 8, ram)
    m.driver.start([m.ring], 28)
    ram.set32(BASE + 4096, 0)
    ram.set64(BASE + 4096 + 8, 0)
    shareTable(m.ring, 2, [
      { address: BASE + 4096, length: 16 },
      { address: BASE + 8192, length: 4608, w: true },
      { address: BASE, length: 1, w: true },
    ])
    m.driver.kick(0)
    m.device.poll(BUDGET)
    expect(waiting).toHaveLength(1)
    m.device.poll(BUDGET)
    expect(cost(() => m.device.poll(BUDGET))).toBe(0)
    waiting[0].done(0)
    m.device.poll(BUDGET)
    expect(waiting).toHaveLength(2)
  })
})

describe('whoever always has work does not stop others of the same device', () => {
  test('blk: a queue that is always full', () => {
    const m = blkMachine({ queues: 3 }, 16, ram)
    const rings = [m.ring, blkMachine({}, 16, ram).ring, blkMachine({}, 16, ram).ring]
    m.driver.start(rings, 9, 12)
    const flush = (i: number): void => {
      rings[i].offer(rings[i].chain(header(ram, 4), status(ram)))
      m.driver.kick(i)
    }
    for (let i = 0; i < 8; i++) flush(0)
    flush(1)
    flush(2)
    for (let i = 0; i < 3; i++) {
      for (let n = m.device.poll(4); n > 0; n--) flush(0)
    }
    expect(rings.slice(1).map((ring) => ring.reap().length)).toEqual([1, 1])
    expect(rings[0].usedIndex).toBeGreaterThan(0)
  })

  test('net: a link that always has frames, with a budget of 1', () => {
    const flood = { device: null as FrameReceiver | null, sent: 0 }
    const link: NetLink = {
      attach: (device) => {
        flood.device = device
      },
      deliver: () => (flood.device?.receive(pattern(60)) === true ? 1 : 0),
      transmit: ({ count }) => {
        flood.sent += count
        return count
      },
    }
    const m = netMachine({ link }, 8)
    m.driver.start([m.rx, m.tx])
    for (let i = 0; i < 8; i++) m.rx.offer(m.rx.chain({ address: m.ram.alloc(100), length: 100, w: true }))
    m.tx.offer(m.tx.chain(packet(m.ram, pattern(60))))
    m.driver.kick(1)
    m.device.poll(1)
    expect([flood.sent, m.device.counters.received]).toEqual([1, 1])
  })
})

test("a peer's receive chains do not make the sender's poll long", () => {
  const loop = new EventLoop()
  const wire = new Wire()
  const a = netMachine({ name: 'a', link: wire.a, onWork: loop.onWork('a'), queueSize: 64 }, 64)
  const b = netMachine({ name: 'b', link: wire.b, onWork: loop.onWork('b'), port, queueSize: 1024 }, 1024, ram)
  for (const m of [a, b]) {
    loop.add(m.device)
    m.driver.start([m.rx, m.tx], 15, 28)
  }
  loop.run()
  // 1,024 descriptors for 16 bytes, of which the first chain of a frame gives 4 and each later one 16.
  shareTable(b.rx, 1024, [
    ...Array.from({ length: 1008 }, () => ({ address: BASE, length: 0, w: true })),
    ...single(16, true),
  ])
  b.driver.kick(0)
  a.tx.offer(...Array.from({ length: 8 }, () => a.tx.chain(packet(a.ram, pattern(1000)))))
  a.driver.kick(1)
  const bound = RECEIVE_CHAINS * STEPS + 2048
  expect(cost(() => a.device.poll(BUDGET))).toBeLessThan(bound)
  expect(a.tx.usedIndex).toBe(8)
  expect(cost(() => b.device.poll(BUDGET))).toBeLessThan(bound)
  loop.run()
  expect(wire.a.counters.delivered).toBe(8)
})

describe('PagePort', () => {
  test('looks at 32,768 pages at a time, whatever the length; asking again gets the rest', () => {
    const pages = new PagePort('p', ram.memory, 8)
    pages.pages.set([BASE, 1 << 20])
    pages.share()
    pages.request[0] = BASE
    expect(pages.resolve(1 << 20, 1)).toBe(32768 * 8)
    pages.request[0] = BASE + 32768 * 8 - 8
    expect(pages.resolve(1 << 20, 2)).toBe(8)
    pages.request[0] = BASE + 32768 * 8
    expect(pages.resolve(100, 1)).toBe(100)
    pages.request[0] = BASE + 4
    expect(pages.resolve(100, 1)).toBe(100)
  })

  test('long buffers count by their bytes', () => {
    const m = netMachine({ port, queueSize: 256 }, 256, ram)
    m.driver.start([m.rx, m.tx], 28)
    for (let i = 0; i < 200; i++) m.tx.offer(m.tx.chain({ address: BASE, length: 1 << 20 }))
    m.driver.kick(1)
    // 17 chains each.
    expect(m.device.poll(BUDGET)).toBeLessThan(BUDGET + 17)
    expect(m.tx.usedIndex).toBeLessThan(5)
    while (m.device.poll(BUDGET) > 0);
    expect(m.tx.usedIndex).toBe(200)
  })
})
