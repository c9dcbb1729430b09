import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  type BlkDeviceOptions,
  type BlockRequest,
  type Frames,
  LearningSwitch,
  LoopbackLink,
  type NetLink,
  Wire,
} from '../src/index.ts'
import {
  type AnyBlkMachine,
  type AnyNetMachine,
  blkMachineOver,
  DISK_BYTES,
  header,
  netMachineOver,
  packet,
  status,
  TRANSPORTS,
  type TransportName,
} from './support/devices.ts'
import { EventLoop, surfaced } from './support/event-loop.ts'
import { pattern, Ring } from './support/guest.ts'

let transport: TransportName
let loop: EventLoop

const frames = (count: number): Uint8Array[] => Array.from({ length: count }, (_, i) => pattern(60 + i, i))

function net(name: string, link: NetLink): AnyNetMachine {
  const m = netMachineOver(transport, { name, link, onWork: loop.onWork(name) }, 64)
  loop.add(m.device)
  m.driver.start([m.rx, m.tx], 29)
  return m
}

function post(m: AnyNetMachine, count: number): void {
  for (let i = 0; i < count; i++) m.rx.offer(m.rx.chain({ address: m.ram.alloc(1526), length: 1526, w: true }))
  m.driver.kick(0)
}

function send(m: AnyNetMachine, ...all: Uint8Array[]): void {
  m.tx.offer(...all.map((frame) => m.tx.chain(packet(m.ram, frame))))
  m.driver.kick(1)
}

function received(m: AnyNetMachine): Uint8Array[] {
  return m.rx.reap().map(({ id, length }) => m.ram.get(m.ram.u32(m.rx.desc + 16 * id) + 12, length - 12))
}

describe.each(TRANSPORTS)('after poll returned 0 its owner sleeps until onWork: over %s', (name) => {
  beforeAll(() => {
    transport = name
  })
  beforeEach(() => {
    loop = new EventLoop()
  })

  describe.each<[string, () => { from: NetLink; to: NetLink }]>([
    [
      'wire',
      () => {
        const wire = new Wire({ frames: 2 })
        return { from: wire.a, to: wire.b }
      },
    ],
    [
      'loopback',
      () => {
        const link = new LoopbackLink({ frames: 2 })
        return { from: link, to: link }
      },
    ],
    [
      'switch with back-pressure',
      () => {
        const hub = new LearningSwitch({ ports: 3, frames: 2, dropWhenFull: false })
        return { from: hub.ports[0], to: hub.ports[2] }
      },
    ],
  ])('%s', (_, links) => {
    function pair(): { from: AnyNetMachine; to: AnyNetMachine } {
      const { from, to } = links()
      const a = net('a', from)
      return { from: a, to: from === to ? a : net('b', to) }
    }

    test('a sender that a full peer held back goes on when the peer posts buffers', () => {
      const { from, to } = pair()
      loop.run()
      send(from, ...frames(20))
      loop.run()
      expect(from.tx.reap()).toHaveLength(2)
      const all: Uint8Array[] = []
      for (let i = 0; i < 20; i++) {
        post(to, 1)
        loop.run()
        all.push(...received(to))
      }
      expect(all).toEqual(frames(20))
      expect(from.tx.reap()).toHaveLength(18)
      expect(loop.asleep).toBe(true)
    })

    test.each([1, 2, Infinity])('with a budget of %d as well', (budget) => {
      const { from, to } = pair()
      send(from, ...frames(20))
      loop.run(budget)
      post(to, 20)
      loop.run(budget)
      expect(received(to)).toEqual(frames(20))
    })

    test.each<[string, (m: AnyNetMachine) => void]>([
      ['is reset', (m) => (m.driver.status = 0)],
      ['fails', (m) => (m.driver.status = 15 | 128)],
      ['needs a reset', (m) => m.device.needsReset('test')],
      ['loses its cable', (m) => m.device.setLink(false)],
    ])('and when the peer %s', (_, stop) => {
      const { from, to } = pair()
      send(from, ...frames(20))
      loop.run()
      expect(from.tx.reap()).toHaveLength(2)
      stop(to)
      loop.run()
      // A loopback's own device stopped, or lost its cable and drops.
      expect(from.tx.reap()).toHaveLength(from === to && !from.device.live ? 0 : 18)
    })

    test('and when its own cable is pulled', () => {
      const { from } = pair()
      send(from, ...frames(20))
      loop.run()
      from.device.setLink(false)
      loop.run()
      expect(from.tx.reap()).toHaveLength(20)
    })
  })

  test('frames that receive() took are published and told', () => {
    const m = net('a', new Wire().a)
    post(m, 2)
    loop.run()
    m.device.receive(pattern(60))
    expect(m.rx.usedIndex).toBe(0)
    loop.run()
    expect([m.rx.usedIndex, m.driver.interrupting]).toEqual([1, true])
  })

  test.each<[string, (m: AnyNetMachine) => void]>([
    ['setLink', (m) => m.device.setLink(false)],
    ['needsReset', (m) => m.device.needsReset('test')],
    [
      'a receive buffer that breaks the queue',
      (m) => {
        m.rx.offer(m.rx.chain({ address: m.ram.alloc(8), length: 8, w: true }))
        m.device.receive(pattern(60))
      },
    ],
  ])('%s raises its interrupt', (_, act) => {
    const m = net('a', new Wire().a)
    loop.run()
    act(m)
    loop.run()
    expect(m.line.asserted).toBe(true)
    expect(m.driver.acknowledge()).toBe(2)
  })

  describe('a store that answers late', () => {
    let waiting: BlockRequest[]
    let m: AnyBlkMachine

    function boot(options: Partial<BlkDeviceOptions> = {}): void {
      waiting = []
      const store = {
        capacity: DISK_BYTES,
        read: (r: BlockRequest) => waiting.push(r),
        write: (r: BlockRequest) => waiting.push(r),
        flush: (r: BlockRequest) => waiting.push(r),
      }
      m = blkMachineOver(transport, { name: 'disk', store, onWork: loop.onWork('disk'), ...options })
      loop.add(m.device)
      m.driver.start([m.ring], 9, 29, 40)
      loop.run()
    }

    function read(ring: Ring = m.ring, queue = 0): () => number {
      return request(ring, queue, true)
    }

    function request(ring: Ring, queue: number, reads: boolean): () => number {
      const cell = status(m.ram)
      const data = { address: m.ram.alloc(512), length: 512, w: reads }
      ring.offer(ring.chain(header(m.ram, reads ? 0 : 1), data, cell))
      m.driver.kick(queue)
      loop.run()
      return () => m.ram.get(cell.address, 1)[0]
    }

    test('a request that waited for the answer to a write from before a reset begins with that answer', () => {
      boot()
      request(m.ring, 0, false)
      m.driver.status = 0
      const again = new Ring(m.ram, 8)
      m.driver.start([again], 9, 29)
      const state = read(again)
      expect(waiting).toHaveLength(1)
      waiting[0].done(0)
      loop.run()
      expect(waiting).toHaveLength(2)
      waiting[1].done(0)
      loop.run()
      expect(state()).toBe(0)
    })

    test('a queue is reset once the store answered all that came from it, and other queues go on (§2.6.1)', () => {
      boot({ queues: 2 })
      const second = new Ring(m.ram, 8)
      m.driver.start([m.ring, second], 9, 29, 40)
      loop.run()
      const lost = read(m.ring, 0)
      m.driver.resetQueue(0)
      expect([m.driver.queueReset(0), m.driver.queueReady(0), m.device.inFlight]).toEqual([true, false, 1])
      // Too early: ignored.
      const again = new Ring(m.ram, 8)
      m.driver.setQueue(0, again)
      m.driver.enableQueue(0)
      expect(m.driver.queueReady(0)).toBe(false)
      const other = read(second, 1)
      expect(waiting).toHaveLength(2)
      waiting[1].done(0)
      loop.run()
      expect([other(), lost()]).toEqual([0, 0xff])
      expect(m.driver.queueReset(0)).toBe(true)
      waiting[0].done(0)
      loop.run()
      expect([m.driver.queueReset(0), m.device.inFlight]).toEqual([false, 0])
      m.driver.queue(0, again)
      const later = read(again, 0)
      waiting[2].done(0)
      loop.run()
      expect([later(), lost()]).toEqual([0, 0xff])
    })

    test('a queue that was stopped and is ready again waits for the answers to what came before', () => {
      boot()
      const lost = read()
      const [queue] = m.device.queues
      m.device.disableQueue(queue)
      const again = new Ring(m.ram, 8)
      m.driver.queue(0, again)
      const state = read(again)
      expect([queue.ready, waiting.length]).toEqual([true, 1])
      waiting[0].done(0)
      loop.run()
      waiting[1].done(0)
      loop.run()
      expect([lost(), state()]).toEqual([0xff, 0])
    })

    test('a store that never answers holds up the reset of its queue, and not that of the device', () => {
      boot()
      read()
      m.driver.resetQueue(0)
      expect(m.device.inFlight).toBe(1)
      m.driver.status = 0
      expect(m.driver.status).toBe(0)
      const again = new Ring(m.ram, 8)
      m.driver.start([again], 9, 29, 40)
      expect([m.driver.queueReady(0), m.driver.queueReset(0)]).toEqual([true, false])
      const state = read(again)
      expect([waiting.length, m.device.inFlight]).toEqual([2, 1])
      waiting[1].done(0)
      loop.run()
      expect([state(), m.device.inFlight]).toEqual([0, 0])
    })

    test('a request that waited for a free slot begins with the answer to another', () => {
      boot({ maxInFlight: 1 })
      const states = [read(), read(), read()]
      for (let i = 0; i < 3; i++) {
        expect(waiting).toHaveLength(i + 1)
        waiting[i].done(0)
        loop.run()
      }
      expect(states.map((state) => state())).toEqual([0, 0, 0])
      expect(loop.asleep).toBe(true)
    })

    test('an answer that comes while the store is asked for something else is told', () => {
      boot()
      const first = read()
      const store = m.device.store as { read(r: BlockRequest): void }
      store.read = (r) => {
        waiting[0].done(0)
        waiting.push(r)
      }
      const second = read()
      expect([first(), second()]).toEqual([0, 0xff])
      waiting[1].done(0)
      loop.run()
      expect([second(), loop.asleep]).toEqual([0, true])
    })

    test('capacityChanged raises its interrupt', () => {
      boot()
      const store = m.device.store as { capacity: number }
      store.capacity = 2 * DISK_BYTES
      m.device.capacityChanged()
      loop.run()
      expect(m.line.asserted).toBe(true)
    })
  })

  describe('what is plugged in and throws is recorded, surfaces in a microtask, and stops nobody', () => {
    const broken = (at: keyof NetLink): NetLink & { sent: number } => {
      const fail = (): never => {
        throw new Error(`bad ${at}`)
      }
      const link = {
        sent: 0,
        transmit: ({ count }: Frames) => {
          link.sent += count
          return at === 'transmit' ? fail() : count
        },
        deliver: () => (at === 'deliver' ? fail() : 0),
        unplugged: () => {
          if (at === 'unplugged') fail()
        },
      }
      return link
    }

    test.each(['transmit', 'deliver', 'unplugged'] as const)('link.%s', async (at) => {
      const link = broken(at)
      const messages = await surfaced(() => {
        const m = net('a', link)
        send(m, ...frames(3))
        loop.run()
        expect([link.sent, m.tx.reap().length]).toEqual([3, 3])
        m.driver.status = 0
        const fault = { kind: 'host', device: 'a', reason: `link.${at}`, message: `Error: bad ${at}` }
        expect(m.device.faults.last()).toContainEqual(fault)
      })
      expect(new Set(messages)).toEqual(new Set([`bad ${at}`]))
    })

    test('a link that says nonsense of what it delivered', () => {
      const m = net('a', { transmit: ({ count }) => count, deliver: () => Number.NaN })
      send(m, ...frames(3))
      loop.run()
      expect(m.tx.reap()).toHaveLength(3)
    })

    test.each([-1, 4, 1.5, Number.NaN, undefined])('a link that says it took %s of 3 frames', async (taken) => {
      const messages = await surfaced(() => {
        const m = net('a', { transmit: () => taken as number })
        send(m, ...frames(3))
        loop.run()
        expect([m.tx.reap().length, m.device.counters.transmitFailed]).toEqual([3, 3])
        expect(m.device.faults.last()).toContainEqual(
          expect.objectContaining({ kind: 'host', reason: 'link.transmit' }),
        )
      })
      expect(messages).toEqual([expect.stringContaining(`of a batch of 3 returned ${taken}`)])
    })

    test('a link that transfers the memory of its frames', () => {
      const lengths: number[] = []
      const m = net('a', {
        transmit: ({ bytes, count, lengths: all, ...rest }) => {
          lengths.push(...all.subarray(0, count))
          const { buffer } = rest.region.u8
          structuredClone(buffer, { transfer: [buffer as ArrayBuffer] })
          return count
        },
      })
      for (const frame of frames(3)) send(m, frame)
      // One that goes the general way.
      m.tx.offer(m.tx.chain({ address: m.ram.alloc(12), length: 12 }, { address: m.ram.alloc(80), length: 80 }))
      send(m, ...frames(1))
      loop.run()
      expect([lengths, m.tx.reap().length]).toEqual([[60, 61, 62, 80, 60], 5])
    })

    test('a receiver on a switch: the others get the frame', async () => {
      const hub = new LearningSwitch({ ports: 3 })
      const broken = {
        live: true,
        wake: () => {},
        receive: () => true,
        receiveEach: () => {
          throw new Error('bad receiver')
        },
      }
      hub.ports[1].attach(broken)
      const from = net('a', hub.ports[0])
      const to = net('b', hub.ports[2])
      post(to, 1)
      const messages = await surfaced(() => {
        send(from, new Uint8Array(60).fill(255, 0, 6))
        loop.run()
      })
      expect([messages, received(to).length, hub.ports[1].counters.dropped]).toEqual([['bad receiver'], 1, 1])
      expect(from.device.faults.count).toBe(0)
    })

    test('a store that transfers the memory of a request: that request fails, and nothing else', () => {
      const store = {
        capacity: DISK_BYTES,
        steal: true,
        read(r: BlockRequest) {
          if (this.steal) structuredClone(r.data, { transfer: [r.data.buffer] })
          r.done(0)
        },
        write: (r: BlockRequest) => r.done(0),
        flush: (r: BlockRequest) => r.done(0),
      }
      const m = blkMachineOver(transport, { name: 'disk', store, stagingBytes: 4096, onWork: loop.onWork('disk') })
      loop.add(m.device)
      m.driver.start([m.ring], 9)
      const states = Array.from({ length: 4 }, (_, i) => {
        store.steal = i % 2 === 0
        const cell = status(m.ram)
        m.ring.offer(m.ring.chain(header(m.ram, 0), { address: m.ram.alloc(512), length: 512, w: true }, cell))
        m.driver.kick(0)
        loop.run()
        return m.ram.get(cell.address, 1)[0]
      })
      expect(states).toEqual([1, 0, 1, 0])
    })

    test('store.capacity', async () => {
      const store = {
        broken: false,
        get capacity() {
          if (this.broken) throw new Error('bad capacity')
          return DISK_BYTES
        },
        read: (r: BlockRequest) => r.done(0),
        write: (r: BlockRequest) => r.done(0),
        flush: (r: BlockRequest) => r.done(0),
      }
      const m = blkMachineOver(transport, { name: 'disk', store, onWork: loop.onWork('disk') })
      loop.add(m.device)
      m.driver.start([m.ring], 9)
      const read = (): number => {
        const cell = status(m.ram)
        m.ring.offer(m.ring.chain(header(m.ram, 0), { address: m.ram.alloc(512), length: 512, w: true }, cell))
        m.driver.kick(0)
        loop.run()
        return m.ram.get(cell.address, 1)[0]
      }
      expect(read()).toBe(0)
      store.broken = true
      const messages = await surfaced(() => expect(read()).toBe(1))
      expect(messages).toEqual(['bad capacity'])
      store.broken = false
      expect(read()).toBe(0)
      expect(m.device.faults.last()).toMatchObject([{ kind: 'host', reason: 'store.capacity' }])
    })

    test('an interrupt sink', async () => {
      const messages = await surfaced(() => {
        const m = net('a', new LoopbackLink())
        m.line.level = () => {
          throw new Error('bad line')
        }
        post(m, 1)
        send(m, pattern(60))
        loop.run()
        expect(m.rx.usedIndex).toBe(1)
      })
      expect(messages).toEqual(['bad line'])
    })
  })
})
