import { MemoryBlockStore } from '@guestdma/devices'
import { type DmaScheme, directScheme } from '@guestdma/dma'
import { virtioIommuScheme } from '@guestdma/iommu'
import { GuestMemory } from '@guestdma/memory'
import { describe, expect, test } from 'vitest'
import { createMachine } from '../src/index.ts'
import { BarSpace } from '../src/platform/bar-space.ts'

const LENGTH = 4 << 20

describe.each([2 ** 53 - LENGTH, 2 ** 53 - 2 ** 40, 2 ** 53 - 2 ** 40 - LENGTH])('guest RAM at %d', (base) => {
  test.each([
    ['mmio', directScheme()],
    ['pci', directScheme()],
    ['mmio', virtioIommuScheme()],
    ['pci', virtioIommuScheme()],
  ] as readonly (readonly ['mmio' | 'pci', DmaScheme])[])('a disk over %s', async (transport, scheme) => {
    const store = new MemoryBlockStore(new Uint8Array(4096).fill(9))
    const m = await createMachine({
      memory: [{ base, length: LENGTH, memory: new ArrayBuffer(LENGTH) }],
      schemes: [scheme],
      transport,
      devices: [{ type: 'blk', name: 'disk0', device: { store }, dma: [scheme.id] }],
    })
    expect(await m.run(m.blk('disk0').readBytes(0, 512))).toEqual(new Uint8Array(512).fill(9))
    await m.close()
  })

  test('BARs above 4 GiB are clear of it, and below 2^53', () => {
    const bars = new BarSpace(new GuestMemory([{ base, length: LENGTH, memory: new ArrayBuffer(LENGTH) }]))
    const bar = bars.take('disk0', 4096, true)
    expect(bar).toBeGreaterThanOrEqual(2 ** 32)
    expect(bar + 4096 <= base || bar >= base + LENGTH).toBe(true)
    expect(bar + 4096).toBeLessThanOrEqual(2 ** 53)
  })
})
