import { GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import { DirectBackend, DMA_OK, DMA_UNMAPPABLE, DmaError, directScheme, FROM_DEVICE, TO_DEVICE } from '../src/index.ts'
import { BASE, BYTES, direct, offer, row } from './support/offers.ts'

// What every scheme has to do is in the conformance suite, which runs over this one too; here is what only this one
// does.
describe('the direct backend', () => {
  test('gives the device the guest address, and nothing to copy', () => {
    const backend = direct()
    const m = row(BASE + 123, 456)
    expect(backend.map(m, 0)).toBe(DMA_OK)
    expect([m.device[0], m.deviceLength[0]]).toEqual([BASE + 123, 456])
    backend.unmap(m, 0, 0)
    expect(backend.counters).toMatchObject({
      maps: 1,
      unmaps: 1,
      bytesCopiedToDevice: 0,
      bytesCopiedFromDevice: 0,
      bytesCleared: 0,
    })
  })

  test('adds the bus offset to mappings, allocations and the highest address (init/access-platform)', () => {
    const backend = direct(0x7_0000_0000)
    const m = row(BASE, 16)
    backend.map(m, 0)
    expect(m.device[0]).toBe(BASE + 0x7_0000_0000)
    const region = backend.alloc(64, 64, TO_DEVICE, 'ring')
    expect(region.device).toBe(BASE + BYTES / 2 + 0x7_0000_0000)
    expect(backend.limits.maxDeviceAddress).toBe(BASE + BYTES - 1 + 0x7_0000_0000)
  })

  test.each([1, 8, 16, 100, 2048])(
    'refuses a bus offset of %d, which would misalign rings (ring/geometry)',
    (busOffset) => {
      expect(() => direct(busOffset)).toThrow(expect.objectContaining({ code: 'DMA_BUS_OFFSET' }))
    },
  )

  test('its bus offset may be negative, as long as no address is', () => {
    const m = row(BASE + 4096, 16)
    expect(direct(-0x4000_0000).map(m, 0)).toBe(DMA_OK)
    expect(m.device[0]).toBe(BASE + 4096 - 0x4000_0000)
  })

  test.each([-0x1_0000_0000, 2 ** 53 - 2 ** 20])(
    'refuses a bus offset of %d, which leads outside of all addresses',
    (busOffset) => {
      expect(() => direct(busOffset)).toThrow(expect.objectContaining({ code: 'DMA_BUS_OFFSET' }))
    },
  )

  test('a mapping that leaves its range is Unmappable, also where another range follows', () => {
    const memory = new GuestMemory([
      { base: 0x1000, length: 0x1000, memory: new ArrayBuffer(0x1000) },
      { base: 0x2000, length: 0x1000, memory: new ArrayBuffer(0x1000) },
    ])
    const backend = new DirectBackend({ memory, ram: new SpanAllocator(guestAddress(0x1000), 0x2000) })
    expect(backend.map(row(0x1fff, 2), 0)).toBe(DMA_UNMAPPABLE)
    expect(backend.map(row(0x2fff, 2), 0)).toBe(DMA_UNMAPPABLE)
    expect(backend.map(row(0x1fff, 1), 0)).toBe(DMA_OK)
    expect(backend.counters.unmappable).toBe(2)
  })

  test('an allocation that would cross two ranges is refused and takes nothing', () => {
    const memory = new GuestMemory([
      { base: 0x1000, length: 0x1000, memory: new ArrayBuffer(0x1000) },
      { base: 0x2000, length: 0x1000, memory: new ArrayBuffer(0x1000) },
    ])
    const ram = new SpanAllocator(guestAddress(0x1800), 0x1800)
    const backend = new DirectBackend({ memory, ram })
    expect(() => backend.alloc(0x1000, 16, TO_DEVICE, 'ring')).toThrow(
      expect.objectContaining({ code: 'DMA_ALLOC', cause: expect.objectContaining({ code: 'MEMORY_OUTSIDE' }) }),
    )
    expect([ram.live, backend.counters.allocatedBytes]).toEqual([0, 0])
  })

  test('what is allocated is zeroed after the memory grew as well', () => {
    const ram = new WebAssembly.Memory({ initial: 1, maximum: 2 })
    const memory = new GuestMemory([{ base: 0, length: 65_536, memory: ram }])
    const backend = new DirectBackend({ memory, ram: new SpanAllocator(guestAddress(0), 65_536) })
    new Uint8Array(ram.buffer).fill(0xff)
    ram.grow(1)
    const { region, offset } = backend.alloc(128, 16, FROM_DEVICE, 'payload')
    expect([...region.u8.subarray(offset, offset + 128)]).toEqual(new Array(128).fill(0))
  })

  test('another backend’s region is not freed here', () => {
    const foreign = direct().alloc(64, 8, TO_DEVICE, 'ring')
    expect(() => direct().free(foreign)).toThrow(DmaError)
  })
})

describe('the direct scheme', () => {
  test('uses the bus offset only where ACCESS_PLATFORM was agreed (init/access-platform)', async () => {
    const { provider } = directScheme()
    for (const [agreed, expected] of [
      [FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM), BASE + 0x1_0000_0000],
      [FeatureSet.empty, BASE],
    ] as const) {
      const backend = await provider.create(offer({ busOffset: 0x1_0000_0000 }), agreed)
      const m = row(BASE, 16)
      backend.map(m, 0)
      expect(m.device[0]).toBe(expected)
    }
  })
})
