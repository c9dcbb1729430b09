import { DirectBackend } from '@guestdma/dma'
import { GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { expect, test } from 'vitest'
import { DriverQueue, SEGMENT_GUEST } from '../src/index.ts'

// What a packed queue has to do is in the conformance suite; here is what can be seen at the barrier alone.
const BYTES = 65_536

test('one full barrier stands behind all descriptors but for the first flags, and before the look at the event', {
  tags: ['2.8.21.1.1/barrier', '2.8.21.3.1/barrier'],
}, () => {
  const memory = new GuestMemory([{ base: 0, length: BYTES, memory: new ArrayBuffer(BYTES) }])
  const backend = new DirectBackend({ memory, ram: new SpanAllocator(guestAddress(0), BYTES / 2) })
  const features = FeatureSet.of(VIRTIO_F_RING_PACKED)
  const queue = new DriverQueue({ name: 'q', index: 0, size: 5, backend, features, doorbell: () => {} })
  const [region] = memory.regions
  const { descriptor, device } = queue.areas
  const flagsOf = (entry: number): number => region.view.getUint16(descriptor + 16 * entry + 14, true)
  const seen: unknown[] = []
  const barrier = region.storeWordThenLoad.bind(region)
  region.storeWordThenLoad = (word, value, other, otherWord) => {
    seen.push([4 * word - descriptor, 4 * otherWord - device, flagsOf(0), flagsOf(1), flagsOf(2)])
    return barrier(word, value, other, otherWord)
  }
  for (let i = 0; i < 2; i++) {
    queue.segments.address[i] = 40_000
    queue.segments.length[i] = 16
    queue.segments.kind[i] = SEGMENT_GUEST
  }
  queue.add(1, 1)
  queue.add(1, 0)
  expect([flagsOf(0), flagsOf(1)]).toEqual([0, 0])
  queue.publish()
  expect(seen).toEqual([[12, 0, 0, 0x82, 0x80]])
  expect(flagsOf(0)).toBe(0x81)
})

test('after a WebAssembly.Memory grew there may be something, until it was looked at (ring/publication)', () => {
  const wasm = new WebAssembly.Memory({ initial: 1, maximum: 4 })
  const memory = new GuestMemory([{ base: 0, length: BYTES, memory: wasm }])
  const backend = new DirectBackend({ memory, ram: new SpanAllocator(guestAddress(0), BYTES / 2) })
  const features = FeatureSet.of(VIRTIO_F_RING_PACKED)
  const queue = new DriverQueue({ name: 'q', index: 0, size: 5, backend, features, doorbell: () => {} })
  expect(queue.hasUsed).toBe(false)
  wasm.grow(1)
  expect(queue.hasUsed).toBe(true)
  expect([queue.reap(5), queue.hasUsed]).toEqual([0, false])
})
