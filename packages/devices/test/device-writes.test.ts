// `onDeviceWrite` is foreign code that a device runs in the middle of its work. It may grow the memory, reset the device
// or throw.
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { NetDeviceOptions } from '../src/index.ts'
import {
  type AnyNetMachine,
  blkMachineOver,
  header,
  netMachineOver,
  packet,
  RecordingLink,
  status,
  TRANSPORTS,
  type TransportName,
} from './support/devices.ts'
import { surfaced } from './support/event-loop.ts'
import { BASE, pattern, Ram } from './support/guest.ts'
import { ATTACH, IommuMachine, MAP, pack } from './support/iommu.ts'

const IN = 0
const GET_ID = 8

let transport: TransportName
let ram: Ram

describe.each(TRANSPORTS)('what follows a report of a write is not lost: over %s', (name) => {
  beforeAll(() => {
    transport = name
  })
  beforeEach(() => {
    ram = new Ram(undefined, true)
    ram.hook = () => ram.wasm?.grow(1)
  })

  function net(options: Partial<NetDeviceOptions> = {}, ...features: number[]): AnyNetMachine {
    const m = netMachineOver(transport, options, 8, ram)
    m.driver.start([m.rx, m.tx], ...features)
    return m
  }

  function post(m: AnyNetMachine, ...lengths: number[]): number[] {
    return lengths.map((length) => {
      const address = ram.alloc(length)
      m.rx.offer(m.rx.chain({ address, length, w: true }))
      return address
    })
  }

  test.each([
    ['one buffer', [1526], [96]],
    ['merged buffers', [50, 50, 50], [50, 46]],
  ])('receive, %s: header, frame and used elements', (_, lengths, written) => {
    const m = net({}, 15, 29)
    const buffers = post(m, ...lengths)
    m.device.receive(pattern(84))
    m.device.poll(64)
    expect(m.rx.reap().map(({ length }) => length)).toEqual(written)
    const bytes = written.flatMap((length, i) => [...ram.get(buffers[i], length)])
    expect(bytes.slice(12)).toEqual([...pattern(84)])
    expect(bytes.slice(10, 12)).toEqual([written.length, 0])
  })

  test('receive: a frame that lies in the memory that grows', () => {
    const m = net({})
    const [at] = post(m, 1526)
    const source = ram.put(pattern(84))
    m.device.receive(new Uint8Array(ram.buffer, ram.at(source), 84))
    m.device.poll(64)
    expect(ram.get(at + 12, 84)).toEqual(pattern(84))
  })

  test('receive: a header over several descriptors', () => {
    const m = net({})
    const parts = [5, 7, 100].map((length) => ({ address: ram.alloc(length), length, w: true }))
    m.rx.offer(m.rx.chain(...parts))
    m.device.receive(pattern(84))
    m.device.poll(64)
    expect(ram.get(parts[2].address, 84)).toEqual(pattern(84))
    expect(m.rx.reap()).toEqual([{ id: 0, length: 96 }])
  })

  test('transmit goes on, before and after', () => {
    const link = new RecordingLink()
    const m = net({ link }, 29)
    for (let i = 0; i < 3; i++) {
      m.tx.offer(m.tx.chain(packet(ram, pattern(60 + i))), m.tx.chain(packet(ram, pattern(70 + i))))
      m.driver.kick(1)
      m.device.poll(64)
    }
    expect(link.frames.map(({ length }) => length)).toEqual([60, 70, 61, 71, 62, 72])
    expect(m.tx.reap()).toHaveLength(6)
  })

  test.each([IN, GET_ID, 99])('block request of type %i', (type) => {
    const m = blkMachineOver(transport, {}, 16, ram)
    m.disk.fill(0x77)
    m.driver.start([m.ring], 9, 29)
    const length = type === GET_ID ? 20 : 512
    const cells: number[] = []
    const parts: number[] = []
    for (let i = 0; i < 3; i++) {
      const halves = [0, 1].map(() => ({
        address: ram.put(new Uint8Array(length / 2).fill(0x55)),
        length: length / 2,
        w: true,
      }))
      const cell = status(ram)
      cells.push(cell.address)
      parts.push(...halves.map(({ address }) => address))
      m.ring.offer(m.ring.chain(header(ram, type), ...halves, cell))
    }
    m.driver.kick(0)
    m.device.poll(64)
    expect(m.ring.reap().map((used) => used.length)).toEqual([length + 1, length + 1, length + 1])
    expect(cells.map((cell) => ram.get(cell, 1)[0])).toEqual(new Array(3).fill(type === 99 ? 2 : 0))
    for (const at of parts) expect(ram.get(at, length / 2).every((byte) => byte !== 0x55)).toBe(true)
  })

  test('IOMMU: a batch of requests, a probe over several descriptors, and fault reports', () => {
    const m = new IommuMachine({}, 64, ram)
    const port = m.endpoint(1)
    m.start()
    const requests = [
      pack(ATTACH, [1, 1, 0, 0]),
      pack(MAP, [1, 0x1000, 0, 0x1fff, 0, BASE, 0, 3]),
      pack(MAP, [1, 0x2000, 0, 0x2fff, 0, BASE, 0, 3]),
    ]
    const tails = requests.map((bytes) => {
      const tail = ram.put([9, 9, 9, 9])
      m.requests.offer(
        m.requests.chain({ address: ram.put(bytes), length: bytes.length }, { address: tail, length: 4, w: true }),
      )
      return tail
    })
    const parts = [5, 507, 4].map((length) => ({
      address: ram.put(new Uint8Array(length).fill(0x55)),
      length,
      w: true,
    }))
    const probe = new Uint8Array(72)
    probe.set([5, 0, 0, 0, 1])
    m.requests.offer(m.requests.chain({ address: ram.put(probe), length: 72 }, ...parts))
    const events = [0, 1].map(() => ram.alloc(24))
    m.events.offer(...events.map((address) => m.events.chain({ address, length: 24, w: true })))
    m.driver.kick(0)
    m.device.poll(64)
    expect(tails.map((tail) => ram.get(tail, 1)[0])).toEqual([0, 0, 0])
    expect([ram.get(parts[1].address, 507).every((byte) => byte === 0), ram.get(parts[2].address, 1)[0]]).toEqual([
      true,
      0,
    ])
    expect(m.requests.reap()).toHaveLength(4)
    for (const address of [0x5000, 0x6000]) {
      port.request[0] = address
      expect(port.resolve(4, 1)).toBe(0)
    }
    m.device.poll(64)
    expect(m.events.reap()).toHaveLength(2)
    expect(events.map((at) => ram.u32(at + 16))).toEqual([0x5000, 0x6000])
  })

  test('the hook may reset the device: nothing touches memory afterwards', () => {
    const disk = blkMachineOver(transport, {}, 8, ram)
    disk.driver.start([disk.ring], 9)
    for (let i = 0; i < 2; i++) {
      disk.ring.offer(disk.ring.chain(header(ram, IN), { address: ram.alloc(512), length: 512, w: true }, status(ram)))
    }
    ram.hook = () => disk.device.reset()
    disk.driver.kick(0)
    disk.device.poll(64)
    expect([disk.ring.usedIndex, disk.device.inFlight, disk.device.status]).toEqual([0, 0, 0])

    const m = net()
    post(m, 1526)
    ram.hook = () => m.device.reset()
    m.device.receive(pattern(60))
    m.device.poll(64)
    expect([m.rx.usedIndex, m.device.status]).toEqual([0, 0])
  })

  test('the hook may reset the device when used elements are published: nobody is interrupted for them', () => {
    const disk = blkMachineOver(transport, {}, 8, ram)
    disk.driver.start([disk.ring], 9)
    const cell = status(ram)
    disk.ring.offer(disk.ring.chain(header(ram, 4), cell))
    ram.hook = () => {
      if (ram.writes.at(-1)?.[0] !== cell.address) disk.driver.status = 0
    }
    disk.driver.kick(0)
    disk.device.poll(64)
    expect([disk.driver.status, disk.driver.interrupting]).toEqual([0, false])
  })

  test('the hook may call the device: it is refused, and the device is due', () => {
    let told = 0
    const m = net({ onWork: () => told++ })
    const [at] = post(m, 1526, 1526)
    const answers: boolean[] = []
    ram.hook = () => {
      ram.hook = null
      told = 0
      answers.push(m.device.receive(pattern(99)), m.device.poll(64) > 0)
    }
    m.device.poll(64)
    m.device.receive(pattern(60))
    expect([answers, told > 0]).toEqual([[false, false], true])
    m.device.poll(64)
    expect(m.rx.reap()).toEqual([{ id: 0, length: 72 }])
    expect(ram.get(at + 12, 60)).toEqual(pattern(60))
  })

  test('what the hook throws surfaces in a microtask', async () => {
    const messages = await surfaced(() => {
      ram.hook = () => {
        throw new Error('hook')
      }
      const m = net({}, 29)
      const [at] = post(m, 1526)
      expect(m.device.receive(pattern(60))).toBe(true)
      m.device.poll(64)
      expect(m.rx.reap()).toEqual([{ id: 0, length: 72 }])
      expect(ram.get(at + 12, 60)).toEqual(pattern(60))
    })
    expect(new Set(messages)).toEqual(new Set(['hook']))
  })
})
