// Rings and buffers beyond the places that are 32-bit integers: in a guest whose RAM is one large buffer, of which only
// the pages that are touched take memory.
import { BusWindows } from '@guestdma/devices'
import { RingWalker } from '@guestdma/devices/ring'
import { DirectBackend } from '@guestdma/dma'
import { GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { DriverQueue, SEGMENT_GUEST } from '@guestdma/virtqueue'
import { describe, expect, test } from 'vitest'

const GIB = 2 ** 30
const ARENA = 1 << 18

function memoryOf(bytes: number): ArrayBuffer | null {
  try {
    return new ArrayBuffer(bytes)
  } catch {
    return null
  }
}

describe.each([1.5, 2.5, 4.5, 8.5])('%f GiB into a region', (gib) => {
  test.for(['split', 'packed'])('chains go through a %s ring, round after round', (format, { skip }) => {
    const packed = format === 'packed'
    const base = gib * GIB
    const buffer = memoryOf(base + ARENA)
    if (buffer === null) skip('this machine gives no buffer of so many bytes')
    const source = buffer as ArrayBuffer
    const memory = new GuestMemory([{ base: 0, length: base + ARENA, memory: source }])
    const ram = new SpanAllocator(guestAddress(base), ARENA)
    const queue = new DriverQueue({
      name: 'far',
      index: 0,
      size: 8,
      backend: new DirectBackend({ memory, ram }),
      features: FeatureSet.of(...(packed ? [VIRTIO_F_RING_PACKED] : []), VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC),
      doorbell: () => {},
      indirect: { tables: 2, capacity: 4, from: 3 },
    })
    const [region] = memory.regions
    const port = new BusWindows('far', [{ base: 0, length: base + ARENA, region }])
    const walker = new RingWalker(8, port)
    const { areas } = queue
    const halves = [areas.descriptor, areas.driver, areas.device].flatMap((area) => [
      area % 2 ** 32,
      Math.floor(area / 2 ** 32),
    ])
    const setup = {
      size: 8,
      areas: Uint32Array.from(halves),
      packed,
      indirect: true,
      eventIndex: true,
      inOrder: false,
      batchUsed: false,
    }
    expect(walker.start(setup, 8)).toBe(true)
    const address = ram.allocate(4096, 64)
    const written = new Int32Array(8)
    for (let round = 0; round < 12; round++) {
      const ids = [1, 2, 3].map((count) => {
        for (let i = 0; i < count; i++) {
          queue.segments.kind[i] = SEGMENT_GUEST
          queue.segments.address[i] = address + 64 * (4 * count + i)
          queue.segments.length[i] = 16 + i
        }
        return queue.add(count - 1, 1)
      })
      expect(queue.publish()).toBe(0)
      walker.update()
      expect(walker.takeBatch(8)).toBe(3)
      const { chains } = walker
      for (let row = 0; row < 3; row++) {
        const places = Array.from({ length: row + 1 }, (_, i) => chains.offset(chains.first(row) + i))
        expect(places).toEqual(Array.from({ length: row + 1 }, (_, i) => address + 64 * (4 * (row + 1) + i)))
        expect([chains.head(row), chains.writable(row)]).toEqual([ids[row], 16 + row])
        written[row] = 1 + row
      }
      walker.pushRows(0, 3, written)
      walker.flushAndRearm()
      expect(queue.reap(8)).toBe(3)
      expect([...queue.completed.id.subarray(0, 3)]).toEqual(ids)
      expect([...queue.completed.written.subarray(0, 3)]).toEqual([1, 2, 3])
      queue.recycle()
    }
    expect([walker.broken, queue.broken]).toEqual([null, null])
  })
})
