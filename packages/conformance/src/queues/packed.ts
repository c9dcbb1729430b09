import { DMA_OK } from '@guestdma/dma'
import { RING_EVENT_FLAGS_DESCRIPTOR, VIRTIO_F_EVENT_IDX } from '@guestdma/spec'
import { writeBus } from '../doubles/bus-access.ts'
import type { PeerChain } from '../doubles/ring-peer.ts'
import { SteppingMemory } from '../doubles/stepping-memory.ts'
import type { QueueRig, QueueSuite } from './rig.ts'

/** What only a packed ring has: laps of any length, marks, and entries that are descriptors. */
export function describePacked({ test, check, rig: open }: QueueSuite): void {
  for (const size of [1, 3, 5, 12]) {
    test(`ring/geometry: chains of several descriptors go round a queue of ${size} and come back in any order (virtio 1.4 §2.8.6)`, () => {
      const rig = open({ size })
      let held: PeerChain[] = []
      for (let round = 0; round < 12 * size; round++) {
        const ids: number[] = []
        for (let n = round; ; n++) {
          const count = 1 + (n % Math.min(3, size))
          if (count > rig.queue.free) break
          ids.push(addPlainChain(rig, count))
        }
        check('publish', rig.queue.publish(), DMA_OK)
        const chains = rig.takeAll()
        check(
          'chains',
          chains.map(({ id }) => id),
          ids,
        )
        // The last come first, and one stays for the next round.
        const all = [...held, ...chains].reverse()
        held = round % 2 === 0 && all.length > 1 ? all.splice(round % all.length, 1) : []
        rig.peer.use(all.map(({ id }) => ({ id, written: 0 })))
        check('reap', rig.queue.reap(size), all.length)
        check(
          'completions',
          rig.completions(all.length).map(({ id }) => id),
          all.map(({ id }) => id),
        )
        rig.queue.recycle()
        const elements = held.reduce((sum, chain) => sum + chain.elements.length, 0)
        check('free and outstanding', [rig.queue.free, rig.queue.outstanding], [size - elements, held.length])
      }
      rig.close()
    })
  }

  test('ring/notification: the event may be any descriptor of a chain, and the doorbell names the one behind it (virtio 1.4 §2.8.10, §2.9)', () => {
    const rig = open({ size: 7, features: [VIRTIO_F_EVENT_IDX] })
    let position = 0
    for (let round = 0; round < 70; round++) {
      const event = position - 2 + (round % 8)
      rig.peer.wantDoorbellAt(event)
      rig.doorbells.length = 0
      const id = addPlainChain(rig, 3)
      rig.queue.publish()
      const within = event >= position && event < position + 3
      position += 3
      check(
        `doorbells, event ${event} before ${position}`,
        rig.doorbells,
        within ? [rig.peer.positionOf(position)] : [],
      )
      check('chains', rig.takeAll().length, 1)
      rig.peer.use([{ id, written: 0 }])
      check('reap', rig.queue.reap(7), 1)
      rig.queue.recycle()
    }
    rig.close()
  })

  test('ring/notification: with EVENT_IDX too the device switches doorbells off and on (virtio 1.4 §2.8.10)', () => {
    const rig = open({ size: 4, features: [VIRTIO_F_EVENT_IDX] })
    for (const [n, wanted] of [false, true, true, false].entries()) {
      rig.peer.wantDoorbellAt(n + 100)
      rig.peer.wantDoorbells(wanted)
      rig.doorbells.length = 0
      rig.addPlain()
      rig.queue.publish()
      check(`doorbells, wanted ${wanted}`, rig.doorbells.length, wanted ? 1 : 0)
    }
    rig.close()
  })

  test('ring/notification: an event that cannot be, or flags that are reserved, keep no chain from the device (virtio 1.4 §2.8.14)', () => {
    for (const features of [[], [VIRTIO_F_EVENT_IDX]]) {
      const rig = open({ size: 4, features })
      for (const [descriptor, flags] of [
        [4, RING_EVENT_FLAGS_DESCRIPTOR],
        [0xffff, RING_EVENT_FLAGS_DESCRIPTOR],
        [0, 3],
        [0xffff, 0xffff],
      ]) {
        writeBus(rig.port, rig.queue.areas.device, Uint8Array.from([descriptor, descriptor >>> 8, flags, flags >>> 8]))
        const id = rig.addPlain()
        check(`publish, event ${descriptor}, flags ${flags}`, rig.queue.publish(), DMA_OK)
        check(
          'chains',
          rig.takeAll().map((chain) => chain.id),
          [id],
        )
        rig.peer.use([{ id, written: 0 }])
        check('reap', rig.queue.reap(4), 1)
        rig.queue.recycle()
      }
      check('broken', rig.queue.broken, null)
      rig.close()
    }
  })

  test('ring/used: a used descriptor ahead of its turn is seen in its turn, and not before (virtio 1.4 §2.8.2)', () => {
    const rig = open({ size: 4 })
    for (let round = 0; round < 9; round++) {
      const ids = [rig.addOne(0, true), rig.addOne(1, true), rig.addOne(2, true)]
      rig.queue.publish()
      rig.takeAll()
      rig.peer.jump(1)
      rig.peer.use([{ id: ids[2], written: 7 }])
      checkUnseen(rig)
      rig.peer.jump(-2)
      rig.peer.use([{ id: ids[0], written: 8 }])
      check('reap', rig.queue.reap(4), 2)
      check('completions', rig.completions(2), [
        { id: ids[0], written: 8, status: DMA_OK },
        { id: ids[2], written: 7, status: DMA_OK },
      ])
      rig.peer.jump(1)
      rig.peer.use([{ id: ids[1], written: 0 }])
      check('reap', rig.queue.reap(4), 1)
      rig.queue.recycle()
    }
    rig.close()
  })

  test('ring/used: a used descriptor with the wrong wrap counter is not seen (virtio 1.4 §2.8.1)', () => {
    const rig = open({ size: 4 })
    for (let round = 0; round < 9; round++) {
      const id = rig.addOne(0, true)
      rig.queue.publish()
      rig.takeAll()
      rig.peer.jump(4)
      rig.peer.use([{ id, written: 7 }])
      checkUnseen(rig)
      rig.peer.jump(-5)
      rig.peer.use([{ id, written: 8 }])
      check('reap', rig.queue.reap(4), 1)
      check('completions', rig.completions(1), [{ id, written: 8, status: DMA_OK }])
      rig.queue.recycle()
    }
    rig.close()
  })

  test('ring/used: a used descriptor where nothing is outstanding completes nothing', () => {
    const rig = open({ size: 4 })
    const id = rig.addPlain()
    rig.queue.publish()
    rig.takeAll()
    rig.peer.use([{ id, written: 0 }])
    check('reap', rig.queue.reap(4), 1)
    rig.peer.use([{ id, written: 0 }])
    check('reap again', rig.queue.reap(4), 0)
    rig.close()
  })

  test('ring/used: the length of a chain that the device may not write is ignored (virtio 1.4 §2.8.4)', () => {
    const rig = open({ size: 4 })
    const id = rig.addOne(0)
    rig.queue.publish()
    rig.takeAll()
    // The peer sets no WRITE, and leaves the length of the element where it is.
    rig.peer.use([{ id, written: 0 }])
    check('reap', rig.queue.reap(4), 1)
    check('completions', rig.completions(1), [{ id, written: 0, status: DMA_OK }])
    check('clamped', rig.queue.counters.clamped, 0)
    rig.close()
  })

  test('ring/used: flags that turn used between two looks are looked at once (virtio 1.4 §2.8.1)', () => {
    const rig = open({ size: 4 })
    const stepping = new SteppingMemory(rig.machine.memory.regions[0])
    for (let round = 0; round < 9; round++) {
      const ids = [rig.addOne(0, true), rig.addOne(1, true)]
      rig.queue.publish()
      rig.takeAll()
      rig.peer.use([{ id: ids[0], written: 7 }])
      // As soon as the driver has looked at a word, the device makes the other descriptor used, and takes the first back.
      let turned = false
      stepping.onLoad = (_, __, nth) => {
        if (nth > 1 || turned) return
        turned = true
        rig.peer.use([{ id: ids[1], written: 8 }])
      }
      const n = stepping.run(() => rig.queue.reap(4))
      stepping.onLoad = null
      check('reap of one or both', n === 1 || n === 2, true)
      check('the first', rig.completions(1), [{ id: ids[0], written: 7, status: DMA_OK }])
      check('reap of the rest', n + rig.queue.reap(4), 2)
      check('broken', rig.queue.broken, null)
      rig.queue.recycle()
    }
    stepping.restore()
    rig.close()
  })

  function checkUnseen({ queue }: QueueRig): void {
    check('nothing to be seen', [queue.hasUsed, queue.arm(), queue.reap(4)], [false, false, 0])
    check('broken', queue.broken, null)
  }
}

function addPlainChain(rig: QueueRig, count: number): number {
  for (let i = 0; i < count; i++) rig.device(i)
  return rig.queue.add(count - 1, 1)
}
