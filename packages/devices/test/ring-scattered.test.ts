// Rings and indirect tables that lie on scattered pages: contiguous for the device (§2.7), and not in memory. So Linux
// allocates them behind an IOMMU.
import { beforeEach, describe, expect, test } from 'vitest'
import { type BlockRequest, type BusWindow, BusWindows, eachFrame, LoopbackLink } from '../src/index.ts'
import {
  type AnyBlkMachine,
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
import { BASE, type Element, OFFSET, pattern, Ram, type Ring } from './support/guest.ts'

const PAGE = 4096
const BYTES = 4 << 20
const PAGES = BYTES / PAGE

/** RAM in which the device's pages stand in another order: no two neighbours are neighbours in memory. */
class ScatteredRam extends Ram {
  constructor(wasm = false) {
    super(BYTES, wasm)
  }

  override at(address: number): number {
    const page = Math.floor((address - BASE) / PAGE)
    return OFFSET + place(page) * PAGE + (address % PAGE)
  }

  windows(): BusWindow[] {
    const [region] = this.memory.regions
    return Array.from({ length: PAGES }, (_, page) => ({
      base: BASE + page * PAGE,
      length: PAGE,
      region,
      offset: OFFSET + place(page) * PAGE,
    }))
  }
}

const place = (page: number): number => (page * 5 + 3) % PAGES

let ram: ScatteredRam
let port: BusWindows

beforeEach(() => {
  ram = new ScatteredRam()
  port = new BusWindows('p', ram.windows())
})

/** A frame that lies in one page. */
const frame = (bytes: Uint8Array): { address: number; length: number } => packet(ram, bytes, 2048)

describe.each(TRANSPORTS)('rings on scattered pages: over %s', (transport: TransportName) => {
  test.each([
    ['', []],
    [', event index', [29]],
    [', event index, in order', [29, 35]],
  ] as [string, number[]][])('net, queues of 1,024, several laps%s', (_, features) => {
    const link = new LoopbackLink()
    const m = netMachineOver(transport, { port, link, queueSize: 1024, offer: [35] }, 1024, ram)
    m.driver.start([m.rx, m.tx], ...features)
    const buffers = Array.from({ length: 8 }, () => ram.alloc(2048, 2048))
    const frames = Array.from({ length: 8 }, (_, i) => frame(pattern(60 + i, i)))
    for (let lap = 0; lap < 400; lap++) {
      m.rx.offer(...buffers.map((address) => m.rx.chain({ address, length: 1526, w: true })))
      m.tx.offer(...frames.map((element) => m.tx.chain(element)))
      m.driver.kick(1)
      while (m.device.poll(64) > 0);
      expect(m.tx.reap()).toHaveLength(8)
      expect(m.rx.reap().map(({ length }) => length)).toEqual(frames.map(({ length }) => length))
      expect(buffers.map((at) => ram.get(at + 12, 60))).toEqual(buffers.map((_, i) => pattern(60 + i, i).slice(0, 60)))
    }
    expect(m.device.faults.count).toBe(0)
  })

  test('blk, with chains over the whole table', () => {
    const m = blkMachineOver(transport, { port, queueSize: 1024 }, 1024, ram)
    m.disk.fill(0x77)
    m.driver.start([m.ring], 9, 29)
    const head = header(ram, 0)
    const cell = status(ram)
    const data = ram.alloc(512, 512)
    for (let i = 0; i < 1000; i++) {
      ram.bytes.fill(0, ram.at(data), ram.at(data) + 512)
      m.ring.offer(m.ring.chain(head, { address: data, length: 512, w: true }, cell))
      m.driver.kick(0)
      m.device.poll(64)
      expect(m.ring.reap()).toMatchObject([{ length: 513 }])
      expect(ram.get(data + 511, 1)[0]).toBe(0x77)
    }
  })

  test.each([16, 8, 4, 1])('an indirect table over several pages, aligned to %i (§2.7.5.3)', (align) => {
    const link = new RecordingLink()
    const elements = 600
    const source = ram.alloc(2048, 2048)
    ram.bytes.set(pattern(elements), ram.at(source))
    // 12 bytes of header, then one byte from each element; byte by byte, since no field of it need lie in one page.
    const table = ram.alloc(16 * elements + 4096, 4096) + 4096 - 16 * 3 + (align % 16)
    const bytes = new Uint8Array(16 * elements)
    const view = new DataView(bytes.buffer)
    const zeros = ram.alloc(16, 16)
    for (let i = 0; i < elements; i++) {
      view.setUint32(16 * i, i < 12 ? zeros : source + i, true)
      view.setUint32(16 * i + 8, 1, true)
      view.setUint16(16 * i + 12, i === elements - 1 ? 0 : 1, true)
      view.setUint16(16 * i + 14, i + 1, true)
    }
    for (let i = 0; i < bytes.length; i++) ram.bytes[ram.at(table + i)] = bytes[i]
    const m = netMachineOver(transport, { port, link, queueSize: 1024 }, 1024, ram)
    m.driver.start([m.rx, m.tx], 28, 29)
    m.tx.describe(0, table, 16 * elements, 4, 0)
    m.tx.offer(0)
    m.driver.kick(1)
    m.device.poll(64)
    expect(m.device.faults.last()).toEqual([])
    expect(link.frames).toEqual([pattern(elements).slice(12)])
  })

  test('the mappings may change under them, and a device may be saved and restored', () => {
    const link = new RecordingLink()
    const m = netMachineOver(transport, { port, link, queueSize: 1024 }, 1024, ram)
    m.driver.start([m.rx, m.tx], 29)
    const send = (device: typeof m.device, length: number): void => {
      m.tx.offer(m.tx.chain(frame(pattern(length))))
      m.driver.kick(1)
      device.poll(64)
    }
    for (let i = 0; i < 10; i++) {
      send(m.device, 60 + i)
      port.setWindows(ram.windows())
    }
    const other = netMachineOver(transport, { port, link, queueSize: 1024 }, 8, ram)
    m.tx.offer(m.tx.chain(frame(pattern(99))))
    m.driver.kick(1)
    other.device.restore(m.device.save())
    other.device.poll(64)
    expect(link.frames.map(({ length }) => length)).toEqual([60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 99])
    expect(m.tx.reap()).toHaveLength(11)
  })

  // 590 KB in 145 pages are worth 11 chains, so that a poll of 64 copies them 6 times.
  test.each(['frames of one descriptor', 'frames of two', 'requests'])(
    'each copy of a large ring counts in the budget, though its driver adds %s one by one',
    (what) => {
      const size = 32768
      const options = { port, queueSize: size }
      const sent = frame(pattern(60))
      const [front, back] = [
        { ...sent, length: 40 },
        { address: sent.address + 40, length: sent.length - 40 },
      ]
      let left = 40
      let ring: Ring
      let elements: Element[]
      const again = (): void => {
        if (left-- > 0) ring.offer(ring.chain(...elements))
      }
      const flush = (r: BlockRequest): void => {
        r.done(0)
        again()
      }
      let m: AnyNetMachine | AnyBlkMachine
      if (what === 'requests') {
        const store = { capacity: 512, read: flush, write: flush, flush }
        const blk = blkMachineOver(transport, { ...options, store }, size, ram)
        ring = blk.ring
        elements = [header(ram, 4), status(ram)]
        blk.driver.start([ring], 9, 29)
        m = blk
      } else {
        const net = netMachineOver(transport, { ...options, link: { transmit: eachFrame(again) } }, size, ram)
        ring = net.tx
        elements = what === 'frames of two' ? [front, back] : [sent]
        net.driver.start([net.rx, ring], 29)
        m = net
      }
      again()
      m.driver.kick(what === 'requests' ? 0 : 1)
      m.device.poll(0)
      expect(m.device.poll(64)).toBeGreaterThanOrEqual(64)
      expect(ring.usedIndex).toBeGreaterThan(0)
      expect(ring.usedIndex).toBeLessThanOrEqual(6)
      while (m.device.poll(64) > 0);
      expect(ring.usedIndex).toBe(40)
    },
  )

  test('a page that is missing is a fault', () => {
    for (const area of ['desc', 'avail', 'used'] as const) {
      const m = netMachineOver(transport, { port, queueSize: 1024 }, 1024, ram)
      const last = Math.floor((m.tx[area] + { desc: 16384, avail: 2054, used: 8198 }[area] - 1 - BASE) / PAGE)
      port.setWindows(ram.windows().filter((_, page) => page !== last))
      m.driver.start([m.rx, m.tx], 29)
      expect(m.device.faults.last()).toContainEqual(expect.objectContaining({ reason: 'ring-unreachable' }))
      port.setWindows(ram.windows())
    }
  })

  test('mappings of single bytes are not followed without end', () => {
    const m = netMachineOver(transport, { port, queueSize: 1024 }, 1024, ram)
    const [region] = ram.memory.regions
    const at = (ring: Ring): BusWindow[] =>
      Array.from({ length: 16384 }, (_, i) => ({
        base: ring.desc + i,
        length: 1,
        region,
        offset: ram.at(ring.desc + i),
      }))
    let resolves = 0
    port.setWindows(at(m.tx))
    const { resolve } = port
    port.resolve = (length, access) => {
      resolves++
      return resolve.call(port, length, access)
    }
    m.driver.negotiate(32)
    m.driver.queue(1, m.tx)
    expect(m.device.faults.last()).toMatchObject([{ reason: 'ring-unreachable' }])
    expect(resolves).toBeLessThan(2100)
  })

  test('what is written to each piece is reported', () => {
    const m = netMachineOver(transport, { port, queueSize: 1024 }, 1024, ram)
    m.driver.start([m.rx, m.tx], 29)
    ram.writes.length = 0
    for (let i = 0; i < 600; i++) {
      m.tx.offer(m.tx.chain(frame(pattern(60))))
      if (i % 30 === 29) {
        m.driver.kick(1)
        m.device.poll(64)
      }
    }
    const elements = ram.writes.filter(([, length]) => length > 2)
    expect(elements.reduce((sum, [, length]) => sum + length, 0)).toBe(600 * 8)
  })
})
