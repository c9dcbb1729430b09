import { beforeEach, describe, expect, test } from 'vitest'
import {
  type BlkDeviceOptions,
  type BlockRequest,
  type BlockStore,
  type BusWindows,
  MemoryBlockStore,
} from '../src/index.ts'
import {
  type AnyBlkMachine,
  blkMachineOver,
  DISK_BYTES,
  header,
  nextUncaught,
  status,
  TRANSPORTS,
  type TransportName,
} from './support/devices.ts'
import { surfaced } from './support/event-loop.ts'
import { BASE, type Element, pattern, type Ram, Ring } from './support/guest.ts'

const IN = 0
const OUT = 1
const FLUSH = 4
const GET_ID = 8

let m: AnyBlkMachine
let transport: TransportName

function boot(options: Partial<BlkDeviceOptions> = {}, ...features: number[]): void {
  m = blkMachineOver(transport, options, 16)
  for (let i = 0; i < DISK_BYTES; i++) m.disk[i] = (i >>> 9) + i
  m.driver.start([m.ring], 9, ...features)
}

/** A request for a buffer of `length` bytes, executed; gives status byte, used length and the buffer. */
function request(
  type: number,
  sector: number,
  length: number,
  fill = 0x55,
): { status: number; used: number; data: Uint8Array } {
  const data = m.ram.put(new Uint8Array(length).fill(fill))
  const cell = status(m.ram)
  const element: Element = { address: data, length, w: type !== OUT }
  m.ring.offer(m.ring.chain(header(m.ram, type, sector), ...(length > 0 ? [element] : []), cell))
  m.driver.kick(0)
  m.device.poll(64)
  const [used] = m.ring.reap()
  return { status: m.ram.get(cell.address, 1)[0], used: used.length, data: m.ram.get(data, length) }
}

describe.each(TRANSPORTS)('over %s', (name) => {
  beforeEach(() => {
    transport = name
    boot()
  })

  describe('blk requests (virtio 1.4 §5.2.6)', () => {
    test('IN: data, status, and a used length that covers both', { tags: ['2.7.8.2/length-written'] }, () => {
      const { status, used, data } = request(IN, 5, 1536)
      expect([status, used]).toEqual([0, 1537])
      expect(data).toEqual(m.disk.slice(5 * 512, 8 * 512))
    })

    test('OUT: the status alone is written', () => {
      m.ram.writes.length = 0
      const { status, used } = request(OUT, 62, 1024, 0xa7)
      expect([status, used]).toEqual([0, 1])
      expect(m.disk.slice(62 * 512).every((byte) => byte === 0xa7)).toBe(true)
      expect(m.disk[62 * 512 - 1]).not.toBe(0xa7)
      expect(m.ram.writes.filter(([, length]) => length === 1)).toHaveLength(1)
    })

    test('FLUSH', () => {
      expect(request(FLUSH, 0, 0)).toMatchObject({ status: 0, used: 1 })
      expect((m.device.store as MemoryBlockStore).counters.flushes).toBe(1)
    })

    test("GET_ID's 20 bytes, NUL-padded", () => {
      const text = (bytes: Uint8Array): string => String.fromCharCode(...bytes)
      expect(request(GET_ID, 0, 20)).toMatchObject({ status: 0, used: 21 })
      expect(text(request(GET_ID, 0, 20).data)).toBe('blk0'.padEnd(20, '\0'))
      boot({ id: '12345678901234567890' })
      expect(text(request(GET_ID, 0, 20).data)).toBe('12345678901234567890')
      expect(request(GET_ID, 0, 19).status).toBe(1)
      expect(request(GET_ID, 0, 512).status).toBe(1)
    })

    test.each([2, 5, 11, 13, 14, 15, 16, 24, 0xffff_ffff])(
      'unknown type %i is UNSUPP, and leaves no data of anyone',
      { tags: ['5.2.6.2/unknown-flags', '5.2.6.2/discard-unmap', '5.2.6.2/zone-commands'] },
      (type) => {
        const { status, used, data } = request(type, 0, 512)
        expect([status, used]).toEqual([2, 513])
        expect(data.every((byte) => byte === 0)).toBe(true)
      },
    )

    test('read-only: writes are IOERR and write nothing, whatever was negotiated', {
      tags: ['5.2.6.2/read-only'],
    }, () => {
      boot({ readOnly: true })
      const before = m.disk.slice()
      expect(m.driver.offered(5)).toBe(true)
      expect(request(OUT, 0, 512)).toMatchObject({ status: 1, used: 1 })
      expect(m.disk).toEqual(before)
      expect(request(IN, 0, 512).status).toBe(0)
    })

    test.each([
      ['one sector beyond the end', IN, 64, 512],
      ['over the end', IN, 63, 1024],
      ['write over the end', OUT, 63, 1024],
      ['a sector above 2^53', IN, 2 ** 60, 512],
      ['the last sector that 64 bits can name', OUT, 2 ** 64 - 2048, 512],
      ['no multiple of 512', IN, 0, 511],
      ['no multiple of 512', OUT, 0, 513],
    ])('IOERR: %s', (_, type, sector, length) => {
      const before = m.disk.slice()
      const answer = request(type, sector, length)
      expect(answer.status).toBe(1)
      expect(m.disk).toEqual(before)
      if (type === IN) expect(answer.data.every((byte) => byte === 0)).toBe(true)
      expect(answer.used).toBe(type === IN ? length + 1 : 1)
    })

    test('no data at all is no error', () => {
      expect(request(IN, 0, 0).status).toBe(0)
      expect(request(OUT, 0, 0).status).toBe(0)
    })

    test('sectors that hold 2^32 and more', { tags: ['2.7.4.1/any-framing'] }, () => {
      let asked = -1
      const store: BlockStore = {
        capacity: 2 ** 50,
        read: (r) => {
          asked = r.sector
          r.data.fill(0x11)
          r.done(0)
        },
        write: (r) => r.done(0),
        flush: (r) => r.done(0),
      }
      boot({ store })
      expect(m.driver.config(4, 4)).toBe(2 ** 41 / 2 ** 32)
      expect(request(IN, 2 ** 40 + 3, 512).data[511]).toBe(0x11)
      expect(asked).toBe(2 ** 40 + 3)
    })
  })

  describe('blk framing (§2.7.4)', () => {
    const cut = (address: number, total: number, lengths: number[], w: boolean): Element[] => {
      let at = address
      const all = lengths.map((length) => {
        const element = { address: at, length, w }
        at += length
        return element
      })
      expect(at).toBe(address + total)
      return all
    }

    test.each([
      [
        [16, 512],
        [512, 1],
      ],
      [[528], [513]],
      [
        [1, 15, 512],
        [1, 511, 1],
      ],
      [
        [3, 3, 3, 3, 516],
        [100, 413],
      ],
      [
        [20, 508],
        [512, 0, 1],
      ],
    ])('OUT as %j and IN as %j', (out, into) => {
      const write = m.ram.alloc(528, 8)
      m.ram.set32(write, OUT)
      m.ram.set64(write + 8, 7)
      m.ram.bytes.set(pattern(512, 9), m.ram.at(write) + 16)
      const read = m.ram.alloc(513)
      const cell = status(m.ram)
      m.ring.offer(m.ring.chain(...cut(write, 528, out, false), cell))
      m.driver.kick(0)
      m.device.poll(64)
      m.ring.offer(m.ring.chain(header(m.ram, IN, 7), ...cut(read, 513, into, true)))
      m.driver.kick(0)
      m.device.poll(64)
      expect(m.ring.reap().map(({ length }) => length)).toEqual([1, 513])
      expect(m.ram.get(read, 512)).toEqual(pattern(512, 9))
      expect([m.ram.get(cell.address, 1)[0], m.ram.get(read + 512, 1)[0]]).toEqual([0, 0])
    })

    test('a short header is IOERR; a chain without a status byte is used with 0 and not executed', () => {
      const cell = status(m.ram)
      const before = m.disk.slice()
      m.ring.offer(m.ring.chain({ address: header(m.ram, OUT).address, length: 15 }, cell))
      m.ring.offer(m.ring.chain(cell))
      m.ring.offer(m.ring.chain(header(m.ram, OUT, 0), { address: m.ram.alloc(512), length: 512 }))
      m.driver.kick(0)
      m.device.poll(64)
      expect(m.ring.reap().map(({ length }) => length)).toEqual([1, 1, 0])
      expect(m.ram.get(cell.address, 1)[0]).toBe(1)
      expect(m.disk).toEqual(before)
      expect(m.device.faults.last()).toMatchObject([
        { kind: 'request', reason: 'short-header', value: 15 },
        { kind: 'request', reason: 'short-header', value: 0 },
        { kind: 'request', reason: 'no-status' },
      ])
      expect(m.device.live).toBe(true)
    })

    test('readable buffers are read, writable ones written, and no others', { tags: ['2.7.5.1/directions'] }, () => {
      const data = m.ram.put(pattern(512))
      const before = m.ram.bytes.slice()
      const cell = status(m.ram)
      const head = header(m.ram, OUT, 1)
      m.ring.offer(m.ring.chain(head, { address: data, length: 512 }, cell))
      m.driver.kick(0)
      const filled = m.ram.bytes.slice()
      m.device.poll(64)
      filled[m.ram.at(cell.address)] = 0
      const used = m.ram.at(m.ring.used)
      filled.copyWithin(used, used, used)
      filled.set(m.ram.bytes.subarray(used, used + 6 + 8 * 16), used)
      expect(m.ram.bytes).toEqual(filled)
      expect(before.length).toBe(filled.length)
    })
  })

  describe('flush durability (§5.2.6.2)', () => {
    const log: string[] = []
    const store: BlockStore = {
      capacity: DISK_BYTES,
      read: (r) => r.done(0),
      write: (r) => {
        log.push('write')
        r.done(0)
      },
      flush: (r) => {
        log.push('flush')
        r.done(0)
      },
    }

    const writes = (options: Partial<BlkDeviceOptions>, features: number[], prepare?: () => void): string[] => {
      log.length = 0
      m = blkMachineOver(transport, { store, ...options })
      m.driver.start([m.ring], ...features)
      prepare?.()
      expect(request(OUT, 0, 512).status).toBe(0)
      return [...log]
    }

    test('negotiated FLUSH: writes wait for FLUSH; neither FLUSH nor CONFIG_WCE: each write is stable', {
      tags: ['5.2.6.2/stable'],
    }, () => {
      expect(writes({}, [9])).toEqual(['write'])
      expect(writes({}, [])).toEqual(['write', 'flush'])
      expect(request(FLUSH, 0, 0).status).toBe(2)
    })

    test('CONFIG_WCE: the mode decides, and begins as write-through without FLUSH', {
      tags: ['5.2.6.2/stable'],
    }, () => {
      expect(writes({ writeback: true }, [9, 11])).toEqual(['write'])
      expect(writes({ writeback: false }, [9, 11])).toEqual(['write', 'flush'])
      expect(writes({ writeback: true }, [11])).toEqual(['write', 'flush'])
      expect(writes({ writeback: true }, [9, 11], () => m.driver.setConfig(0x20, 1, 0))).toEqual(['write', 'flush'])
    })

    test('CONFIG_WCE: writeback shows 0 without FLUSH (§5.2.5.2)', { tags: ['5.2.5.2/writeback-off'] }, () => {
      boot({ writeback: true }, 9, 11)
      expect(m.driver.config(0x20, 1)).toBe(1)
      m.driver.negotiate(32, 11)
      expect(m.driver.config(0x20, 1)).toBe(0)
    })

    test('unused bytes of the configuration are 0 (§5.2.5.2)', { tags: ['5.2.5.2/unused'] }, () => {
      boot({ writeback: true, queues: 2, blockSize: 4096, sizeMax: 0xffff_ffff, segMax: 0xffff_ffff })
      expect([0x21, 0x39, 0x3a, 0x3b].map((at) => m.driver.config(at, 1))).toEqual([0, 0, 0, 0])
    })

    test('a flush that fails fails the write', () => {
      log.length = 0
      m = blkMachineOver(transport, { store: { ...store, flush: (r) => r.done(1) } })
      m.driver.start([m.ring])
      expect(request(OUT, 0, 512).status).toBe(1)
    })
  })

  /** A store that ends requests when the test says so. */
  class LateStore implements BlockStore {
    readonly capacity = DISK_BYTES
    readonly waiting: BlockRequest[] = []
    read(r: BlockRequest): void {
      this.waiting.push(r)
    }
    write(r: BlockRequest): void {
      this.waiting.push(r)
    }
    flush(r: BlockRequest): void {
      this.waiting.push(r)
    }
  }

  describe('asynchronous stores', () => {
    let store: LateStore
    let woken: number

    function bootLate(options: Partial<BlkDeviceOptions> = {}, ...features: number[]): void {
      store = new LateStore()
      woken = 0
      boot({ store, onWork: () => woken++, ...options }, ...features)
    }

    beforeEach(() => bootLate())

    function submit(
      ram: Ram,
      sector: number,
      length = 512,
      type = IN,
      ring = m.ring,
      queue = 0,
    ): { data: number; cell: number } {
      const data = ram.put(new Uint8Array(length).fill(0x55))
      const cell = status(ram)
      ring.offer(ring.chain(header(ram, type, sector), { address: data, length, w: type === IN }, cell))
      m.driver.kick(queue)
      m.device.poll(64)
      return { data, cell: cell.address }
    }

    /** Resets the device and starts its driver anew, on a fresh ring. */
    function restart(...features: number[]): Ring {
      m.driver.status = 0
      const ring = new Ring(m.ram, 16)
      m.driver.start([ring], 9, ...features)
      return ring
    }

    test('done marks, and the next poll completes', () => {
      const { data, cell } = submit(m.ram, 3)
      expect([m.device.inFlight, m.ring.usedIndex]).toEqual([1, 0])
      woken = 0
      store.waiting[0].data.fill(0x77)
      store.waiting[0].done(0)
      expect([woken, m.ring.usedIndex, m.ram.get(data, 1)[0]]).toEqual([1, 0, 0x55])
      expect(m.device.poll(0)).toBe(1)
      expect(m.ring.reap()).toEqual([{ id: 0, length: 513 }])
      expect([m.ram.get(data + 511, 1)[0], m.ram.get(cell, 1)[0], m.device.inFlight]).toEqual([0x77, 0, 0])
      expect(m.line.asserted).toBe(true)
    })

    test('the store sees staging memory only', () => {
      submit(m.ram, 3)
      expect(store.waiting[0].data.buffer).not.toBe(m.ram.buffer)
    })

    test('a strange status is IOERR', () => {
      const { cell } = submit(m.ram, 3)
      store.waiting[0].done(7 as 0)
      m.device.poll(64)
      expect(m.ram.get(cell, 1)[0]).toBe(1)
    })

    test('done a second time, early or late, is refused and recorded, and ends nobody else', () => {
      submit(m.ram, 3)
      const [first] = store.waiting
      first.done(0)
      first.done(0)
      m.device.poll(64)
      expect(m.ring.reap()).toHaveLength(1)
      // The device uses what it knew of the first request for the second.
      const { data, cell } = submit(m.ram, 4)
      first.done(0)
      m.device.poll(64)
      expect([m.ram.get(cell, 1)[0], m.device.inFlight]).toEqual([0xff, 1])
      expect(m.device.faults.last()).toMatchObject([
        { kind: 'host', reason: 'store.done' },
        { kind: 'host', reason: 'store.done' },
      ])
      store.waiting[1].data.fill(0x66)
      store.waiting[1].done(0)
      m.device.poll(64)
      expect([m.ram.get(cell, 1)[0], m.ram.get(data, 1)[0]]).toEqual([0, 0x66])
    })

    test('done a second time after a request that ended at once, and for the flush of a write-through write', () => {
      const kept: BlockRequest[] = []
      const end = (r: BlockRequest): void => {
        kept.push(r)
        r.done(0)
      }
      m = blkMachineOver(transport, { store: { capacity: DISK_BYTES, read: end, write: end, flush: end } })
      m.driver.start([m.ring])
      const cell = status(m.ram)
      m.ring.offer(m.ring.chain(header(m.ram, OUT, 0), { address: m.ram.alloc(512), length: 512 }, cell))
      m.driver.kick(0)
      m.device.poll(64)
      expect([kept.length, m.ram.get(cell.address, 1)[0]]).toEqual([2, 0])
      expect(kept.map(({ data }) => data.length)).toEqual([512, 0])
      for (const r of kept) r.done(1)
      m.device.poll(64)
      expect([m.device.inFlight, m.ring.usedIndex, m.device.faults.count]).toEqual([0, 1, 2])
    })

    test('a store that ends a request and then throws, or throws and then ends it', () => {
      const kept: BlockRequest[] = []
      const read = (r: BlockRequest): void => {
        kept.push(r)
        if (kept.length === 1) r.done(0)
        throw new Error('store')
      }
      return surfaced(() => {
        boot({ store: { capacity: DISK_BYTES, read, write: read, flush: read } })
        expect([request(IN, 0, 512).status, request(IN, 0, 512).status]).toEqual([0, 1])
        kept[1].done(0)
        m.device.poll(64)
        expect([m.device.inFlight, m.ring.usedIndex]).toEqual([0, 2])
        expect(m.device.faults.last().map((fault) => fault.kind === 'host' && fault.reason)).toEqual([
          'store',
          'store',
          'store.done',
        ])
      })
    })

    test('permissions of the moment: what was revoked meanwhile is not written', () => {
      const { data, cell } = submit(m.ram, 3)
      const port = m.device.port as BusWindows
      const [window] = port.windows
      // Only what lies before the data stays reachable.
      port.setWindows([{ ...window, length: data - BASE }])
      store.waiting[0].data.fill(0x77)
      store.waiting[0].done(0)
      m.device.poll(64)
      expect([m.ram.get(data, 1)[0], m.ram.get(cell, 1)[0]]).toEqual([0x55, 0xff])
      expect(port.faults.last()).toMatchObject([{ address: data, length: 512, access: 2, reason: 'unmapped' }])
      expect(m.device.faults.last()).toMatchObject([{ kind: 'queue', reason: 'buffer-unreachable', head: 0 }])
      expect(m.ring.usedIndex).toBe(0)
    })

    test('after a reset the data is dropped, and a write from before holds everything back until the store let go', {
      tags: ['2.4.1/quiet-after-reset'],
    }, () => {
      const { data, cell } = submit(m.ram, 3)
      submit(m.ram, 3, 512, OUT)
      const ring = restart()
      expect(m.device.inFlight).toBe(1)
      submit(m.ram, 4, 512, IN, ring)
      const [read, write] = store.waiting
      read.data.fill(0x77)
      read.done(0)
      m.device.poll(64)
      expect(store.waiting).toHaveLength(2)
      write.done(0)
      m.device.poll(64)
      expect([m.ram.get(data, 1)[0], m.ram.get(cell, 1)[0]]).toEqual([0x55, 0xff])
      expect(store.waiting).toHaveLength(3)
      store.waiting[2].done(0)
      m.device.poll(64)
      expect([m.ring.usedIndex, ring.usedIndex]).toEqual([0, 1])
    })

    test.each([IN, FLUSH])(
      'a request of type %i that its store never answers holds nothing back after a reset (§2.4)',
      (type) => {
        bootLate({ maxInFlight: 2, stagingBytes: 8192 })
        for (let i = 0; i < 2; i++) submit(m.ram, i, type === IN ? 512 : 0, type)
        const ring = restart()
        expect(m.device.inFlight).toBe(0)
        const cells = [OUT, IN].map((next) => submit(m.ram, 7, 512, next, ring).cell)
        expect(store.waiting).toHaveLength(4)
        for (const r of store.waiting.slice(2)) r.done(0)
        m.device.poll(64)
        expect(cells.map((cell) => m.ram.get(cell, 1)[0])).toEqual([0, 0])
        // What comes late after all ends nobody else's request.
        submit(m.ram, 8, 512, IN, ring)
        for (const r of store.waiting.slice(0, 2)) r.done(0)
        m.device.poll(64)
        expect([ring.usedIndex, m.device.inFlight]).toEqual([2, 1])
      },
    )

    test('nor does the flush after a write-through write: the write itself was answered', () => {
      store = new LateStore()
      m = blkMachineOver(transport, { store })
      m.driver.start([m.ring])
      submit(m.ram, 3, 512, OUT)
      store.waiting[0].done(0)
      m.device.poll(64)
      expect([store.waiting.length, m.device.inFlight]).toEqual([2, 1])
      const ring = restart()
      submit(m.ram, 3, 512, OUT, ring)
      expect([store.waiting.length, m.device.inFlight]).toEqual([3, 1])
    })

    test.each([{ maxInFlight: 2 }, { stagingBytes: 8192 }])(
      'resets in a loop do not pile up requests at a store that never answers: %j',
      (options) => {
        bootLate(options)
        for (let i = 0; i < 6; i++) {
          const ring = restart()
          for (let n = 0; n < 3; n++) submit(m.ram, n, 512, IN, ring)
        }
        expect(store.waiting).toHaveLength(4)
        store.waiting[0].done(0)
        store.waiting[1].done(0)
        m.device.poll(64)
        expect(store.waiting).toHaveLength(6)
      },
    )

    test('what the store still holds of a queue that is being reset takes no slot from another queue (§2.6.1)', {
      tags: ['2.6.1.1.1/stopped', '4.2.2.1/queue-reset-pending', '4.1.4.3.1/queue-reset-pending'],
    }, () => {
      store = new LateStore()
      m = blkMachineOver(transport, { store, queues: 2, maxInFlight: 2, stagingBytes: 8192 })
      const second = new Ring(m.ram, 8)
      m.driver.start([m.ring, second], 9, 40)
      for (let i = 0; i < 2; i++) submit(m.ram, i)
      m.driver.resetQueue(0)
      const cells = [OUT, IN].map((type) => submit(m.ram, 7, 512, type, second, 1).cell)
      expect([store.waiting.length, m.driver.queueReset(0)]).toEqual([4, true])
      for (const r of store.waiting) r.done(0)
      m.device.poll(64)
      expect(cells.map((cell) => m.ram.get(cell, 1)[0])).toEqual([0, 0])
      expect([m.driver.queueReset(0), m.device.inFlight, m.ring.usedIndex]).toEqual([false, 0, 0])
    })

    test('a reset of the device, or the end of the reset and enabling it, ends what a queue shows of its reset (§2.6.1)', {
      tags: [
        '4.2.2.1/queue-reset-at-reset',
        '4.2.2.1/queue-reset-at-enable',
        '4.1.4.3.1/queue-reset-at-reset',
        '4.1.4.3.1/queue-reset-at-enable',
      ],
    }, () => {
      bootLate({}, 40)
      submit(m.ram, 3, 512, OUT)
      m.driver.resetQueue(0)
      expect(m.driver.queueReset(0)).toBe(true)
      m.driver.status = 0
      m.driver.negotiate(32, 40)
      expect([m.driver.queueReset(0), m.driver.queueReady(0)]).toEqual([false, false])
      bootLate({}, 40)
      submit(m.ram, 3)
      m.driver.resetQueue(0)
      store.waiting[0].done(0)
      m.device.poll(64)
      m.driver.queue(0, new Ring(m.ram, 8))
      expect([m.driver.queueReset(0), m.driver.queueReady(0)]).toEqual([false, true])
    })

    test('resetting the queue drops what is in flight as well', { tags: ['2.6.1.1.1/stopped'] }, () => {
      bootLate({}, 40)
      const { cell } = submit(m.ram, 3)
      m.driver.resetQueue(0)
      expect(m.driver.queueReady(0)).toBe(false)
      store.waiting[0].done(0)
      m.device.poll(64)
      expect([m.ram.get(cell, 1)[0], m.ring.usedIndex, m.device.inFlight]).toEqual([0xff, 0, 0])
    })

    test('requests in flight are bounded in number; the rest waits in the ring', () => {
      bootLate({ maxInFlight: 2 })
      for (let i = 0; i < 4; i++) submit(m.ram, i)
      expect(store.waiting).toHaveLength(2)
      store.waiting[0].done(0)
      m.device.poll(64)
      expect([store.waiting.length, m.ring.usedIndex]).toEqual([3, 1])
      for (let i = 1; i < 4; i++) {
        store.waiting[i].done(0)
        m.device.poll(64)
      }
      expect(m.ring.usedIndex).toBe(4)
    })

    test('and in bytes; a request that could never fit is IOERR', () => {
      bootLate({ stagingBytes: 16384 })
      const cells = [8192, 4096, 512, 512].map((length, i) => submit(m.ram, i, length).cell)
      // 8192 bytes and their alignment take 16384.
      expect(store.waiting).toHaveLength(1)
      store.waiting[0].done(0)
      m.device.poll(64)
      // Together 8192 + 4096 + 4096.
      expect(store.waiting).toHaveLength(4)
      for (const r of store.waiting.slice(1)) r.done(0)
      m.device.poll(64)
      expect(cells.map((cell) => m.ram.get(cell, 1)[0])).toEqual([0, 0, 0, 0])
      const { cell } = submit(m.ram, 0, 16384)
      expect(m.ram.get(cell, 1)[0]).toBe(1)
      expect(m.device.faults.last()).toMatchObject([{ reason: 'too-large', value: 16384 }])
    })

    test('a store that throws fails its request', async () => {
      const uncaught = nextUncaught()
      boot({
        store: {
          capacity: DISK_BYTES,
          read: () => {
            throw new Error('store')
          },
          write: (r) => r.done(0),
          flush: (r) => r.done(0),
        },
      })
      expect(request(IN, 0, 512).status).toBe(1)
      expect(await uncaught).toBe('store')
    })

    test('write-through with an asynchronous store: the flush starts in a poll', () => {
      store = new LateStore()
      m = blkMachineOver(transport, { store })
      m.driver.start([m.ring])
      const cell = status(m.ram)
      m.ring.offer(m.ring.chain(header(m.ram, OUT, 0), { address: m.ram.alloc(512), length: 512 }, cell))
      m.driver.kick(0)
      m.device.poll(64)
      store.waiting[0].done(0)
      expect(store.waiting).toHaveLength(1)
      m.device.poll(64)
      expect([store.waiting.length, m.ring.usedIndex]).toEqual([2, 0])
      store.waiting[1].done(0)
      m.device.poll(64)
      expect(m.ram.get(cell.address, 1)[0]).toBe(0)
    })

    test('stale staging does not leak: a failed read gives zeros (CVE-2022-0854 in spirit)', () => {
      const first = submit(m.ram, 0)
      store.waiting[0].data.fill(0x66)
      store.waiting[0].done(0)
      m.device.poll(64)
      const second = submit(m.ram, 1)
      store.waiting[1].done(1)
      m.device.poll(64)
      expect(m.ram.get(first.data, 1)[0]).toBe(0x66)
      expect(m.ram.get(second.data, 512).every((byte) => byte === 0)).toBe(true)
    })
  })

  describe('blk options and configuration', () => {
    test('several queues', () => {
      const two = blkMachineOver(transport, { queues: 2 })
      const second = blkMachineOver(transport, {}, 8, two.ram).ring
      two.driver.start([two.ring, second], 9, 12)
      const cell = status(two.ram)
      second.offer(second.chain(header(two.ram, FLUSH), cell))
      two.driver.kick(1)
      two.device.poll(64)
      expect(second.reap()).toEqual([{ id: 0, length: 1 }])
    })

    test.each([
      [{}, 126],
      [{ queueSize: 1024 }, 126],
      [{ queueSize: 1024, segMax: 1022 }, 1022],
      [{ segMax: 14 }, 14],
      [{ queueSize: 4 }, 2],
      [{ queueSize: 2 }, 0],
      [{ queueSize: 1 }, 0],
    ])('SEG_MAX is offered, and is what fits the queue (§5.2.3): %j', (options, segMax) => {
      const m = blkMachineOver(transport, options)
      expect([m.driver.offered(2), m.driver.config(12, 4)]).toEqual([segMax > 0, segMax])
    })

    test('SEG_MAX may be withheld', () => {
      expect(blkMachineOver(transport, { withhold: [2] }).driver.offered(2)).toBe(false)
    })

    test('a store that grew tells the driver', { tags: ['5.2.6.2/capacity'] }, () => {
      const store = { capacity: 512, read: () => {}, write: () => {}, flush: () => {} }
      boot({ store })
      m.device.capacityChanged()
      expect(m.driver.interrupting).toBe(false)
      store.capacity = 2 ** 45
      const { generation } = m.driver
      m.device.capacityChanged()
      expect([m.driver.config(0, 4), m.driver.config(4, 4), m.driver.acknowledge()]).toEqual([0, 16, 2])
      expect(m.driver.generation).not.toBe(generation)
    })

    test.each<[string, Partial<BlkDeviceOptions>]>([
      ['STORE_CAPACITY', { store: { capacity: 700, read() {}, write() {}, flush() {} } }],
      ['STORE_CAPACITY', { store: { capacity: 0, read() {}, write() {}, flush() {} } }],
      ['DEVICE_OPTION', { store: undefined as unknown as BlockStore }],
      ['DEVICE_OPTION', { store: new Uint8Array(512) as unknown as BlockStore }],
      ['DEVICE_OPTION', { blockSize: 1000 }],
      ['DEVICE_OPTION', { blockSize: 256 }],
      ['DEVICE_OPTION', { sizeMax: 0 }],
      ['DEVICE_OPTION', { segMax: -1 }],
      ['DEVICE_OPTION', { id: 'x'.repeat(21) }],
      ['DEVICE_OPTION', { id: 'ü' }],
      ['DEVICE_OPTION', { maxInFlight: 0 }],
      ['DEVICE_OPTION', { stagingBytes: 100 }],
      ['DEVICE_OPTION', { queues: 0 }],
    ])('%s', (code, options) => {
      expect(() => blkMachineOver(transport, options)).toThrow(expect.objectContaining({ code, part: 'blk0' }))
    })

    test('MemoryBlockStore wants whole sectors', () => {
      for (const length of [0, 511, 513]) {
        expect(() => new MemoryBlockStore(new Uint8Array(length))).toThrow(
          expect.objectContaining({ code: 'STORE_CAPACITY' }),
        )
      }
    })
  })
})
