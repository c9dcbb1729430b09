import { DMA_CORRUPT, DMA_EXHAUSTED, DMA_FAILED, DMA_OK, DMA_UNMAPPABLE } from '@guestdma/dma'
import { FeatureSet, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import type { Virtqueue } from '@guestdma/virtqueue'
import { codeThrownBy } from '../runner/test-functions.ts'
import type { QueueRig, QueueSuite } from './rig.ts'

/** Backends that fail, and the end of a queue. */
export function describeFailures({ test, check, rig: open, make, options: suite }: QueueSuite): void {
  const shapes = [
    ['direct', {}],
    ['indirect', { features: [VIRTIO_F_INDIRECT_DESC], indirect: { tables: 2, capacity: 8, from: 2 } }],
    ['in order', { features: [VIRTIO_F_IN_ORDER] }],
  ] as const

  for (const [shape, options] of shapes) {
    test(`a map that fails anywhere in a chain leaves nothing mapped and nothing taken (${shape})`, () => {
      const rig = open({ size: 16, maxMappingLength: 100, ...options })
      const kept = rig.addOne(20)
      const ids: number[] = []
      for (let failing = 1; failing <= 6; failing++) {
        for (const status of [DMA_EXHAUSTED, DMA_UNMAPPABLE] as const) {
          rig.faulty.mapStatus = status
          rig.faulty.failMap = failing
          describeSix(rig)
          check(`add, map ${failing} fails`, rig.queue.add(2, 2), status)
          check('mapped, beside the first chain', rig.backend.liveMappings, 1)
          check('free', rig.queue.free, 15)
        }
      }
      describeSix(rig)
      ids.push(kept, rig.queue.add(2, 2))
      check('publish', rig.queue.publish(), DMA_OK)
      const chains = rig.takeAll()
      check(
        'chains',
        chains.map(({ id, elements }) => [id, elements.length]),
        [
          [kept, 1],
          [ids[1], 6],
        ],
      )
      rig.peer.use(ids.map((id) => ({ id, written: 0 })))
      check('reap', rig.queue.reap(8), 2)
      rig.close()
    })

    test(`commitMaps that fails undoes the batch and publishes nothing (${shape})`, () => {
      const rig = open({ size: 16, maxMappingLength: 100, ...options })
      const before = rig.addOne(20)
      rig.queue.publish()
      for (let round = 0; round < 5; round++) {
        describeSix(rig)
        const ids = [rig.queue.add(2, 2), rig.addOne(1), rig.addOne(2, true)]
        rig.faulty.failCommitMaps = 1
        rig.doorbells.length = 0
        check('publish', rig.queue.publish(), DMA_FAILED)
        check('undone', [...rig.queue.undoneId.subarray(0, rig.queue.undone)].sort(), [...ids].sort())
        check('doorbells', rig.doorbells.length, 0)
        check(
          'available',
          rig.peer.peek().map(({ id }) => id),
          [before],
        )
        check('mapped', rig.backend.liveMappings, 1)
        check('free and outstanding', [rig.queue.free, rig.queue.outstanding], [15, 1])
      }
      describeSix(rig)
      const after = rig.queue.add(2, 2)
      check('publish', rig.queue.publish(), DMA_OK)
      check('undone', rig.queue.undone, 0)
      // Tables are free again as well.
      check(
        'available',
        rig.takeAll().map(({ id, indirect }) => [id, indirect]),
        [
          [before, false],
          [after, shape === 'indirect'],
        ],
      )
      rig.peer.use([before, after].map((id) => ({ id, written: 0 })))
      check('reap', rig.queue.reap(8), 2)
      rig.close()
    })
  }

  test('a batch that is undone does not disturb what was reaped and not recycled', () => {
    const rig = open({ size: 8 })
    const first = [rig.addOne(0), rig.addOne(1), rig.addOne(2)]
    rig.queue.publish()
    rig.takeAll()
    rig.peer.use(first.map((id) => ({ id, written: 0 })))
    check('reap', rig.queue.reap(8), 3)
    rig.addOne(3)
    rig.addOne(4)
    rig.faulty.failCommitMaps = 1
    check('publish', rig.queue.publish(), DMA_FAILED)
    check(
      'completions',
      rig.completions(3).map(({ id }) => id),
      first,
    )
    rig.queue.recycle()
    check('free', rig.queue.free, 8)
    rig.close()
  })

  test('commitUnmaps that fails breaks the queue, and no completion is delivered', () => {
    const rig = open({ size: 8 })
    const ids = [rig.addOne(0, true), rig.addOne(1, true)]
    rig.queue.publish()
    rig.takeAll()
    rig.peer.use(ids.map((id) => ({ id, written: 10 })))
    rig.faulty.failCommitUnmaps = 1
    check('reap', rig.queue.reap(8), 0)
    check('code', rig.queue.broken?.code, 'VIRTQUEUE_COMMIT')
    check('reap again', rig.queue.reap(8), 0)
    check('ids that could be used again', rig.queue.free, 6)
  })

  test('commitUnmaps that fails while a chain or a batch is undone breaks the queue', () => {
    const halfway = open({ size: 8 })
    halfway.guest(0, 0, 10)
    halfway.guest(1, 100, 10)
    halfway.faulty.failMap = 2
    halfway.faulty.failCommitUnmaps = 1
    check('add', halfway.queue.add(1, 1) < 0, true)
    check('code', halfway.queue.broken?.code, 'VIRTQUEUE_COMMIT')
    const batch = open({ size: 8 })
    batch.addOne(0)
    batch.faulty.failCommitMaps = 1
    batch.faulty.failCommitUnmaps = 1
    check('publish', batch.queue.publish() < 0, true)
    check('code', batch.queue.broken?.code, 'VIRTQUEUE_COMMIT')
  })

  test('a completion that arrived corrupt says so, and the others are delivered', () => {
    const rig = open({ size: 8, maxMappingLength: 100 })
    describeSix(rig)
    const ids = [rig.addOne(0, true), rig.addOne(1, true), rig.queue.add(2, 2)]
    // addOne changed segment 0; what was added is what counts.
    rig.queue.publish()
    rig.takeAll()
    rig.peer.use(ids.slice(0, 2).map((id) => ({ id, written: 10 })))
    rig.faulty.failUnmap = 1
    check('reap', rig.queue.reap(8), 2)
    check(
      'statuses',
      rig.completions(2).map(({ status }) => status),
      [DMA_CORRUPT, DMA_OK],
    )
    rig.peer.use([{ id: ids[2], written: 10 }])
    rig.faulty.failUnmap = 2
    check('reap', rig.queue.reap(8), 1)
    check('status of a chain of which one mapping was corrupt', rig.completions(1)[0].status, DMA_CORRUPT)
    check('broken', rig.queue.broken, null)
    rig.close()
  })

  test('a queue that finds no memory for one of its areas gives the others back', () => {
    const rig = open({ size: 8 })
    const regions = rig.backend.liveRegions
    const { name, index, size } = rig.queue
    const features = FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC, ...(suite.format ?? []))
    const indirect = { tables: 2, capacity: 4 }
    const makeAnother = (): Virtqueue =>
      make({ name, index, size, backend: rig.backend, features, doorbell: () => {}, indirect })
    const another = makeAnother()
    const areas = rig.backend.liveRegions - regions
    another.dispose()
    check('there are areas', areas > 0, true)
    for (let failing = 1; failing <= areas; failing++) {
      rig.faulty.failAlloc = failing
      check(`code, area ${failing} fails`, codeThrownBy(makeAnother), 'DMA_ALLOC')
      check('regions that stayed', rig.backend.liveRegions - regions, 0)
    }
    rig.close()
  })

  for (const [shape, options] of shapes) {
    test(`a queue that was reset alone is as it was made, and nothing of it is mapped (${shape})`, () => {
      const rig = open({ size: 16, maxMappingLength: 100, ...options })
      const { areas } = rig.queue
      for (let round = 0; round < 3; round++) {
        const ids = [rig.addOne(0), rig.addOne(1, true), rig.addOne(2)]
        check('publish', rig.queue.publish(), DMA_OK)
        rig.takeAll()
        rig.peer.use([{ id: ids[0], written: 0 }])
        check('reap', rig.queue.reap(8), 1)
        rig.queue.recycle()
        describeSix(rig)
        rig.queue.add(2, 2)
        rig.queue.publish()
        // One that was added and not published, and one that was used and not reaped.
        rig.addOne(4)
        rig.peer.use([{ id: ids[1], written: 1 }])
        rig.reset()
        check('mapped and uncommitted', [rig.backend.liveMappings, rig.backend.uncommitted], [0, 0])
        check('free and outstanding', [rig.queue.free, rig.queue.outstanding], [16, 0])
        check('broken', rig.queue.broken, null)
        check('used', [rig.queue.hasUsed, rig.queue.reap(8)], [false, 0])
        check('areas', rig.queue.areas, areas)
      }
      rig.close()
    })
  }

  test('a broken queue that was reset alone works', () => {
    const rig = open({ size: 8 })
    rig.addOne(0)
    rig.addOne(2)
    rig.queue.publish()
    rig.takeAll()
    rig.peer.use([{ id: 99, written: 0 }])
    rig.queue.reap(8)
    check('broken', rig.queue.broken !== null, true)
    rig.reset()
    check('broken', rig.queue.broken, null)
    const again = rig.addOne(1)
    check('publish', rig.queue.publish(), DMA_OK)
    check(
      'chains',
      rig.takeAll().map((chain) => chain.id),
      [again],
    )
    rig.peer.use([{ id: again, written: 0 }])
    check('reap', rig.queue.reap(8), 1)
    rig.close()
  })

  test('commitUnmaps that fails while a queue is reset breaks it', () => {
    const rig = open({ size: 8 })
    rig.addOne(0)
    rig.queue.publish()
    rig.faulty.failCommitUnmaps = 1
    check(
      'code',
      codeThrownBy(() => rig.queue.reset()),
      'VIRTQUEUE_COMMIT',
    )
    check('broken', rig.queue.broken?.code, 'VIRTQUEUE_COMMIT')
  })

  for (const [shape, options] of shapes) {
    test(`reset/revokes: dispose unmaps what is outstanding, added or reaped, and frees all memory (${shape})`, () => {
      const rig = open({ size: 32, maxMappingLength: 100, ...options })
      rig.queue.cells(16, 3)
      const reaped = rig.addOne(0)
      describeSix(rig)
      rig.queue.add(2, 2)
      rig.addOne(5, true)
      rig.queue.publish()
      rig.takeAll()
      rig.peer.use([{ id: reaped, written: 0 }])
      check('reap', rig.queue.reap(8), 1)
      describeSix(rig)
      rig.queue.add(2, 2)
      check('mapped', rig.backend.liveMappings, 13)
      rig.queue.dispose()
      check(
        'mapped, uncommitted and allocated',
        [rig.backend.liveMappings, rig.backend.uncommitted, rig.backend.liveRegions],
        [0, 0, 0],
      )
      check('reachable windows', rig.port.windows.length, 0)
      rig.backend.dispose()
    })
  }
}

// Two readable and two writable segments, each of the second longer than one mapping: six mappings.
function describeSix(rig: QueueRig): void {
  rig.guest(0, 32_768, 40)
  rig.guest(1, 33_000, 150)
  rig.guest(2, 34_000, 60)
  rig.guest(3, 35_000, 199)
}
