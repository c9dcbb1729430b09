import { beforeAll, describe, expect, test } from 'vitest'
import { Frames, LearningSwitch, LoopbackLink, NetDevice, Wire } from '../src/index.ts'
import { type AnyNetMachine, netMachineOver, packet, TRANSPORTS, type TransportName } from './support/devices.ts'
import { pattern } from './support/guest.ts'

let transport: TransportName

function up(m: AnyNetMachine): AnyNetMachine {
  m.driver.start([m.rx, m.tx])
  return m
}

function post(m: AnyNetMachine, count: number): void {
  for (let i = 0; i < count; i++) m.rx.offer(m.rx.chain({ address: m.ram.alloc(1526), length: 1526, w: true }))
}

function send(m: AnyNetMachine, ...frames: Uint8Array[]): void {
  m.tx.offer(...frames.map((frame) => m.tx.chain(packet(m.ram, frame))))
  m.driver.kick(1)
  m.device.poll(64)
}

/** What the driver received, in order. */
function received(m: AnyNetMachine): Uint8Array[] {
  return m.rx.reap().map(({ id, length }) => {
    const at = m.ram.u32(m.rx.desc + 16 * id)
    return m.ram.get(at + 12, length - 12)
  })
}

const frames = (count: number): Uint8Array[] => Array.from({ length: count }, (_, i) => pattern(60 + i, i))

describe.each(TRANSPORTS)('over %s', (name) => {
  beforeAll(() => {
    transport = name
  })

  describe('LoopbackLink', () => {
    test('gives frames back in the same poll, and keeps what finds no buffer', () => {
      const m = up(netMachineOver(transport, { link: new LoopbackLink() }))
      post(m, 2)
      send(m, ...frames(4))
      expect(m.tx.reap()).toHaveLength(4)
      expect(received(m)).toEqual(frames(4).slice(0, 2))
      post(m, 2)
      m.device.poll(64)
      expect(received(m)).toEqual(frames(4).slice(2))
    })

    test('when its queue is full the device holds frames back', () => {
      const link = new LoopbackLink({ frames: 2 })
      const m = up(netMachineOver(transport, { link }))
      send(m, ...frames(5))
      expect(m.tx.reap()).toHaveLength(2)
      for (let i = 0; i < 3; i++) {
        post(m, 2)
        m.device.poll(64)
      }
      expect(received(m)).toEqual(frames(5))
      expect([m.tx.reap().length, link.counters]).toEqual([3, { delivered: 5, dropped: 0, oversize: 0 }])
    })

    test('takes one device', () => {
      const link = new LoopbackLink()
      netMachineOver(transport, { link })
      expect(() => netMachineOver(transport, { link })).toThrow(expect.objectContaining({ code: 'LINK_ATTACHED' }))
    })
  })

  describe('Wire', () => {
    const pair = (
      options?: ConstructorParameters<typeof Wire>[0],
    ): { wire: Wire; a: AnyNetMachine; b: AnyNetMachine } => {
      const wire = new Wire(options)
      return {
        wire,
        a: netMachineOver(transport, { name: 'a', link: wire.a }),
        b: netMachineOver(transport, { name: 'b', link: wire.b }),
      }
    }

    test("hands over directly, in both directions, and publishes in the receiver's poll", () => {
      const { a, b } = pair()
      for (const m of [up(a), up(b)]) post(m, 4)
      send(a, ...frames(2))
      expect(b.rx.usedIndex).toBe(0)
      b.device.poll(64)
      expect(received(b)).toEqual(frames(2))
      send(b, pattern(99))
      a.device.poll(64)
      expect(received(a)).toEqual([pattern(99)])
    })

    test('order is kept when frames had to wait; back-pressure instead of loss', () => {
      const { wire, a, b } = pair({ frames: 3 })
      up(a)
      up(b)
      send(a, ...frames(8))
      expect(a.tx.reap()).toHaveLength(3)
      const all: Uint8Array[] = []
      for (let i = 0; i < 8; i++) {
        post(b, 1)
        b.device.poll(64)
        a.device.poll(64)
        all.push(...received(b))
      }
      b.device.poll(64)
      all.push(...received(b))
      expect(all).toEqual(frames(8))
      expect(wire.a.counters).toEqual({ delivered: 8, dropped: 0, oversize: 0 })
    })

    test('a peer that is not live is a cable that hangs loose: dropped and counted, and never a stall', () => {
      const { wire, a, b } = pair({ frames: 2 })
      up(a)
      send(a, ...frames(5))
      expect(a.tx.reap()).toHaveLength(5)
      expect(wire.a.counters.dropped).toBe(5)
      up(b)
      send(a, ...frames(2))
      b.driver.status = 0
      expect(wire.a.counters.dropped).toBe(7)
      expect(new Wire().a.transmit(Frames.of(pattern(60)))).toBe(1)
    })

    test('a frame that is too long to wait is counted', () => {
      const { wire, a, b } = pair({ frameBytes: 100 })
      up(a)
      up(b)
      send(a, pattern(101))
      expect(wire.a.counters).toEqual({ delivered: 0, dropped: 0, oversize: 1 })
    })

    test('a frame of full MTU with two VLAN tags can wait', () => {
      const { a, b } = pair()
      up(a)
      up(b)
      const stacked = pattern(1522)
      stacked.set([0x88, 0xa8], 12)
      stacked.set([0x81, 0x00], 16)
      send(a, stacked)
      b.rx.offer(b.rx.chain({ address: b.ram.alloc(1534), length: 1534, w: true }))
      b.device.poll(64)
      expect(received(b)).toEqual([stacked])
    })

    test('bounds that cannot be', () => {
      for (const options of [{ frames: 0 }, { frames: 1.5 }, { frameBytes: 0 }, { frameBytes: 1e6 }]) {
        expect(() => new Wire(options)).toThrow(expect.objectContaining({ code: 'LINK_OPTION' }))
      }
    })
  })

  describe('LearningSwitch', () => {
    const mac = (i: number): number[] => [2, 0, 0, 0, 0, i]
    const frame = (to: number[], from: number[], length = 60): Uint8Array =>
      Uint8Array.from([...to, ...from, 0x88, 0xb5, ...pattern(length - 14)])
    const BROADCAST = [255, 255, 255, 255, 255, 255]

    const network = (
      options: Partial<ConstructorParameters<typeof LearningSwitch>[0]> = {},
    ): { hub: LearningSwitch; machines: AnyNetMachine[] } => {
      const hub = new LearningSwitch({ ports: 3, ...options })
      const machines = hub.ports.map((link, i) => up(netMachineOver(transport, { name: `net${i}`, mac: mac(i), link })))
      return { hub, machines }
    }

    const pollAll = (machines: AnyNetMachine[]): void => {
      for (const m of machines) m.device.poll(64)
    }

    test('floods what it does not know, then goes to one port', () => {
      const { hub, machines } = network()
      for (const m of machines) post(m, 8)
      send(machines[0], frame(mac(1), mac(0)))
      pollAll(machines)
      expect(machines.map((m) => received(m).length)).toEqual([0, 1, 1])
      send(machines[1], frame(mac(0), mac(1)))
      pollAll(machines)
      expect(machines.map((m) => received(m).length)).toEqual([1, 0, 0])
      send(machines[0], frame(mac(1), mac(0)), frame(BROADCAST, mac(0)), frame([1, 0, 0x5e, 0, 0, 1], mac(0)))
      pollAll(machines)
      expect(machines.map((m) => received(m).length)).toEqual([0, 3, 2])
      expect(hub.ports[0].counters).toMatchObject({ flooded: 3, filtered: 0, full: 0 })
    })

    test('an address that moved is found behind its new port; frames to the own port and runts are filtered', () => {
      const { hub, machines } = network()
      for (const m of machines) post(m, 8)
      send(machines[0], frame(BROADCAST, mac(9)))
      send(machines[1], frame(BROADCAST, mac(9)))
      send(machines[2], frame(mac(9), mac(2)))
      send(machines[1], frame(mac(9), mac(1)), pattern(13))
      pollAll(machines)
      expect(machines.map((m) => received(m).length)).toEqual([1, 2, 2])
      expect(hub.ports[1].counters.filtered).toBe(2)
    })

    test('a group address as sender is not learned', () => {
      const { machines } = network()
      for (const m of machines) post(m, 8)
      send(machines[0], frame(mac(1), BROADCAST))
      send(machines[1], frame(BROADCAST, mac(1)))
      pollAll(machines)
      expect(machines.map((m) => received(m).length)).toEqual([1, 1, 2])
    })

    test('dropWhenFull false: nothing is lost, and a full port holds all others back', () => {
      const { hub, machines } = network({ frames: 2, dropWhenFull: false })
      const [a, b] = machines
      post(machines[2], 8)
      send(a, ...Array.from({ length: 4 }, (_, i) => frame(BROADCAST, mac(0), 60 + i)))
      expect(a.tx.reap()).toHaveLength(2)
      post(b, 8)
      pollAll(machines)
      pollAll(machines)
      expect([a.tx.reap().length, received(b).length, received(machines[2]).length]).toEqual([2, 4, 4])
      expect(hub.ports[1].counters).toMatchObject({ full: 0, delivered: 4 })
    })

    test('by default a port that posts no buffers loses its frames, counted, and stops nobody', () => {
      const { hub, machines } = network({ frames: 2 })
      const [a] = machines
      post(machines[2], 8)
      send(a, ...Array.from({ length: 4 }, () => frame(BROADCAST, mac(0))))
      expect(a.tx.reap()).toHaveLength(4)
      pollAll(machines)
      expect(received(machines[2])).toHaveLength(4)
      expect(hub.ports[1].counters).toMatchObject({ full: 2, delivered: 0 })
    })

    test('an address flood costs no memory, and old addresses are flooded to again', () => {
      const { hub, machines } = network({ addresses: 4 })
      for (const m of machines) post(m, 8)
      send(machines[1], frame(BROADCAST, mac(1)))
      const bytes = new Uint8Array(60)
      for (let i = 0; i < 1000; i++) {
        bytes.set(BROADCAST, 0)
        bytes.set([4, 0, 0, 0, i >> 8, i & 255], 6)
        hub.ports[0].transmit(Frames.of(bytes))
        if (i % 7 === 0) {
          for (const m of machines) {
            post(m, 7)
            m.device.poll(64)
            m.rx.reap()
          }
        }
      }
      const before = hub.ports[2].counters.flooded
      hub.ports[2].transmit(Frames.of(frame(mac(1), mac(2))))
      expect(hub.ports[2].counters.flooded).toBe(before + 1)
    })

    test('bounds that cannot be', () => {
      for (const options of [{ ports: 1 }, { ports: 5000 }, { ports: 2, addresses: 0 }, { ports: 2, frames: 0 }]) {
        expect(() => new LearningSwitch(options)).toThrow(expect.objectContaining({ code: 'LINK_OPTION' }))
      }
    })
  })

  test('a device without a link is fine', () => {
    expect(netMachineOver(transport).device).toBeInstanceOf(NetDevice)
  })
})
