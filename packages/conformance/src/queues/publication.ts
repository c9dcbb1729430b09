import { DMA_OK } from '@guestdma/dma'
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC } from '@guestdma/spec'
import { readBus } from '../doubles/bus-access.ts'
import { SteppingMemory } from '../doubles/stepping-memory.ts'
import type { QueueSuite } from './rig.ts'

/** What the device can see between any two stores of the driver. */
export function describePublication({ test, check, rig: open }: QueueSuite): void {
  test('ring/publication: a device that looks after every store never meets an incomplete chain (virtio 1.4 §2.7.13, §2.8.17)', () => {
    const rig = open({
      size: 16,
      maxMappingLength: 100,
      features: [VIRTIO_F_INDIRECT_DESC],
      indirect: { tables: 2, capacity: 8, from: 3 },
    })
    const stepping = new SteppingMemory(rig.machine.memory.regions[0])
    let steps = 0
    for (let batch = 0; batch < 12; batch++) {
      const expected: string[] = []
      const seen: number[] = []
      stepping.onStore = () => {
        steps++
        const chains = rig.peer.peek()
        seen.push(chains.length)
        for (const [i, { elements }] of chains.entries()) {
          check('chain', JSON.stringify(elements), expected[i])
          // Committed before it was published: the port is open already.
          for (const { address, length, writable } of elements)
            if (!writable) check('readable', readBus(rig.port, address, length) !== null, true)
        }
      }
      stepping.run(() => {
        for (const [n, lengths] of [[40], [10, 250], [1, 2, 3], [5, 6, 7, 8]].entries()) {
          const at = (i: number): number => 20_000 * n + 1000 * i + batch
          for (const [i, length] of lengths.entries()) rig.guest(i, at(i), length)
          const pieces = lengths.flatMap((length, i) =>
            Array.from({ length: Math.ceil(length / 100) }, (_, p) => ({
              address: rig.deviceAddress(at(i) + 100 * p),
              length: Math.min(100, length - 100 * p),
              writable: i === lengths.length - 1,
            })),
          )
          expected.push(JSON.stringify(pieces))
          check('add', rig.queue.add(lengths.length - 1, 1) >= 0, true)
        }
        const addresses = Float64Array.of(
          rig.machine.arenaBase + 100_000 + batch,
          rig.machine.arenaBase + 110_000 + batch,
        )
        for (const at of [100_000 + batch, 110_000 + batch]) {
          expected.push(JSON.stringify([{ address: rig.deviceAddress(at), length: 30, writable: false }]))
        }
        check('addEach', rig.queue.addEach(2, addresses, Uint32Array.of(30, 30), 0, 0, false), 2)
        check('visible before publish', Math.max(0, ...seen), 0)
        check('publish', rig.queue.publish(), DMA_OK)
      })
      check('what was visible, from step to step', [...new Set(seen)], [0, 6])
      const chains = rig.takeAll()
      check('chains', chains.length, 6)
      rig.peer.use(chains.map(({ id }) => ({ id, written: 1 })))
      stepping.onStore = null
      check('reap', rig.queue.reap(16), 6)
      rig.queue.recycle()
    }
    check('steps', steps > 200, true)
    stepping.restore()
    rig.close()
  })

  test('ring/publication: one store makes a batch available, and at most one doorbell rings', () => {
    const rig = open({ size: 32 })
    const stepping = new SteppingMemory(rig.machine.memory.regions[0])
    for (const count of [1, 2, 16, 32, 0]) {
      let changes = 0
      let before = 0
      stepping.onStore = () => {
        const now = rig.peer.peek().length
        if (now !== before) changes++
        before = now
      }
      rig.doorbells.length = 0
      stepping.run(() => {
        for (let i = 0; i < count; i++) rig.addPlain()
        check('publish', rig.queue.publish(), DMA_OK)
      })
      check(`stores that made ${count} chains available`, changes, Math.min(count, 1))
      check('doorbells', rig.doorbells.length, Math.min(count, 1))
      const chains = rig.takeAll()
      rig.peer.use(chains.map(({ id }) => ({ id, written: 0 })))
      stepping.onStore = null
      check('reap', rig.queue.reap(32), count)
      rig.queue.recycle()
    }
    stepping.restore()
    rig.close()
  })

  test('ring/publication: the doorbell rings after a chain is available, and says where the next one goes (virtio 1.4 §2.9)', () => {
    const rig = open({ size: 4 })
    for (let n = 1; n <= 10; n++) {
      const id = rig.addPlain()
      rig.queue.publish()
      check(
        'doorbells',
        rig.doorbells,
        Array.from({ length: n }, (_, i) => rig.peer.positionOf(i + 1)),
      )
      check('available', rig.takeAll().length, 1)
      rig.peer.use([{ id, written: 0 }])
      rig.queue.reap(4)
    }
    rig.close()
  })

  for (const features of [[], [VIRTIO_F_EVENT_IDX]]) {
    const mode = features.length === 0 ? 'flags' : 'event index'
    test(`ring/used: what the device can write is loaded once for each decision (${mode})`, () => {
      const rig = open({ size: 8, features })
      const stepping = new SteppingMemory(rig.machine.memory.regions[0])
      const twice: string[] = []
      const once = (what: string, body: () => void): void => {
        stepping.onLoad = (offset, bytes, nth) => {
          if (nth > 1) twice.push(`${what}: ${bytes} bytes at ${offset}`)
        }
        stepping.run(body)
        stepping.onLoad = null
      }
      for (let round = 0; round < 20; round++) {
        once('add', () => {
          for (let i = 0; i < 5; i++) rig.addOne(i, true)
        })
        once('publish', () => void check('publish', rig.queue.publish(), DMA_OK))
        once('reap of nothing', () => void check('reap', rig.queue.reap(8), 0))
        const chains = rig.takeAll()
        rig.peer.use(chains.map(({ id }) => ({ id, written: 50 })))
        once('arm', () => void check('arm', rig.queue.arm(), true))
        once('reap', () => void check('reap', rig.queue.reap(8), 5))
        once('recycle', () => rig.queue.recycle())
        once('disarm', () => rig.queue.disarm())
      }
      check('loaded twice', twice, [])
      stepping.restore()
      rig.close()
    })
  }

  test('ring/used: a device that changes words after they were loaded changes nothing', () => {
    const rig = open({ size: 8 })
    const stepping = new SteppingMemory(rig.machine.memory.regions[0])
    for (let round = 0; round < 10; round++) {
      const ids = Array.from({ length: 4 }, (_, i) => rig.addOne(i, true))
      rig.queue.publish()
      rig.takeAll()
      rig.peer.use(ids.map((id, i) => ({ id, written: 10 + i })))
      // From the second load on, everything that is loaded again reads as all ones.
      stepping.onLoad = (offset, bytes, nth) => void (nth > 1 && stepping.raw.u8.fill(0xff, offset, offset + bytes))
      check(
        'reap',
        stepping.run(() => rig.queue.reap(8)),
        4,
      )
      stepping.onLoad = null
      check(
        'completions',
        rig.completions(4),
        ids.map((id, i) => ({ id, written: 10 + i, status: DMA_OK })),
      )
      check('broken', rig.queue.broken, null)
      rig.queue.recycle()
    }
    stepping.restore()
    rig.close()
  })

  test('ring/immutability: a device that overwrites what the driver wrote does no harm (virtio 1.4 §2.7.5.1, §2.8.15)', () => {
    const rig = open({ size: 8, features: [VIRTIO_F_INDIRECT_DESC], indirect: { tables: 1, capacity: 4, from: 3 } })
    for (let round = 0; round < 10; round++) {
      const ids: number[] = []
      for (const [n, count] of [1, 2, 3].entries()) {
        for (let i = 0; i < count; i++) rig.guest(i, 1000 * n + 100 * i, 20)
        ids.push(rig.queue.add(count - 1, 1))
      }
      rig.queue.publish()
      check(
        'chains',
        rig.takeAll().map(({ id }) => id),
        ids,
      )
      rig.peer.scribble()
      rig.peer.use([...ids].reverse().map((id) => ({ id, written: 20 })))
      check('reap', rig.queue.reap(8), 3)
      check(
        'completions',
        rig.completions(3),
        [...ids].reverse().map((id) => ({ id, written: 20, status: DMA_OK })),
      )
      rig.queue.recycle()
      check('free', rig.queue.free, 8)
      check('mapped', rig.backend.liveMappings, 0)
      // The position alone must survive, since a device may look at it: the driver stores all of it again.
      const again = rig.addPlain()
      rig.queue.publish()
      check(
        'the next chain is whole again',
        rig.takeAll().map(({ id }) => id),
        [again],
      )
      rig.peer.use([{ id: again, written: 0 }])
      check('reap', rig.queue.reap(8), 1)
    }
    rig.close()
  })
}
