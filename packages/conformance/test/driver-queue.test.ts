// What `DriverQueue` promises beyond the published suite, which the specification leaves to a driver.
import { DMA_OK } from '@guestdma/dma'
import {
  EVENT_SUPPRESSION_FLAGS,
  PACKED_DESCRIPTOR_FLAGS,
  RING_EVENT_FLAGS_DESCRIPTOR,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
} from '@guestdma/spec'
import { DriverQueue } from '@guestdma/virtqueue'
import { describe, expect, test } from 'vitest'
import { QueueRig, type QueueRigOptions, writeBus } from '../src/index.ts'

const PACKED = [VIRTIO_F_RING_PACKED]
const FORMATS = [
  ['split', []],
  ['packed', PACKED],
] as const

function open(format: readonly number[], options: QueueRigOptions): QueueRig {
  return new QueueRig((wanted) => new DriverQueue(wanted), { format }, options)
}

const idsOf = (rig: QueueRig): number[] => rig.takeAll().map(({ id }) => id)
const halves = (...values: number[]): Uint8Array => new Uint8Array(Uint16Array.from(values).buffer)

test.each(FORMATS)(
  '%s: a prepared chain that comes back stays prepared, and its descriptors are given to no other',
  (_, format) => {
    const rig = open(format, { size: 4 })
    rig.device(0)
    rig.device(1)
    const prepared = rig.queue.prepare(1, 1)
    for (let round = 0; round < 9; round++) {
      rig.queue.addPrepared(prepared)
      const other = rig.addPlain()
      rig.queue.publish()
      expect(idsOf(rig)).toEqual([prepared, other])
      rig.peer.use([
        { id: other, written: 0 },
        { id: prepared, written: 0 },
      ])
      expect(rig.queue.reap(4)).toBe(2)
      rig.queue.recycle()
      expect(rig.queue.free).toBe(2)
    }
    rig.close()
  },
)

test.each(FORMATS)('%s: no chain is prepared while others wait to be published', (_, format) => {
  const rig = open(format, { size: 4 })
  rig.device(0)
  const waiting = rig.addPlain()
  expect(() => rig.queue.prepare(1, 0)).toThrow(expect.objectContaining({ code: 'VIRTQUEUE_PREPARE' }))
  rig.queue.publish()
  rig.device(0)
  const prepared = rig.queue.prepare(1, 0)
  rig.queue.addPrepared(prepared)
  rig.queue.publish()
  expect(idsOf(rig)).toEqual([waiting, prepared])
  rig.close()
})

test.each(FORMATS)('%s: chains of three go round a ring, and each has descriptors of its own', (_, format) => {
  const rig = open(format, { size: 8 })
  for (let lap = 0; lap < 20; lap++) {
    const ids = [0, 1].map((k) => {
      for (let i = 0; i < 3; i++) rig.device(i, 1 + 3 * k + i)
      return rig.queue.add(3, 0)
    })
    rig.queue.publish()
    const chains = rig.takeAll()
    expect(chains.map(({ id, elements }) => [id, elements.map(({ length }) => length)])).toEqual([
      [ids[0], [1, 2, 3]],
      [ids[1], [4, 5, 6]],
    ])
    // Not in the order in which rows were taken.
    rig.peer.use(ids.reverse().map((id) => ({ id, written: 0 })))
    expect(rig.queue.reap(8)).toBe(2)
    rig.queue.recycle()
    expect(rig.queue.free).toBe(8)
  }
  rig.close()
})

describe('a packed ring', () => {
  test.each([
    ['an event beyond the ring', 4, RING_EVENT_FLAGS_DESCRIPTOR, [VIRTIO_F_EVENT_IDX]],
    ['an event far beyond it', 0xffff, RING_EVENT_FLAGS_DESCRIPTOR, [VIRTIO_F_EVENT_IDX]],
    ['an event that was not agreed on', 3, RING_EVENT_FLAGS_DESCRIPTOR, []],
    ['flags that are reserved', 3, 3, [VIRTIO_F_EVENT_IDX]],
  ] as const)('%s is answered by a doorbell, which does no harm (virtio 1.4 §2.8.14)', (_, event, flags, features) => {
    const rig = open(PACKED, { size: 4, features })
    for (let n = 1; n < 20; n++) {
      const { device } = rig.queue.areas
      writeBus(rig.port, device, halves(event))
      writeBus(rig.port, device + EVENT_SUPPRESSION_FLAGS, halves(flags))
      const id = rig.addPlain()
      rig.queue.publish()
      expect(rig.doorbells).toHaveLength(n)
      expect(idsOf(rig)).toEqual([id])
      rig.peer.use([{ id, written: 0 }])
      expect(rig.queue.reap(4)).toBe(1)
      rig.queue.recycle()
    }
    rig.close()
  })

  test('a length counts without WRITE too, where the device may write the chain: QEMU never sets it', () => {
    const rig = open(PACKED, { size: 4 })
    const id = rig.addOne(0, true)
    rig.queue.publish()
    rig.takeAll()
    rig.peer.use([{ id, written: 60 }])
    writeBus(rig.port, rig.queue.areas.descriptor + PACKED_DESCRIPTOR_FLAGS, halves(0x8080))
    expect(rig.queue.reap(4)).toBe(1)
    expect(rig.completions(1)).toEqual([{ id, written: 60, status: DMA_OK }])
    rig.close()
  })

  test('a used descriptor where nothing is outstanding is not looked at, and breaks nothing', () => {
    const rig = open(PACKED, { size: 4 })
    const id = rig.addPlain()
    rig.queue.publish()
    rig.takeAll()
    rig.peer.use([{ id, written: 0 }])
    expect(rig.queue.reap(4)).toBe(1)
    rig.peer.use([{ id, written: 0 }])
    expect([rig.queue.reap(4), rig.queue.broken]).toEqual([0, null])
    rig.close()
  })
})
