import { BIDIRECTIONAL, DMA_OK, DMA_TOO_LONG, FROM_DEVICE } from '@guestdma/dma'
import { VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC } from '@guestdma/spec'
import { QUEUE_FULL } from '@guestdma/virtqueue'
import { readBus } from '../doubles/bus-access.ts'
import type { PeerChain } from '../doubles/ring-peer.ts'
import { codeThrownBy } from '../runner/test-functions.ts'
import { fillPattern, firstDifference } from '../schemes/rig.ts'
import type { QueueRig, QueueSuite } from './rig.ts'

const POWERS = Array.from({ length: 16 }, (_, i) => 2 ** i)
const NO_SIZES = [0, -1, 32_769, 65_536, 1.5, Number.NaN]
// Only a split ring has to have a size that is a power of two.
const NO_POWERS = [3, 6, 100, 32_767]

/** Sizes, and chains as the device meets them. */
export function describeChains({ test, check, rig: open, options, packed }: QueueSuite): void {
  const { sizes = packed ? [...POWERS, ...NO_POWERS] : POWERS } = options
  const { badSizes = packed ? NO_SIZES : [...NO_SIZES, ...NO_POWERS] } = options
  for (const size of sizes) {
    test(`ring/geometry: a queue of ${size} is filled, emptied and filled again, twice round (virtio 1.4 §2.7, §2.8)`, () => {
      const rig = open({ size })
      for (let round = 0; round < 3; round++) {
        const ids = new Set<number>()
        for (let i = 0; i < size; i++) ids.add(rig.addPlain())
        check('ids that are distinct and in range', [...ids].filter((id) => id >= 0 && id < size).length, size)
        check('one more', rig.addPlain(), QUEUE_FULL)
        check('free descriptors', rig.queue.free, 0)
        check('publish', rig.queue.publish(), DMA_OK)
        check('outstanding', rig.queue.outstanding, size)
        const chains = rig.takeAll()
        check('chains that the device takes', chains.length, size)
        rig.peer.use(chains.map(({ id }) => ({ id, written: 0 })))
        check('completions', rig.queue.reap(size), size)
        rig.queue.recycle()
        check('free and outstanding', [rig.queue.free, rig.queue.outstanding], [size, 0])
      }
      rig.close()
    })
  }

  for (const size of badSizes) {
    test(`ring/geometry: a queue of ${size} is refused`, () => {
      check(
        'code',
        codeThrownBy(() => open({ size })),
        'VIRTQUEUE_SIZE',
      )
    })
  }

  test('ring/geometry: a queue that cannot hold the longest chain is refused', () => {
    check(
      'code',
      codeThrownBy(() => open({ size: 4, longestChain: 5 })),
      'VIRTQUEUE_TOO_SMALL',
    )
    open({ size: 4, longestChain: 4 }).close()
  })

  test('ring/chains: readable segments come first, then writable ones, as they were given (virtio 1.4 §2.7.4, §2.8.17)', () => {
    const rig = open({ size: 16 })
    fillPattern(rig.machine.arena, 1)
    const lengths = [1, 64, 7, 1514, 3, 512]
    for (const [i, length] of lengths.entries()) rig.guest(i, 5000 * i + i, length)
    const id = rig.queue.add(2, 4)
    rig.queue.publish()
    const [chain, ...others] = rig.takeAll()
    check('other chains', others.length, 0)
    check('id', chain.id, id)
    const expected = lengths.map((length, i) => ({
      address: rig.deviceAddress(5000 * i + i),
      length,
      writable: i >= 2,
    }))
    check('elements', chain.elements, expected)
    for (const i of [0, 1]) {
      const { address, length } = chain.elements[i]
      check(
        `first difference in segment ${i}`,
        firstDifference(
          readBus(rig.port, address, length),
          rig.machine.arena.slice(5000 * i + i, 5000 * i + i + length),
        ),
        -1,
      )
    }
    finish(rig, [chain])
    rig.close()
  })

  test('ring/chains: a segment longer than maxMappingLength is split, in order and without gaps', () => {
    const rig = open({ size: 64, maxMappingLength: 100 })
    for (const [length, pieces] of [
      [99, [99]],
      [100, [100]],
      [101, [100, 1]],
      [250, [100, 100, 50]],
      [300, [100, 100, 100]],
    ] as const) {
      rig.guest(0, 8, 40)
      rig.guest(1, 4096, length)
      rig.guest(2, 16_384, length)
      check('id', rig.queue.add(2, 1) >= 0, true)
      check('publish', rig.queue.publish(), DMA_OK)
      const chains = rig.takeAll()
      const of = (at: number, writable: boolean): unknown[] =>
        pieces.map((piece, i) => ({ address: rig.deviceAddress(at + 100 * i), length: piece, writable }))
      check(`elements of ${length} bytes`, chains[0].elements, [
        { address: rig.deviceAddress(8), length: 40, writable: false },
        ...of(4096, false),
        ...of(16_384, true),
      ])
      finish(rig, chains)
    }
    rig.close()
  })

  test('ring/used: written bytes fill the writable mappings in their order, and no others (virtio 1.4 §2.7.8, §2.8.4)', () => {
    for (const [written, shares] of [
      [0, [0, 0, 0, 0, 0]],
      [99, [0, 99, 0, 0, 0]],
      [120, [0, 100, 20, 0, 0]],
      [250, [0, 100, 100, 50, 0]],
      [257, [0, 100, 100, 50, 7]],
      [1000, [0, 100, 100, 50, 30]],
    ] as const) {
      const rig = open({ size: 16, maxMappingLength: 100 })
      rig.guest(0, 0, 50)
      rig.guest(1, 4096, 250)
      rig.guest(2, 8192, 30)
      const id = rig.queue.add(1, 2)
      rig.queue.publish()
      rig.takeAll()
      rig.peer.use([{ id, written }])
      check('reap', rig.queue.reap(8), 1)
      check('completion', rig.completions(1), [{ id, written: Math.min(written, 280), status: DMA_OK }])
      const inOrder = [...rig.unmaps].sort((a, b) => a.guest - b.guest)
      check(
        `what each mapping is told of ${written} bytes`,
        inOrder.map((unmap) => unmap.written),
        shares,
      )
      rig.close()
    }
  })

  test('ring/chains: a chain that could never fit is TooLong, one that does not fit now is full', () => {
    const rig = open({ size: 8, maxMappingLength: 100 })
    rig.guest(0, 0, 900)
    check('9 pieces in a queue of 8', rig.queue.add(1, 0), DMA_TOO_LONG)
    rig.guest(0, 0, 800)
    check('8 pieces', rig.queue.add(1, 0) >= 0, true)
    rig.guest(0, 0, 1)
    check('one more', rig.queue.add(1, 0), QUEUE_FULL)
    check('more than 2^32 bytes', tooManyBytes(open({ size: 8 })), DMA_TOO_LONG)
    rig.queue.publish()
    finish(rig, rig.takeAll())
    rig.close()
  })

  test('ring/chains: an empty chain and an empty segment are refused, and nothing stays mapped', () => {
    const rig = open()
    check(
      'no segment',
      codeThrownBy(() => rig.queue.add(0, 0)),
      'VIRTQUEUE_SEGMENT',
    )
    rig.guest(0, 0, 10)
    rig.guest(1, 0, 0)
    check(
      'an empty segment',
      codeThrownBy(() => rig.queue.add(1, 1)),
      'VIRTQUEUE_SEGMENT',
    )
    check('mapped', rig.backend.liveMappings, 0)
    check('free', rig.queue.free, 8)
    rig.close()
  })

  for (const features of [[VIRTIO_F_INDIRECT_DESC], [VIRTIO_F_INDIRECT_DESC, VIRTIO_F_IN_ORDER]]) {
    const inOrder = features.length > 1 ? ', in order' : ''
    test(`ring/chains: indirect tables hold chains from their minimum on, while there are tables (virtio 1.4 §2.7.5.3, §2.8.7)${inOrder}`, () => {
      const rig = open({ size: 8, features, indirect: { tables: 2, capacity: 6, from: 3 } })
      for (let round = 0; round < 20; round++) {
        for (const [n, count] of [2, 3, 6].entries()) {
          for (let i = 0; i < count; i++) rig.guest(i, 1000 * n + 64 * i, 10 + i)
          check(`chain of ${count}`, rig.queue.add(count - 1, 1) >= 0, true)
        }
        check('free after 2, and two tables', rig.queue.free, 4)
        for (let i = 0; i < 4; i++) rig.guest(i, 8000 + 64 * i, 5)
        check('a chain of 4 without a table', rig.queue.add(4, 0) >= 0, true)
        check('publish', rig.queue.publish(), DMA_OK)
        const chains = rig.takeAll()
        check(
          'indirect',
          chains.map(({ indirect, elements }) => [indirect, elements.length]),
          [
            [false, 2],
            [true, 3],
            [true, 6],
            [false, 4],
          ],
        )
        finish(rig, chains)
        check('free', rig.queue.free, 8)
      }
      rig.close()
    })
  }

  test('ring/chains: without INDIRECT_DESC no table is used, and a chain beyond the tables goes direct', () => {
    const without = open({ size: 8, indirect: { tables: 2, capacity: 8, from: 2 } })
    const beyond = open({ size: 8, features: [VIRTIO_F_INDIRECT_DESC], indirect: { tables: 2, capacity: 4, from: 2 } })
    for (const rig of [without, beyond]) {
      for (let i = 0; i < 5; i++) rig.guest(i, 64 * i, 5)
      rig.queue.add(5, 0)
      rig.queue.publish()
      const chains = rig.takeAll()
      check(
        'indirect',
        chains.map(({ indirect }) => indirect),
        [false],
      )
      finish(rig, chains)
      rig.close()
    }
  })

  test('ring/chains: cells belong to their chain, for headers and statuses', () => {
    const rig = open({ size: 8, features: [VIRTIO_F_INDIRECT_DESC], indirect: { tables: 4, capacity: 4, from: 3 } })
    const headers = rig.queue.cells(12, BIDIRECTIONAL)
    const statuses = rig.queue.cells(1, FROM_DEVICE)
    const ids: number[] = []
    for (let n = 0; n < 3; n++) {
      const { segments } = rig.queue
      segments.kind[0] = headers.kind
      segments.address[0] = 0
      segments.length[0] = 12
      rig.guest(1, 1000 * n, 50)
      segments.kind[2] = statuses.kind
      segments.address[2] = 0
      segments.length[2] = 1
      ids.push(n === 1 ? rig.queue.add(2, 0) : rig.queue.add(2, 1))
    }
    rig.queue.publish()
    const chains = rig.takeAll()
    for (const [n, { elements }] of chains.entries()) {
      check(`header of chain ${n}`, elements[0].address, headers.memory.device + headers.stride * ids[n])
      if (n !== 1) check(`status of chain ${n}`, elements[2].address, statuses.memory.device + statuses.stride * ids[n])
    }
    check('cells do not overlap', headers.stride >= 12 && statuses.stride >= 1, true)
    finish(rig, chains)
    rig.close()
  })

  test('ring/chains: addEach does what as many calls of add do', () => {
    for (const [kind, lead] of [
      [0, 0],
      [0, 12],
    ]) {
      const rig = open({ size: 8, maxMappingLength: 100 })
      const { queue } = rig
      const addresses = Float64Array.from([0, 1000, 2000, 3000], (at) => rig.machine.arenaBase + 64 + at)
      const lengths = Uint32Array.from([20, 88 - lead, 250 - lead, 1])
      const added = queue.addEach(4, addresses, lengths, lead, kind, true)
      check('added', [added, queue.addStatus], [4, DMA_OK])
      queue.publish()
      const chains = rig.takeAll()
      check(
        'ids',
        chains.map(({ id }) => id),
        [...queue.added.subarray(0, 4)],
      )
      const at = (n: number, i = 0): unknown => rig.deviceAddress(64 + 1000 * n + 100 * i - lead)
      const whole = (n: number): unknown[] => [{ address: at(n), length: lengths[n] + lead, writable: true }]
      const pieces = [100, 100, 50].map((length, i) => ({ address: at(2, i), length, writable: true }))
      check(
        'elements',
        chains.map(({ elements }) => elements),
        [whole(0), whole(1), pieces, whole(3)],
      )
      check('free', queue.free, 2)
      const more = queue.addEach(4, addresses, lengths, lead, kind, true)
      check('added where there is room for two', [more, queue.addStatus], [2, QUEUE_FULL])
      queue.publish()
      finish(rig, [...chains, ...rig.takeAll()])
      rig.close()
    }
  })
}

// The device returns the chains in their order, and the driver recycles them.
function finish(rig: QueueRig, chains: readonly PeerChain[]): void {
  rig.peer.use(chains.map(({ id }) => ({ id, written: 0 })))
  rig.queue.reap(chains.length)
  rig.queue.recycle()
}

function tooManyBytes(rig: QueueRig): number {
  rig.device(0, 0xffff_ffff)
  rig.device(1, 0xffff_ffff)
  return rig.queue.add(1, 1)
}
