import { DMA_OK } from '@guestdma/dma'
import { VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC } from '@guestdma/spec'
import type { QueueSuite } from './rig.ts'

/** What comes back. */
export function describeUsed({ test, check, rig: open }: QueueSuite): void {
  test('ring/used: chains come back in any order, within a budget', () => {
    const rig = open({ size: 16 })
    const ids = Array.from({ length: 16 }, (_, i) => rig.addOne(i, true))
    rig.queue.publish()
    rig.takeAll()
    const order = [...ids].sort((a, b) => ((a * 7) % 16) - ((b * 7) % 16))
    rig.peer.use(order.map((id) => ({ id, written: id })))
    const delivered: number[] = []
    for (const budget of [0, 1, 5, 3, 100]) {
      const n = rig.queue.reap(budget)
      check(`reap(${budget})`, n, Math.min(budget, 16 - delivered.length))
      for (const { id, written } of rig.completions(n)) {
        check('written', written, id)
        delivered.push(id)
      }
    }
    check('order', delivered, order)
    check('outstanding', rig.queue.outstanding, 0)
    rig.queue.recycle()
    check('free', rig.queue.free, 16)
    rig.close()
  })

  test('ring/used: ids stay taken until they are recycled, and the next reap recycles', () => {
    const rig = open({ size: 2 })
    const ids = [rig.addPlain(), rig.addPlain()]
    rig.queue.publish()
    rig.takeAll()
    rig.peer.use([{ id: ids[0], written: 0 }])
    check('reap', rig.queue.reap(2), 1)
    check('free before recycle', rig.queue.free, 0)
    rig.queue.recycle()
    check('free after recycle', rig.queue.free, 1)
    rig.queue.recycle()
    check('free after recycling nothing', rig.queue.free, 1)
    rig.peer.use([{ id: ids[1], written: 0 }])
    check('reap', rig.queue.reap(2), 1)
    check('reap again', rig.queue.reap(2), 0)
    check('free', rig.queue.free, 2)
    rig.close()
  })

  for (const length of [101, 0x8000_0000, 0xffff_fffe, 0xffff_ffff]) {
    test(`ring/used: a length of ${length} for 100 posted bytes is clamped and counted (virtio 1.4 §2.7.8.2, §2.8.4)`, () => {
      const rig = open({ size: 4 })
      const writable = rig.addOne(0, true)
      const readable = rig.addOne(1, false)
      rig.queue.publish()
      rig.takeAll()
      rig.peer.use([
        { id: writable, written: length },
        { id: readable, written: length },
      ])
      check('reap', rig.queue.reap(4), 2)
      check('completions', rig.completions(2), [
        { id: writable, written: 100, status: DMA_OK },
        { id: readable, written: 0, status: DMA_OK },
      ])
      check('clamped', rig.queue.counters.clamped, 2)
      check('broken', rig.queue.broken, null)
      rig.close()
    })
  }

  const IN_ORDER = [VIRTIO_F_IN_ORDER]
  test('ring/used: IN_ORDER, one element stands for a batch, whose others were used completely (virtio 1.4 §2.7.9, §2.8.8)', () => {
    const rig = open({ size: 8, features: IN_ORDER })
    for (let round = 0; round < 30; round++) {
      const ids = Array.from({ length: 6 }, (_, i) => rig.addOne(i, i % 2 === 0))
      rig.queue.publish()
      check(
        'chains',
        rig.takeAll().map(({ id }) => id),
        ids,
      )
      rig.peer.useBatch(ids[3], 4, 0)
      check('reap takes a batch whole', rig.queue.reap(1), 4)
      check(
        'completions',
        rig.completions(4),
        ids.slice(0, 4).map((id, i) => ({ id, written: i % 2 === 0 ? 100 : 0, status: DMA_OK })),
      )
      rig.peer.useBatch(ids[4], 1, 30)
      rig.peer.useBatch(ids[5], 1, 0)
      check('reap', rig.queue.reap(8), 2)
      check('completions', rig.completions(2), [
        { id: ids[4], written: 30, status: DMA_OK },
        { id: ids[5], written: 0, status: DMA_OK },
      ])
      check('clamped', rig.queue.counters.clamped, 0)
    }
    rig.close()
  })

  test('ring/used: IN_ORDER, chains of several descriptors and tables come back in ring order', () => {
    const rig = open({
      size: 8,
      features: [...IN_ORDER, VIRTIO_F_INDIRECT_DESC],
      indirect: { tables: 1, capacity: 8, from: 4 },
    })
    for (let round = 0; round < 40; round++) {
      const ids: number[] = []
      for (const count of [3, 1, 4, 2]) {
        for (let i = 0; i < count; i++) rig.guest(i, 2000 * ids.length + 100 * i, 20)
        ids.push(rig.queue.add(count, 0))
      }
      rig.queue.publish()
      check(
        'chains',
        rig.takeAll().map(({ id }) => id),
        ids,
      )
      rig.peer.useBatch(ids[3], 4, 0)
      check('reap', rig.queue.reap(8), 4)
      rig.queue.recycle()
      check('free', rig.queue.free, 8)
    }
    rig.close()
  })

  test('ring/used: IN_ORDER, chains that are added together come back in batches, round after round', () => {
    const rig = open({ size: 4, features: IN_ORDER })
    const addresses = Float64Array.from([1000, 2000], (at) => rig.machine.arenaBase + at)
    for (let round = 0; round < 30; round++) {
      // Chains of different lengths, so that a chain's number and its descriptor are not the same.
      rig.guest(0, 0, 50)
      rig.guest(1, 100, 50)
      const first = rig.queue.add(0, 2)
      check('added', rig.queue.addEach(2, addresses, Uint32Array.of(100, 100), 0, 0, true), 2)
      const ids = [first, ...rig.queue.added.subarray(0, 2)]
      rig.queue.publish()
      rig.takeAll()
      rig.peer.useBatch(ids[1], 2, 40)
      rig.peer.useBatch(ids[2], 1, 50)
      check('reap', rig.queue.reap(4), 3)
      check('completions', rig.completions(3), [
        { id: ids[0], written: 100, status: DMA_OK },
        { id: ids[1], written: 40, status: DMA_OK },
        { id: ids[2], written: 50, status: DMA_OK },
      ])
      rig.queue.recycle()
    }
    rig.close()
  })

  test('ring/used: nothing was written to a chain that is readable, whatever its id was used for before', () => {
    const rig = open({ size: 4 })
    const addresses = Float64Array.from([0, 1000, 2000, 3000], (at) => rig.machine.arenaBase + at)
    const lengths = Uint32Array.of(100, 100, 100, 100)
    for (const writable of [true, false, true, false]) {
      check('added', rig.queue.addEach(4, addresses, lengths, 0, 0, writable), 4)
      const ids = [...rig.queue.added]
      rig.queue.publish()
      rig.takeAll()
      rig.peer.use(ids.map((id) => ({ id, written: 60 })))
      rig.unmaps.length = 0
      check('reap', rig.queue.reap(4), 4)
      const written = writable ? 60 : 0
      check(
        'completions',
        rig.completions(4),
        ids.map((id) => ({ id, written, status: DMA_OK })),
      )
      check(
        'what the backend was told',
        rig.unmaps.map((unmap) => unmap.written),
        [written, written, written, written],
      )
      rig.queue.recycle()
    }
    check('clamped', rig.queue.counters.clamped, 8)
    rig.close()
  })
}
