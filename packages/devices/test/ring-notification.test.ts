import { INTERRUPT_USED_BUFFER, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_NET_F_MRG_RXBUF } from '@guestdma/spec'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import type { BlockRequest, BlockStore } from '../src/index.ts'
import {
  type AnyBlkMachine,
  type AnyNetMachine,
  blkMachineOver,
  header,
  netMachine,
  netMachineOver,
  packet,
  RecordingLink,
  status,
  TRANSPORTS,
  type TransportName,
} from './support/devices.ts'
import { pattern } from './support/guest.ts'

let transport: TransportName

function boot(...features: number[]): AnyNetMachine {
  const m = netMachineOver(transport, { link: new RecordingLink() })
  m.driver.start([m.rx, m.tx], ...features)
  return m
}

/** Sends `frames` frames in one poll; returns whether the device notified. */
function send(m: AnyNetMachine, frames: number): boolean {
  const { address, length } = packet(m.ram, pattern(64))
  m.tx.describe(0, address, length, 0, 0)
  m.tx.offer(...new Array<number>(frames).fill(0))
  m.driver.kick(1)
  m.device.poll(64)
  const { asserted } = m.line
  const notified = (m.driver.acknowledge() & INTERRUPT_USED_BUFFER) !== 0
  expect(asserted).toBe(notified)
  expect(m.line.asserted).toBe(false)
  return notified
}

describe.each(TRANSPORTS)('over %s', (name) => {
  beforeAll(() => {
    transport = name
  })

  describe('ring/notification by flags (§2.7.7)', () => {
    test('flags 0: notify; flags 1: do not; used_event is ignored', {
      tags: ['2.7.7.2/used-event-ignored', '2.7.7.2/suppressed', '2.7.7.2/wanted'],
    }, () => {
      const m = boot()
      m.tx.usedEvent = 5
      expect(send(m, 1)).toBe(true)
      m.tx.flags = 1
      expect(send(m, 1)).toBe(false)
      m.tx.flags = 0
      expect(send(m, 3)).toBe(true)
    })

    test("the used ring's flags stay 0, and avail_event is not touched", { tags: ['2.7.10.2/flags'] }, () => {
      const m = boot()
      m.ram.set16(m.tx.used + 4 + 64, 0xabcd)
      send(m, 3)
      expect(m.ram.u16(m.tx.used)).toBe(0)
      expect(m.tx.availEvent).toBe(0xabcd)
    })

    test('one notification and one index store for a batch', () => {
      const m = boot()
      m.ram.writes.length = 0
      send(m, 7)
      expect(m.line.rises).toBe(1)
      expect(m.ram.writes.filter(([address]) => address === m.tx.used + 2)).toHaveLength(1)
    })
  })

  describe('ring/notification by event index (§2.7.7.2, §2.7.10)', () => {
    test("the used ring's flags stay 0 (§2.7.10.2)", { tags: ['2.7.10.2/flags-zero'] }, () => {
      const m = boot(VIRTIO_F_EVENT_IDX)
      for (const frames of [1, 3, 5]) {
        send(m, frames)
        expect(m.ram.u16(m.tx.used)).toBe(0)
      }
    })

    test('notify exactly when the used index passes used_event; the flags are ignored', {
      tags: ['2.7.7.2/flags-ignored'],
    }, () => {
      const m = boot(VIRTIO_F_EVENT_IDX)
      m.tx.flags = 1
      m.tx.usedEvent = 0
      expect(send(m, 1)).toBe(true)
      expect(send(m, 1)).toBe(false)
      m.tx.usedEvent = 4
      expect(send(m, 2)).toBe(false)
      expect(send(m, 1)).toBe(true)
      m.tx.usedEvent = 7
      expect(send(m, 5)).toBe(true)
      expect(send(m, 5)).toBe(false)
    })

    test('against the plain formulation, through the 16-bit wrap', {
      tags: ['2.7.7.2/used-event', '2.7.7.2/other-elements'],
    }, () => {
      const steps = fc.record({ frames: fc.integer({ min: 1, max: 8 }), ahead: fc.integer({ min: -9, max: 9 }) })
      fc.assert(
        fc.property(fc.array(steps, { minLength: 1, maxLength: 12 }), fc.integer({ min: 0, max: 40 }), (all, back) => {
          const m = boot(VIRTIO_F_EVENT_IDX)
          // Begin shortly before the wrap.
          let used = (0x10000 - back) & 0xffff
          const saved = m.device.save()
          const at = { next: used, used, published: used }
          m.device.restore({ ...saved, queues: saved.queues.map((queue) => ({ ...queue, ...at })) })
          m.tx.index = used
          for (const { frames, ahead } of all) {
            const event = (used + ahead) & 0xffff
            m.tx.usedEvent = event
            // Each element in turn: was its index the one asked for?
            const expected = Array.from({ length: frames }, (_, i) => (used + i) & 0xffff).includes(event)
            expect(send(m, frames)).toBe(expected)
            used = (used + frames) & 0xffff
            expect(m.tx.usedIndex).toBe(used)
          }
        }),
        { numRuns: 60 },
      )
    })

    test('avail_event asks for the next chain once the ring is drained, wrap included', () => {
      const m = boot(VIRTIO_F_EVENT_IDX)
      const saved = m.device.save()
      const at = { next: 0xfffe, used: 0xfffe, published: 0xfffe }
      m.device.restore({ ...saved, queues: saved.queues.map((queue) => ({ ...queue, ...at })) })
      m.tx.index = 0xfffe
      send(m, 1)
      expect(m.tx.availEvent).toBe(0xffff)
      send(m, 3)
      expect(m.tx.availEvent).toBe(2)
    })

    test('chains that the device left in the ring ring no second time: avail_event lies behind them', () => {
      const m = boot(VIRTIO_F_EVENT_IDX, VIRTIO_NET_F_MRG_RXBUF)
      const post = (count: number): { rung: boolean } => {
        const old = m.rx.index
        for (let i = 0; i < count; i++) {
          m.rx.offer(m.rx.chain({ address: m.ram.alloc(200), length: 200, w: true }))
        }
        // virtio 1.4 §2.7.10: the driver notifies where its index passes avail_event.
        const passed = (m.rx.availEvent - old) & 0xffff
        if (passed >= count) return { rung: false }
        m.driver.kick(0)
        return { rung: true }
      }
      expect(post(2)).toEqual({ rung: true })
      m.device.poll(64)
      const frame = pattern(1000)
      expect(m.device.receive(frame)).toBe(false)
      expect(post(2)).toEqual({ rung: true })
      m.device.poll(64)
      expect(m.device.receive(frame)).toBe(false)
      expect(post(2)).toEqual({ rung: true })
      m.device.poll(64)
      expect(m.device.receive(frame)).toBe(true)
    })

    test('chains that come while the device rearms are not lost', () => {
      const m = boot(VIRTIO_F_EVENT_IDX)
      const { address, length } = packet(m.ram, pattern(64))
      m.tx.describe(0, address, length, 0, 0)
      // The driver adds one without a notification right after avail_event was written.
      let added = false
      const [region] = m.ram.memory.regions
      region.storeAhead = (half, value) => {
        region.u16[half] = value
        if (half * 2 !== m.ram.at(m.tx.used) + 4 + 64 || added) return
        added = true
        m.tx.offer(0)
      }
      m.tx.offer(0)
      m.driver.kick(1)
      m.device.poll(64)
      expect(m.tx.usedIndex).toBe(2)
    })
  })

  describe('ring/notification: doorbells', () => {
    test('a doorbell only marks; spurious ones are harmless; none before DRIVER_OK', {
      tags: ['2.7.10.2/spurious'],
    }, () => {
      const link = new RecordingLink()
      const m = netMachineOver(transport, { link })
      m.driver.negotiate(32)
      m.driver.queue(0, m.rx)
      m.driver.queue(1, m.tx)
      m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
      m.driver.kick(1)
      expect(m.device.poll(64)).toBe(0)
      expect(m.device.faults.last()).toMatchObject([{ kind: 'register', reason: 'order' }])
      m.driver.driverOk()
      expect(link.frames).toHaveLength(0)
      // What was made available before needs no notification.
      expect(m.device.poll(64)).toBe(1)
      m.driver.kick(1)
      m.driver.kick(0)
      m.driver.kick(1)
      expect(link.frames).toHaveLength(1)
      expect(m.device.poll(64)).toBe(0)
      expect(m.tx.usedIndex).toBe(1)
    })

    test('the budget bounds the work, and what is left is found without a doorbell', () => {
      const m = boot()
      const { address, length } = packet(m.ram, pattern(64))
      m.tx.describe(0, address, length, 0, 0)
      m.tx.offer(0, 0, 0, 0, 0)
      m.driver.kick(1)
      expect([m.device.poll(2), m.device.poll(2), m.device.poll(2), m.device.poll(2)]).toEqual([2, 2, 1, 0])
    })

    // Over pci it has another width and a place of its own: see pci-doorbells.test.ts.
    if (name === 'mmio')
      test('NOTIFICATION_DATA (§2.9): the upper half is not part of the index', () => {
        const link = new RecordingLink()
        const m = netMachine({ link, offer: [38] })
        m.driver.start([m.rx, m.tx], 38)
        m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
        m.driver.w(0x50, ((1 << 16) | 1) >>> 0)
        m.device.poll(64)
        expect(link.frames).toHaveLength(1)
        m.driver.w(0x50, 0x8001_0007)
        expect(m.device.faults.last()).toMatchObject([{ reason: 'no-queue' }])
      })
  })

  describe('in-order use (§2.7.9)', () => {
    class LateStore implements BlockStore {
      readonly capacity = 64 * 512
      readonly waiting: BlockRequest[] = []
      read(request: BlockRequest): void {
        this.waiting.push(request)
      }
      write(request: BlockRequest): void {
        this.waiting.push(request)
      }
      flush(request: BlockRequest): void {
        this.waiting.push(request)
      }
    }

    const late = (...features: number[]): AnyBlkMachine & { store: LateStore } => {
      const store = new LateStore()
      const m = blkMachineOver(transport, { store, offer: [VIRTIO_F_IN_ORDER] }, 16)
      m.driver.start([m.ring], ...features)
      for (let i = 0; i < 4; i++) {
        const into = m.ram.alloc(512)
        m.ring.offer(m.ring.chain(header(m.ram, 0, i), { address: into, length: 512, w: true }, status(m.ram)))
      }
      m.driver.kick(0)
      m.device.poll(64)
      return { ...m, store }
    }

    test('completions of an asynchronous store are held until all earlier ones came', {
      tags: ['6.2/in-order'],
    }, () => {
      const m = late(VIRTIO_F_IN_ORDER)
      const [a, b, c, d] = m.store.waiting
      d.done(0)
      b.done(1)
      m.device.poll(64)
      expect(m.ring.reap()).toEqual([])
      expect(m.line.asserted).toBe(false)
      a.done(0)
      m.device.poll(64)
      expect(m.ring.reap().map(({ id }) => id)).toEqual([0, 3])
      c.done(0)
      m.device.poll(64)
      expect(m.ring.reap().map(({ id }) => id)).toEqual([6, 9])
    })

    test('without the feature they are used as they come', () => {
      const m = late()
      const [, b, , d] = m.store.waiting
      d.done(0)
      m.device.poll(64)
      b.done(0)
      m.device.poll(64)
      expect(m.ring.reap().map(({ id }) => id)).toEqual([9, 3])
    })

    test('inOrderBatches: one element for a run of buffers, at the place of the first', () => {
      const m = netMachineOver(transport, {
        link: new RecordingLink(),
        offer: [VIRTIO_F_IN_ORDER],
        inOrderBatches: true,
      })
      m.driver.start([m.rx, m.tx], VIRTIO_F_IN_ORDER)
      m.ram.bytes.fill(0xee, m.ram.at(m.tx.used) + 4, m.ram.at(m.tx.used) + 4 + 64)
      const heads = Array.from({ length: 5 }, () => m.tx.chain(packet(m.ram, pattern(64))))
      m.tx.offer(...heads.slice(0, 3))
      m.driver.kick(1)
      m.device.poll(64)
      expect(m.tx.usedIndex).toBe(3)
      expect(m.tx.usedAt(0)).toEqual({ id: 2, length: 0 })
      expect(m.tx.usedAt(1).id).toBe(0xeeee_eeee)
      m.tx.offer(...heads.slice(3))
      m.driver.kick(1)
      m.device.poll(64)
      expect(m.tx.usedIndex).toBe(5)
      expect(m.tx.usedAt(3)).toEqual({ id: 4, length: 0 })
      // A receive buffer that is not filled completely has a length to tell, so it cannot be left out.
      const into = m.ram.alloc(256)
      m.rx.offer(...[0, 1].map(() => m.rx.chain({ address: into, length: 128, w: true })))
      m.device.receive(pattern(60))
      m.device.receive(pattern(70))
      m.device.poll(64)
      expect(m.rx.reap()).toEqual([
        { id: 0, length: 72 },
        { id: 1, length: 82 },
      ])
      expect(m.driver.status & 0x40).toBe(0)
    })
  })
})
