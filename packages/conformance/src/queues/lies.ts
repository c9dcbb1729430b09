import { VIRTIO_F_IN_ORDER } from '@guestdma/spec'
import { QUEUE_BROKEN, type VIRTQUEUE_CODES } from '@guestdma/virtqueue'
import type { QueueRig, QueueSuite } from './rig.ts'

/** What a device says, with which code it breaks the queue, and after how many good completions. */
type Lie = readonly [
  what: string,
  code: keyof typeof VIRTQUEUE_CODES,
  good: number,
  tell: (rig: QueueRig, ids: readonly number[]) => void,
]

const LIES: readonly Lie[] = [
  ['an id outside the queue', 'VIRTQUEUE_USED_ID', 0, ({ peer, queue }) => peer.use([{ id: queue.size, written: 0 }])],
  ['an id of 2^16 - 1', 'VIRTQUEUE_USED_ID', 0, ({ peer }) => peer.use([{ id: 0xffff, written: 0 }])],
  [
    'the same id twice',
    'VIRTQUEUE_USED_TWICE',
    1,
    ({ peer }, [id]) =>
      peer.use([
        { id, written: 0 },
        { id, written: 0 },
      ]),
  ],
  [
    'an id that nobody added',
    'VIRTQUEUE_USED_TWICE',
    0,
    ({ peer, queue }, ids) => peer.use([{ id: unusedId(queue.size, ids), written: 0 }]),
  ],
  [
    'a chain that is not published',
    'VIRTQUEUE_USED_TWICE',
    0,
    (rig) => rig.peer.use([{ id: rig.addOne(9), written: 0 }]),
  ],
]

// Ids of 32 bits that are also descriptors, and an index of its own.
const SPLIT_LIES: readonly Lie[] = [
  ['an id of 2^32 - 1', 'VIRTQUEUE_USED_ID', 0, ({ peer }) => peer.use([{ id: 0xffff_ffff, written: 0 }])],
  [
    'an id of 2^16, which is 0 in 16 bits',
    'VIRTQUEUE_USED_ID',
    0,
    ({ peer }, [id]) => peer.use([{ id: 0x1_0000 + id, written: 0 }]),
  ],
  [
    'an id of 2^30, which is 0 in words of four bytes',
    'VIRTQUEUE_USED_ID',
    0,
    ({ peer }, [id]) => peer.use([{ id: 0x4000_0000 + id, written: 0 }]),
  ],
  [
    'a descriptor that is not a head',
    'VIRTQUEUE_USED_TWICE',
    1,
    ({ peer }, ids) =>
      peer.use([
        { id: ids[0], written: 0 },
        { id: nonHead(ids), written: 0 },
      ]),
  ],
  ['more chains than are outstanding', 'VIRTQUEUE_USED_INDEX', 0, ({ peer }) => peer.jump(4)],
  ['an index that goes backwards', 'VIRTQUEUE_USED_INDEX', 0, ({ peer }) => peer.jump(-1)],
  ['an index half way round', 'VIRTQUEUE_USED_INDEX', 0, ({ peer }) => peer.jump(0x8000)],
]

/** What a device may not say. */
export function describeLies({ test, check, rig: open, packed }: QueueSuite): void {
  for (const [what, code, good, tell] of [...LIES, ...(packed ? [] : SPLIT_LIES)]) {
    test(`ring/used: ${what} breaks the queue, and only that`, () => {
      const rig = open({ size: 16 })
      // Two single descriptors and, between them, a chain of three.
      const first = rig.addOne(0, true)
      for (let i = 0; i < 3; i++) rig.guest(i, 8192 + 128 * i, 64)
      const ids = [first, rig.queue.add(1, 2), rig.addOne(2, true)]
      rig.queue.publish()
      rig.takeAll()
      tell(rig, ids)
      check('reap', rig.queue.reap(16), good)
      check('code', rig.queue.broken?.code, code)
      check('reap again', rig.queue.reap(16), 0)
      rig.guest(0, 0, 10)
      check('add', rig.queue.add(1, 0), QUEUE_BROKEN)
      check('publish', rig.queue.publish(), QUEUE_BROKEN)
      check('arm', rig.queue.arm(), false)
      // A reset brings it back: everything is unmapped, and a new queue works.
      rig.close()
    })
  }

  test('ring/used: IN_ORDER, an id that an earlier batch skipped breaks the queue', () => {
    const rig = open({ size: 8, features: [VIRTIO_F_IN_ORDER] })
    const ids = Array.from({ length: 4 }, (_, i) => rig.addOne(i))
    rig.queue.publish()
    rig.takeAll()
    rig.peer.useBatch(ids[2], 3, 0)
    rig.peer.useBatch(ids[1], 1, 0)
    check('reap', rig.queue.reap(8), 3)
    check('code', rig.queue.broken?.code, 'VIRTQUEUE_USED_TWICE')
    rig.close()
  })

  // A packed ring does not say how many chains a batch has.
  if (packed) return
  for (const [last, count] of [
    [3, 2],
    [2, 2],
    [1, 1],
  ]) {
    test(`ring/used: IN_ORDER, a batch of ${count} that skips ${last} chains breaks the queue`, () => {
      const rig = open({ size: 8, features: [VIRTIO_F_IN_ORDER] })
      const ids = Array.from({ length: 4 }, (_, i) => rig.addOne(i))
      rig.queue.publish()
      rig.takeAll()
      rig.peer.useBatch(ids[last], count, 0)
      check('reap', rig.queue.reap(8), 0)
      check('code', rig.queue.broken?.code, 'VIRTQUEUE_USED_ORDER')
      rig.close()
    })
  }
}

function unusedId(size: number, ids: readonly number[]): number {
  for (let id = size - 1; id >= 0; id--) if (!ids.includes(id)) return id
  return -1
}

// The chain of three begins with its head; what follows it in the table belongs to it.
function nonHead(ids: readonly number[]): number {
  return ids[1] + 1
}
