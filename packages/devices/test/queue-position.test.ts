// A queue that another server takes over, as a vhost-user back end is told to: stopped without loss, started where it
// stood.
import { beforeEach, describe, expect, test } from 'vitest'
import { type BlockRequest, BusWindows } from '../src/index.ts'
import {
  type AnyBlkMachine,
  type AnyNetMachine,
  blkMachineOver,
  DISK_BYTES,
  header,
  netMachineOver,
  packet,
  RecordingLink,
  status,
  TRANSPORTS,
  type TransportName,
} from './support/devices.ts'
import { BASE, OFFSET, pattern, RAM_BYTES, Ram } from './support/guest.ts'
import type { PciDriver } from './support/pci.ts'

describe.each(TRANSPORTS)('stopQueue and enableQueue with a position: over %s', (transport: TransportName) => {
  let waiting: BlockRequest[]
  let m: AnyBlkMachine

  beforeEach(() => {
    waiting = []
    const take = (r: BlockRequest): void => void waiting.push(r)
    m = blkMachineOver(transport, { store: { capacity: DISK_BYTES, read: take, write: take, flush: take } })
    m.driver.start([m.ring], 9, 29)
  })

  function read(): () => number {
    const cell = status(m.ram)
    m.ring.offer(m.ring.chain(header(m.ram, 0), { address: m.ram.alloc(512), length: 512, w: true }, cell))
    m.driver.kick(0)
    return () => m.ram.get(cell.address, 1)[0]
  }

  test('what is in flight completes, nothing new is taken, and the queue goes on where it stood', () => {
    const { device } = m
    const [queue] = device.queues
    const states = [read(), read()]
    device.poll(64)
    expect(waiting).toHaveLength(2)
    expect(device.stopQueue(queue)).toBeNull()
    states.push(read())
    device.poll(64)
    waiting[0].done(0)
    device.poll(64)
    expect([waiting.length, device.stopQueue(queue), m.ring.usedIndex]).toEqual([2, null, 1])
    waiting[1].done(0)
    device.poll(0)
    expect(device.stopQueue(queue)).toEqual({ next: 2, used: 2 })
    expect([queue.ready, m.ring.usedIndex, device.inFlight]).toEqual([false, 2, 0])
    expect(device.poll(64)).toBe(0)
    expect(device.enableQueue(queue, { next: 2 })).toBe(true)
    device.poll(64)
    expect(waiting).toHaveLength(3)
    waiting[2].done(0)
    device.poll(64)
    expect([states.map((state) => state()), m.ring.reap().length]).toEqual([[0, 0, 0], 3])
  })

  test('another device goes on with it; frames are neither lost nor doubled', () => {
    const link = new RecordingLink()
    const a = netMachineOver(transport, { link })
    a.driver.start([a.rx, a.tx], 15, 29)
    const send = (length: number): void => {
      a.tx.offer(a.tx.chain(packet(a.ram, pattern(length))))
      a.driver.kick(1)
    }
    for (let i = 0; i < 3; i++) {
      a.rx.offer(a.rx.chain({ address: a.ram.alloc(100), length: 100, w: true }))
      send(60 + i)
    }
    a.device.poll(64)
    send(70)
    expect(a.device.receive(pattern(60))).toBe(true)
    // Two chains were walked for this one, and go back.
    expect(a.device.receive(pattern(500))).toBe(false)
    const positions = a.device.queues.map((queue) => a.device.stopQueue(queue))
    expect(positions).toEqual([
      { next: 1, used: 1 },
      { next: 3, used: 3 },
    ])
    expect(a.rx.usedIndex).toBe(1)

    const b = netMachineOver(transport, { link, name: 'b' }, 8, a.ram)
    b.driver.negotiate(15, 29, 32)
    ;[a.rx, a.tx].forEach((ring, i) => {
      b.driver.setQueue(i, ring)
      expect(b.device.enableQueue(b.device.queues[i], positions[i] ?? {})).toBe(true)
    })
    b.driver.driverOk()
    expect(b.device.receive(pattern(150))).toBe(true)
    b.device.poll(64)
    expect(link.frames.map(({ length }) => length)).toEqual([60, 61, 62, 70])
    expect(a.tx.reap()).toHaveLength(4)
    expect(a.rx.reap().map(({ id }) => id)).toEqual([0, 1, 2])
  })

  test('a queue that was stopped is not resolved again', () => {
    const ram = new Ram()
    const port = new BusWindows('p', [{ base: BASE, length: RAM_BYTES, region: ram.memory.regions[0], offset: OFFSET }])
    const n = netMachineOver(transport, { port }, 8, ram)
    n.driver.start([n.rx, n.tx])
    for (const queue of n.device.queues) expect(n.device.stopQueue(queue)).toEqual({ next: 0, used: 0 })
    let resolves = 0
    port.resolve = () => {
      resolves++
      return 0
    }
    port.setWindows(port.windows)
    n.device.poll(0)
    n.device.poll(64)
    expect([resolves, n.device.live]).toEqual([0, true])
  })

  test('a device that is not live, or may not access memory, writes nothing for it', () => {
    const stops: [string, (n: AnyNetMachine) => void][] = [
      ['DEVICE_NEEDS_RESET', (n) => n.device.needsReset('test')],
      ['FAILED', (n) => n.device.writeStatus(n.device.status | 0x80)],
      ['a ring out of reach', (n) => (n.device.port as BusWindows).setWindows([])],
    ]
    if (transport === 'pci') stops.push(['no Bus Master Enable', (n) => ((n.driver as PciDriver).command = 2)])
    for (const [name, stop] of stops) {
      const ram = new Ram()
      const window = { base: BASE, length: RAM_BYTES, region: ram.memory.regions[0], offset: OFFSET }
      const n = netMachineOver(transport, { port: new BusWindows('p', [window]) }, 8, ram)
      n.driver.start([n.rx, n.tx])
      n.rx.offer(n.rx.chain({ address: ram.alloc(100), length: 100, w: true }))
      n.driver.kick(0)
      n.device.poll(64)
      expect(n.device.receive(pattern(60))).toBe(true)
      stop(n)
      const before = ram.bytes.slice()
      expect([name, n.device.stopQueue(n.device.queues[0])]).toEqual([name, null])
      expect(ram.bytes).toEqual(before)
      if (name !== 'no Bus Master Enable') continue
      // It went on as it was.
      ;(n.driver as PciDriver).command = 6
      n.device.poll(64)
      expect([n.rx.usedIndex, n.device.stopQueue(n.device.queues[0])]).toEqual([1, { next: 1, used: 1 }])
    }
  })

  test('positions that cannot be', () => {
    const { device } = m
    const [queue] = device.queues
    device.stopQueue(queue)
    for (const start of [{ next: -1 }, { next: 65536 }, { next: 0.5 }, { used: Number.NaN }]) {
      expect(() => device.enableQueue(queue, start)).toThrow(expect.objectContaining({ code: 'DEVICE_OPTION' }))
      expect(queue.ready).toBe(false)
    }
    expect(device.stopQueue(queue)).toBeNull()
  })
})
