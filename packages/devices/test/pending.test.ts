// A port that does not know an answer yet: what needs it stays in the ring, nothing is lost, and nothing is a fault.
import { ACCESS_READ } from '@guestdma/memory'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { type BlockRequest, BusWindows, MemoryBlockStore, type VirtioDevice } from '../src/index.ts'
import {
  type AnyBlkMachine,
  blkMachineOver,
  header,
  netMachineOver,
  packet,
  RecordingLink,
  status,
} from './support/devices.ts'
import { BASE, OFFSET, pattern, RAM_BYTES, Ram } from './support/guest.ts'

const PAGE = 4096

/** Reaches all of RAM, page by page, once it was told where a page is. */
class AskingPort extends BusWindows {
  pending = false
  readonly known = new Set<number>()
  readonly asked = new Set<number>()

  override resolve(length: number, access: 1 | 2): number {
    const page = Math.floor(this.request[0] / PAGE)
    this.pending = !this.known.has(page)
    if (this.pending) {
      this.asked.add(page)
      return 0
    }
    const granted = super.resolve(Math.min(length, (page + 1) * PAGE - this.request[0]), access)
    this.window[1] = 0
    return granted
  }

  forget(): void {
    this.known.clear()
    this.epoch++
  }

  /** Asks anew for the pages of [from, to). */
  forgetBetween(from: number, to: number): void {
    for (let page = Math.floor(from / PAGE); page * PAGE < to; page++) this.known.delete(page)
    this.epoch++
  }

  learnAll(): void {
    for (let page = BASE / PAGE; page < (BASE + RAM_BYTES) / PAGE; page++) this.known.add(page)
  }
}

let ram: Ram
let port: AskingPort

beforeEach(() => {
  ram = new Ram()
  port = new AskingPort('p', [{ base: BASE, length: RAM_BYTES, region: ram.memory.regions[0], offset: OFFSET }])
  port.learnAll()
})

/** Memory in a page of its own. */
const apart = (length: number): number => ram.alloc(length, PAGE)

/** Answers one page after the other, as long as the device asks. Returns how often it asked. */
function answerAll(device: VirtioDevice): number {
  for (let rounds = 0; ; rounds++) {
    device.poll(64)
    if (port.asked.size === 0) return rounds
    for (const page of port.asked) port.known.add(page)
    port.asked.clear()
    for (const queue of device.queues) device.notify(queue)
  }
}

describe('a block device', () => {
  let m: AnyBlkMachine
  // Behind the memory of the ring.
  let ringEnd: number

  function boot(store?: MemoryBlockStore): void {
    m = blkMachineOver('mmio', { port, ...(store === undefined ? {} : { store }) }, 8, ram)
    m.disk.fill(0x5a)
    m.driver.start([m.ring], 28)
  }

  function read(indirect = false): { data: number; cell: number } {
    ram.alloc(0, PAGE)
    const head = header(ram, 0)
    const data = apart(1024)
    ram.alloc(0, PAGE)
    const cell = status(ram)
    ram.alloc(0, PAGE)
    const elements = [head, { address: data, length: 1024, w: true }, cell]
    m.ring.offer(indirect ? m.ring.indirect([], elements) : m.ring.chain(...elements))
    m.driver.kick(0)
    return { data, cell: cell.address }
  }

  test.each([false, true])(
    'asks for all buffers of a chain at once, and executes a request once: indirect %s',
    (indirect) => {
      boot()
      const { data, cell } = read(indirect)
      port.known.clear()
      expect(m.device.poll(64)).toBe(0)
      expect([m.ring.usedIndex, port.asked.size]).toEqual([0, indirect ? 1 : 3])
      expect(answerAll(m.device)).toBe(indirect ? 2 : 1)
      expect(m.ring.reap()).toMatchObject([{ length: 1025 }])
      expect([ram.get(data, 1024).every((byte) => byte === 0x5a), ram.get(cell, 1)[0]]).toEqual([true, 0])
      expect([m.device.counters.reads, m.device.faults.count, port.faults.count]).toEqual([1, 0, 0])
    },
  )

  test('does nothing while it does not know where its ring is', () => {
    boot()
    read()
    port.forget()
    expect(m.device.poll(64)).toBe(0)
    expect([m.device.live, m.ring.usedIndex]).toEqual([true, 0])
    // For the ring, and then for the request.
    expect(answerAll(m.device)).toBe(2)
    expect(m.ring.reap()).toHaveLength(1)
    expect(m.device.faults.count).toBe(0)
  })

  test('is stopped without its ring, and stands where it stood', () => {
    boot()
    read()
    answerAll(m.device)
    read()
    port.forget()
    m.device.poll(64)
    expect(m.device.stopQueue(m.device.queues[0])).toEqual({ next: 1, used: 1 })
    expect(m.device.faults.count).toBe(0)
  })

  test('takes no ring up before it knows where that is', () => {
    boot()
    const [queue] = m.device.queues
    m.device.disableQueue(queue)
    port.known.clear()
    expect([m.device.enableQueue(queue, { next: 0 }), queue.ready]).toEqual([false, false])
    for (const page of port.asked) port.known.add(page)
    expect(m.device.enableQueue(queue, { next: 0 })).toBe(true)
    port.asked.clear()
    read()
    answerAll(m.device)
    expect(m.ring.reap()).toHaveLength(1)
  })

  test('an answer of its store waits for the place where it goes', () => {
    const asked: BlockRequest[] = []
    class Later extends MemoryBlockStore {
      override read(request: BlockRequest): void {
        asked.push(request)
      }
    }
    const store = new Later(new Uint8Array(4096).fill(7))
    boot(store)
    const { data } = read()
    m.device.poll(64)
    port.forget()
    MemoryBlockStore.prototype.read.call(store, asked[0])
    m.device.poll(64)
    expect([m.ring.usedIndex, m.device.inFlight]).toEqual([0, 1])
    answerAll(m.device)
    expect(m.ring.reap()).toMatchObject([{ length: 1025 }])
    expect([ram.get(data, 1)[0], m.device.inFlight, m.device.faults.count]).toEqual([7, 0, 0])
  })

  test('executes no more of a batch once it does not know the ring any more', () => {
    class Forgetting extends MemoryBlockStore {
      override read(request: BlockRequest): void {
        super.read(request)
        if (this.counters.reads === 1) port.forgetBetween(BASE, ringEnd)
      }
    }
    const store = new Forgetting(new Uint8Array(4096).fill(7))
    boot(store)
    ringEnd = ram.alloc(0, PAGE)
    const requests = [read(), read()]
    const before = ram.memory.regions[0].u8.slice()
    m.device.poll(64)
    expect([store.counters.reads, m.ring.usedIndex]).toEqual([1, 0])
    expect(ram.memory.regions[0].u8).toEqual(before)
    answerAll(m.device)
    expect([store.counters.reads, m.ring.reap().length, m.device.inFlight]).toEqual([2, 2, 0])
    expect(requests.map(({ data }) => ram.get(data, 1)[0])).toEqual([7, 7])
    expect(m.device.faults.count).toBe(0)
  })

  test('marks nothing used in a ring that it does not know any more: two answers, and a flush between them', () => {
    const waiting: BlockRequest[] = []
    class Later extends MemoryBlockStore {
      override write(request: BlockRequest): void {
        waiting.push(request)
      }
      override flush(request: BlockRequest): void {
        if (this.counters.flushes === 0) port.forgetBetween(BASE, ringEnd)
        super.flush(request)
      }
    }
    boot(new Later(new Uint8Array(4096)))
    ringEnd = ram.alloc(0, PAGE)
    for (let i = 0; i < 2; i++) {
      const cell = status(ram)
      m.ring.offer(m.ring.chain(header(ram, 1), { address: apart(512), length: 512 }, cell))
    }
    m.driver.kick(0)
    m.device.poll(64)
    const [ring] = ram.memory.regions
    for (const request of waiting) request.done(0)
    const before = ring.u8.slice()
    m.device.poll(64)
    expect(ring.u8).toEqual(before)
    answerAll(m.device)
    expect(m.ring.reap().map(({ length }) => length)).toEqual([1, 1])
    expect([m.device.inFlight, m.device.faults.count]).toEqual([0, 0])
  })

  test('a refusal is a fault as ever', () => {
    boot()
    m.ring.offer(m.ring.chain(header(ram, 0), { address: 8 * PAGE, length: 512, w: true }, status(ram)))
    port.known.add(8)
    m.driver.kick(0)
    m.device.poll(64)
    expect([m.device.live, m.device.faults.count]).toEqual([false, 1])
  })
})

describe('a network device', () => {
  test('sends every frame once and in order, whatever it has to ask for', () => {
    const link = new RecordingLink()
    const m = netMachineOver('mmio', { port, link }, 8, ram)
    m.driver.start([m.rx, m.tx])
    const frames = Array.from({ length: 8 }, (_, i) => pattern(60 + i, i))
    m.tx.offer(...frames.map((bytes, i) => m.tx.chain(packet(ram, bytes, i % 2 === 0 ? PAGE : 16))))
    m.driver.kick(1)
    const ring = Math.floor(m.tx.desc / PAGE)
    for (const page of [...port.known]) if (page > ring) port.known.delete(page)
    expect(m.device.poll(64)).toBe(0)
    expect(answerAll(m.device)).toBeGreaterThan(3)
    expect(link.frames).toEqual(frames)
    expect(m.tx.reap()).toHaveLength(8)
    expect([m.device.counters.transmitted, m.device.faults.count]).toEqual([8, 0])
  })

  test('leaves a frame with its link until it knows where the buffer is', () => {
    const m = netMachineOver('mmio', { port }, 8, ram)
    m.driver.start([m.rx, m.tx])
    const address = apart(1526)
    m.rx.offer(m.rx.chain({ address, length: 1526, w: true }))
    m.driver.kick(0)
    port.known.delete(address / PAGE)
    const frame = pattern(60)
    expect([m.device.receive(frame), m.device.counters.receiveNoBuffer]).toEqual([false, 0])
    answerAll(m.device)
    expect(m.device.receive(frame)).toBe(true)
    answerAll(m.device)
    expect(m.rx.reap()).toMatchObject([{ length: 72 }])
    expect(ram.get(address + 12, 60)).toEqual(frame)
    expect(m.device.receive(frame)).toBe(false)
    expect([m.device.counters.receiveNoBuffer, m.device.faults.count]).toEqual([1, 0])
  })

  test('takes no frame while it does not know where its ring is', () => {
    const m = netMachineOver('mmio', { port }, 8, ram)
    m.driver.start([m.rx, m.tx])
    m.rx.offer(m.rx.chain({ address: apart(1526), length: 1526, w: true }))
    port.forget()
    expect(m.device.receive(pattern(60))).toBe(false)
    answerAll(m.device)
    // Then for the buffer.
    expect(m.device.receive(pattern(60))).toBe(false)
    answerAll(m.device)
    expect(m.device.receive(pattern(60))).toBe(true)
    expect(m.device.counters.receiveNoBuffer).toBe(0)
    expect(m.device.faults.count).toBe(0)
  })
})

test('the port of these tests grants a page that it knows', () => {
  port.request[0] = BASE
  expect([port.resolve(2 * PAGE, ACCESS_READ), port.pending]).toEqual([PAGE, false])
})

test('frames that were sent while the ring became unknown are marked used once it is known, and not sent again', () => {
  const link = new RecordingLink()
  const transmit = link.transmit.bind(link)
  let forget = true
  link.transmit = (frames) => {
    if (forget) port.forget()
    forget = false
    return transmit(frames)
  }
  const m = netMachineOver('mmio', { port, link }, 8, ram)
  m.driver.start([m.rx, m.tx])
  for (let i = 0; i < 3; i++) m.tx.offer(m.tx.chain(packet(ram, pattern(60, i))))
  m.driver.kick(1)
  m.device.poll(64)
  expect([link.frames.length, m.tx.usedIndex]).toEqual([3, 0])
  m.tx.offer(m.tx.chain(packet(ram, pattern(60, 3))))
  port.learnAll()
  m.device.poll(64)
  m.device.poll(64)
  expect([link.frames.length, m.tx.usedIndex]).toEqual([4, 4])
})

test('what is asked for ahead is of the chain alone', () => {
  const asked = vi.spyOn(port, 'resolve')
  const m = netMachineOver('mmio', { port, link: new RecordingLink() }, 8, ram)
  m.driver.start([m.rx, m.tx])
  const [first, table, other] = [apart(100), apart(16), apart(77)]
  for (const address of [first, table, other]) port.known.delete(address / PAGE)
  m.tx.describe(0, first, 100, 1, 1)
  // INDIRECT and NEXT, which is not allowed: the chain ends there.
  m.tx.describe(1, table, 16, 5, 2)
  m.tx.describe(4, other, 77, 0, 0)
  m.tx.offer(0, 4)
  m.driver.kick(1)
  m.device.poll(64)
  expect(asked).toHaveBeenCalled()
  expect([port.asked.has(table / PAGE), port.asked.has(other / PAGE)]).toEqual([true, false])
})

test('a chain that is not known yet leaves nothing behind, however often it is tried', () => {
  const m = netMachineOver('mmio', { port, link: new RecordingLink() }, 8, ram)
  m.driver.start([m.rx, m.tx], 15)
  const near = ram.alloc(20)
  const far = apart(100)
  port.known.delete(far / PAGE)
  m.rx.offer(m.rx.chain({ address: near, length: 20, w: true }))
  const elements = [20, 0].map((length) => ({ address: near, length, w: true }))
  m.rx.offer(m.rx.chain(...elements, { address: far, length: 100, w: true }))
  const { chains } = m.device.queues[0].walker
  expect(m.device.receive(pattern(200))).toBe(false)
  const before = chains.segments
  for (let i = 0; i < 100; i++) expect(m.device.receive(pattern(200))).toBe(false)
  expect(chains.segments).toBe(before)
})
