import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  INTERRUPT_CONFIGURATION,
  STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_F_INDIRECT_DESC,
} from '@guestdma/spec'
import { beforeEach, describe, expect, test } from 'vitest'
import { BusWindows, everything, type QueueFaultReason } from '../src/index.ts'
import {
  type AnyNetMachine,
  netMachineOver,
  packet,
  RecordingLink,
  TRANSPORTS,
  type TransportName,
} from './support/devices.ts'
import { BASE, pattern, RAM_BYTES, type Ring } from './support/guest.ts'
import { checkRing } from './support/ring-invariants.ts'

const NEXT = DESCRIPTOR_F_NEXT
const WRITE = DESCRIPTOR_F_WRITE
const INDIRECT = DESCRIPTOR_F_INDIRECT

let m: AnyNetMachine
let transport: TransportName
let link: RecordingLink

function boot(...features: number[]): void {
  link = new RecordingLink()
  m = netMachineOver(transport, { link })
  m.driver.start([m.rx, m.tx], ...features)
}

function run(...heads: number[]): void {
  m.tx.offer(...heads)
  m.driver.kick(1)
  m.device.poll(64)
  for (const { walker } of m.device.queues) checkRing(walker)
}

/** The queue broke for this reason; the device says so and does nothing any more. */
function expectBroken(reason: QueueFaultReason, numbers: { head?: number; value?: number; limit?: number } = {}): void {
  expect(m.device.faults.last().filter(({ kind }) => kind === 'queue')).toEqual([
    expect.objectContaining({ device: 'net0', queue: 1, reason, ...numbers }),
  ])
  expect(m.driver.status & STATUS_DEVICE_NEEDS_RESET).toBe(STATUS_DEVICE_NEEDS_RESET)
  expect(m.line.asserted).toBe(true)
  expect(m.driver.acknowledge() & INTERRUPT_CONFIGURATION).toBe(INTERRUPT_CONFIGURATION)
  expect(m.tx.usedIndex).toBe(0)
  expect(link.frames).toEqual([])
  expect(m.device.poll(64)).toBe(0)
}

describe.each(TRANSPORTS)('over %s', (name) => {
  beforeEach(() => {
    transport = name
    boot(VIRTIO_F_INDIRECT_DESC)
  })

  describe('ring/chains (virtio 1.4 §2.7.5): what is legal', () => {
    const frame = pattern(100)

    test('a header and a frame, framed in any way (§2.7.4)', { tags: ['2.7.4.1/any-framing'] }, () => {
      const whole = packet(m.ram, frame)
      const cuts = [[112], [12, 100], [5, 107], [1, 11, 100], [12, 1, 99], [20, 92], [3, 3, 3, 3, 50, 50]]
      for (const lengths of cuts) {
        let at = whole.address
        const elements = lengths.map((length) => {
          const element = { address: at, length }
          at += length
          return element
        })
        run(m.tx.chain(...elements))
        expect(link.frames.pop()).toEqual(frame)
      }
      expect(m.tx.reap()).toHaveLength(cuts.length)
      expect(m.device.faults.last()).toEqual([])
    })

    test('unaligned addresses', () => {
      for (let shift = 0; shift < 9; shift++) {
        const address = m.ram.alloc(300) + shift
        m.ram.bytes.fill(0, m.ram.at(address), m.ram.at(address) + 12)
        m.ram.bytes.set(frame, m.ram.at(address) + 12)
        run(m.tx.chain({ address, length: 112 }))
        expect(link.frames.pop()).toEqual(frame)
        run(m.tx.chain({ address, length: 12 }, { address: address + 12, length: 100 }))
        expect(link.frames.pop()).toEqual(frame)
      }
    })

    test('zero-length elements hold nothing, and their address is not looked at', () => {
      const { address } = packet(m.ram, frame)
      const nowhere = { address: 0xffff_ffff, length: 0 }
      run(m.tx.chain(nowhere, { address, length: 12 }, nowhere, { address: address + 12, length: 100 }, nowhere))
      expect(link.frames).toEqual([frame])
      expect(m.device.faults.last()).toEqual([])
    })

    test('zero or more direct elements followed by one indirect table; its WRITE flag is ignored', {
      tags: ['2.7.5.3.2/write-ignored', '2.7.5.3.2/direct-then-table'],
    }, () => {
      const { address } = packet(m.ram, frame)
      const [h, a, b] = [
        { address, length: 12 },
        { address: address + 12, length: 60 },
        { address: address + 72, length: 40 },
      ]
      run(m.tx.indirect([], [h, a, b]), m.tx.indirect([h], [a, b]), m.tx.indirect([h, a], [b], INDIRECT | WRITE))
      expect(link.frames).toEqual([frame, frame, frame])
      expect(m.tx.reap().map(({ id }) => id)).toEqual([0, 1, 3])
    })

    test('an indirect table may lie at any address, and hold more entries than its chain has', () => {
      const { address, length } = packet(m.ram, frame)
      for (const shift of [1, 2, 4, 8, 15]) {
        const table = m.ram.alloc(16 * 9 + 16) + shift
        m.tx.describe(0, address, length, 0, 0, table)
        m.tx.describe(shift % 8, table, 16 * 9, INDIRECT, 0)
        run(shift % 8)
        expect(link.frames.pop()).toEqual(frame)
      }
    })

    test('a chain of exactly queue-size elements, direct and indirect', () => {
      const { address } = packet(m.ram, frame)
      const eight = [12, 1, 1, 1, 1, 1, 1, 94].map((length, i, all) => ({
        address: address + all.slice(0, i).reduce((sum, n) => sum + n, 0),
        length,
      }))
      run(m.tx.chain(...eight))
      run(m.tx.indirect([], eight))
      run(m.tx.indirect(eight.slice(0, 2), eight.slice(2)))
      expect(link.frames).toEqual([frame, frame, frame])
    })
  })

  describe('ring/chains: what is not, breaks the queue and nothing else', () => {
    const ok = (): { address: number; length: number } => packet(m.ram, pattern(64))

    test('head beyond the queue', () => {
      run(8)
      expectBroken('head', { head: 8, value: 8, limit: 8 })
    })

    test('next beyond the table', () => {
      const { address, length } = ok()
      m.tx.describe(0, address, length, NEXT, 8)
      run(0)
      expectBroken('next', { head: 0, value: 8, limit: 8 })
    })

    test('a loop of one, and a loop of two', () => {
      const { address } = ok()
      m.tx.describe(0, address, 16, NEXT, 0)
      run(0)
      expectBroken('chain-length', { limit: 8 })
      boot()
      m.tx.describe(0, BASE, 16, NEXT, 1)
      m.tx.describe(1, BASE, 16, NEXT, 0)
      run(0)
      expectBroken('chain-length')
    })

    test('a chain that is longer than the queue through its indirect table', () => {
      const { address } = ok()
      const nine = Array.from({ length: 9 }, (_, i) => ({ address: address + i, length: 1 }))
      run(m.tx.indirect([], nine))
      expectBroken('chain-length', { value: 9, limit: 8 })
      boot(VIRTIO_F_INDIRECT_DESC)
      run(m.tx.indirect(nine.slice(0, 4), nine.slice(4)))
      expectBroken('chain-length', { value: 9 })
    })

    test('a self-referencing indirect table (v86 loops for ever)', () => {
      const table = m.ram.alloc(32)
      m.tx.describe(0, table, 16, INDIRECT, 0, table)
      m.tx.describe(0, table, 32, INDIRECT, 0)
      run(0)
      expectBroken('indirect-nested')
      boot(VIRTIO_F_INDIRECT_DESC)
      const loop = m.ram.alloc(32)
      m.tx.describe(0, BASE, 4, NEXT, 1, loop)
      m.tx.describe(1, BASE, 4, NEXT, 0, loop)
      m.tx.describe(0, loop, 32, INDIRECT, 0)
      run(0)
      expectBroken('chain-length')
    })

    test.each([0, 1, 15, 17, 24, 0x10_0010, 0xffff_fff0])('an indirect table of %i bytes', (length) => {
      m.tx.describe(0, m.ram.alloc(64), length, INDIRECT, 0)
      run(0)
      expectBroken('indirect-length', { value: length })
    })

    test('INDIRECT with NEXT; nested; without the feature; next beyond the table', () => {
      const { address, length } = ok()
      const table = m.tx.table([{ address, length }])
      m.tx.describe(0, table, 16, INDIRECT | NEXT, 1)
      run(0)
      expectBroken('indirect-next')
      boot(VIRTIO_F_INDIRECT_DESC)
      m.tx.describe(0, table, 16, INDIRECT, 0, table)
      m.tx.describe(0, table, 16, INDIRECT, 0)
      run(0)
      expectBroken('indirect-nested')
      boot()
      run(m.tx.indirect([], [{ address, length }]))
      expectBroken('indirect-feature')
      boot(VIRTIO_F_INDIRECT_DESC)
      const short = m.tx.table([{ address: BASE, length: 4 }])
      m.tx.describe(0, BASE, 4, NEXT, 1, short)
      m.tx.describe(0, short, 16, INDIRECT, 0)
      run(0)
      expectBroken('next', { value: 1, limit: 1 })
    })

    test('readable after writable (§2.7.4.2)', () => {
      const { address } = ok()
      run(m.tx.chain({ address, length: 4, w: true }, { address, length: 4 }))
      expectBroken('order')
      boot(VIRTIO_F_INDIRECT_DESC)
      run(m.tx.indirect([{ address, length: 4, w: true }], [{ address, length: 4 }]))
      expectBroken('order')
    })

    test('more than 2^32 bytes in a chain (vm-virtio)', () => {
      // A port on which one small window answers for every address, so that length alone decides.
      const three = Array.from({ length: 3 }, () => ({ address: BASE, length: 0x8000_0000 }))
      const small = m.device.port as BusWindows
      const [window] = small.windows
      small.resolve = function (length) {
        this.request[3] = 0
        return length
      }
      expect(window.base).toBe(BASE)
      run(m.tx.chain(...three))
      expectBroken('chain-bytes', { value: 3 * 2 ** 31, limit: 2 ** 32 })
    })

    test('buffers out of reach, wholly, partly, and beyond 2^53: the port has the fault', () => {
      const port = m.device.port as BusWindows
      run(m.tx.chain({ address: 0x1000, length: 64 }))
      expectBroken('buffer-unreachable')
      expect(port.faults.last().at(-1)).toMatchObject({ address: 0x1000, length: 64, access: 1, reason: 'unmapped' })
      boot()
      run(m.tx.chain({ address: BASE + RAM_BYTES - 8, length: 64 }))
      expectBroken('buffer-unreachable')
      expect((m.device.port as BusWindows).faults.last()).toMatchObject([{ address: BASE + RAM_BYTES, length: 56 }])
      boot()
      m.tx.describe(0, 0, 64, 0, 0)
      m.ram.set32(m.tx.desc, 0x10)
      m.ram.set32(m.tx.desc + 4, 0x20_0000)
      run(0)
      expectBroken('buffer-unreachable')
      expect((m.device.port as BusWindows).faults.last()).toMatchObject([
        { address: { high: 0x20_0000, low: 0x10 }, length: 64, reason: 'range' },
      ])
    })

    test('an indirect table beyond 2^53: the port has the fault', () => {
      m.tx.describe(0, 0, 64, INDIRECT, 0)
      m.ram.set32(m.tx.desc, 0x10)
      m.ram.set32(m.tx.desc + 4, 0x20_0000)
      run(0)
      expectBroken('indirect-unreachable')
      expect((m.device.port as BusWindows).faults.last()).toMatchObject([
        { address: { high: 0x20_0000, low: 0x10 }, length: 64, reason: 'range' },
      ])
    })

    test('the chains before a bad one are executed, none after it; a reset brings the queue back', () => {
      const frame = pattern(64)
      run(m.tx.chain(packet(m.ram, frame)), 8, m.tx.chain(packet(m.ram, frame)))
      expect(link.frames).toEqual([frame])
      expect(m.tx.reap()).toEqual([{ id: 0, length: 0 }])
      expect(m.driver.status & STATUS_DEVICE_NEEDS_RESET).not.toBe(0)
      const { rx, tx } = netMachineOver(transport, {}, 8, m.ram)
      m.driver.start([rx, tx])
      expect(m.driver.status & STATUS_DEVICE_NEEDS_RESET).toBe(0)
      expect(m.line.asserted).toBe(false)
      tx.offer(tx.chain(packet(m.ram, frame)))
      m.driver.kick(1)
      m.device.poll(64)
      expect(link.frames).toEqual([frame, frame])
      expect(tx.reap()).toEqual([{ id: 0, length: 0 }])
    })
  })

  describe('ring/available (§2.7.6)', () => {
    test('index jump larger than the queue (Firecracker, vm-virtio)', () => {
      m.ram.set16(m.tx.avail + 2, 9)
      m.driver.kick(1)
      m.device.poll(64)
      expectBroken('available-index', { head: -1, value: 9, limit: 8 })
    })

    test('an index that goes backwards', () => {
      const one = m.tx.chain(packet(m.ram, pattern(64)))
      m.tx.offer(one, one)
      m.driver.kick(1)
      m.device.poll(64)
      m.ram.set16(m.tx.avail + 2, 1)
      m.driver.kick(1)
      m.device.poll(64)
      expect(m.device.faults.last()).toMatchObject([{ kind: 'queue', reason: 'available-index', value: 1 }])
    })

    test('the ring wraps at its size, and the indices at 2^16', () => {
      const frame = pattern(64)
      const element = packet(m.ram, frame)
      let frames = 0
      for (let i = 0; i < 70_000; i += 7) {
        m.tx.describe(i % 8, element.address, element.length, 0, 0)
        m.tx.offer(...Array.from({ length: 7 }, () => i % 8))
        m.driver.kick(1)
        frames += m.device.poll(64)
        link.frames.length = 0
      }
      expect(frames).toBe(70_000)
      expect(m.tx.usedIndex).toBe(70_000 & 0xffff)
      expect(m.device.faults.count).toBe(0)
    })
  })

  describe('ring/immutability and ring/used (§2.7.5.1, §2.7.8.2)', () => {
    test('a device that was only given readable buffers writes nothing but the used ring', {
      tags: ['2.7.5.1/directions', '2.7.5.1/table-unwritten'],
    }, () => {
      boot()
      m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))), m.tx.chain(packet(m.ram, pattern(200, 3))))
      const before = m.ram.bytes.slice()
      m.ram.writes.length = 0
      m.driver.kick(1)
      m.device.poll(64)
      const from = m.ram.at(m.tx.used)
      const after = m.ram.bytes.slice()
      before.fill(0, from, from + 6 + 8 * 8)
      after.fill(0, from, from + 6 + 8 * 8)
      expect(after).toEqual(before)
      // Elements, then the index: once for each span.
      expect(m.ram.writes).toEqual([
        [m.tx.used + 4, 16],
        [m.tx.used + 2, 2],
      ])
    })

    test('buffers that cross from one window into the next', () => {
      const link2 = new RecordingLink()
      const machine = netMachineOver(transport, { link: link2 })
      const [range] = machine.ram.memory.ranges
      const at = machine.ram.alloc(4096, 4096)
      const cut = at + 40 - BASE
      const port = machine.device.port as BusWindows
      port.setWindows([
        { base: BASE, length: cut, region: range.region, offset: range.offset },
        { base: BASE + cut, length: RAM_BYTES - cut, region: range.region, offset: range.offset + cut },
      ])
      machine.driver.start([machine.rx, machine.tx])
      machine.ram.bytes.set(pattern(64), machine.ram.at(at) + 12)
      machine.tx.offer(machine.tx.chain({ address: at, length: 76 }))
      machine.rx.offer(machine.rx.chain({ address: at, length: 1526, w: true }))
      machine.driver.kick(1)
      machine.device.poll(64)
      expect(link2.frames).toEqual([pattern(64)])
      expect(machine.device.receive(pattern(80, 5))).toBe(true)
      machine.device.poll(64)
      expect(machine.rx.reap()).toEqual([{ id: 0, length: 92 }])
      expect(machine.ram.get(at + 12, 80)).toEqual(pattern(80, 5))
    })
  })

  describe('ring/geometry (§2.7)', () => {
    const start = (change: Partial<Ring>): unknown => {
      const machine = netMachineOver(transport)
      m = machine
      machine.driver.negotiate(32)
      machine.driver.queue(0, machine.rx)
      machine.driver.queue(1, Object.assign(machine.tx, change))
      return machine.device.faults.last().map((fault) => ('reason' in fault ? fault.reason : fault))
    }

    test.each([
      ['descriptor table not aligned to 16', { desc: BASE + 8 }, 'ring-alignment'],
      ['available ring not aligned to 2', { avail: BASE + 1 }, 'ring-alignment'],
      ['used ring not aligned to 4', { used: BASE + 2 }, 'ring-alignment'],
      ['descriptor table out of reach', { desc: 0x1000 }, 'ring-unreachable'],
      ['available ring out of reach', { avail: 0x1000 }, 'ring-unreachable'],
      ['used ring over the end', { used: BASE + RAM_BYTES - 64 }, 'ring-unreachable'],
      ['an address above 2^53', { desc: 2 ** 53 + BASE }, 'ring-unreachable'],
    ])('%s', (_, change, reason) => {
      expect(start(change)).toEqual([reason])
      expectNoStart()
    })

    // Over pci such a size is not taken in the first place.
    if (name === 'mmio')
      test.each([0, 3, 512])('size %i', (size) => {
        expect(start({ size })).toEqual(['queue-size'])
        expectNoStart()
      })

    const expectNoStart = (): void => {
      expect(m.device.status & STATUS_DEVICE_NEEDS_RESET).not.toBe(0)
      m.driver.driverOk()
      // It could not be said earlier.
      expect(m.driver.acknowledge()).toBe(INTERRUPT_CONFIGURATION)
      expect(m.device.poll(64)).toBe(0)
    }

    test('a used ring that may not be written', () => {
      const machine = netMachineOver(transport)
      m = machine
      const port = machine.device.port as BusWindows
      port.setWindows(port.windows.map((window) => ({ ...window, access: 1 })))
      machine.driver.negotiate(32)
      machine.driver.queue(0, machine.rx)
      expect(machine.device.faults.last()).toMatchObject([{ reason: 'ring-unreachable' }])
      expect(port.faults.last()).toMatchObject([{ reason: 'permission', access: 2 }])
    })

    test('rings are resolved anew when the port changed', () => {
      const port = m.device.port as BusWindows
      const [window] = port.windows
      run(m.tx.chain(packet(m.ram, pattern(64))))
      // The platform moves guest memory to a copy elsewhere in the buffer.
      const shift = 0x8000
      m.ram.bytes.copyWithin(window.offset + shift, window.offset, window.offset + 0x8000)
      port.setWindows([{ ...window, length: 0x8000, offset: window.offset + shift }])
      m.ram.bytes.fill(0, window.offset, window.offset + 0x8000)
      const moved = m.tx.avail + shift
      m.ram.set16(moved + 4 + 2, 0)
      m.ram.set16(moved + 2, 2)
      m.driver.kick(1)
      m.device.poll(64)
      expect(link.frames).toHaveLength(2)
      expect(m.ram.u16(m.tx.used + shift + 2)).toBe(2)
      port.setWindows([])
      m.driver.kick(1)
      m.device.poll(64)
      expect(m.device.faults.last().map((fault) => 'reason' in fault && fault.reason)).toContain('ring-unreachable')
    })
  })
})

test('everything() is one class with one window', () => {
  expect(everything(m.ram.memory)).toBeInstanceOf(BusWindows)
})
