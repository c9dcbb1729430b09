import { describe, expect, test } from 'vitest'

describe('in a page', () => {
  test('memory can be shared with a worker', () => {
    expect(crossOriginIsolated).toBe(true)
    expect(new SharedArrayBuffer(8).byteLength).toBe(8)
  })

  test('every package loads without Node', async () => {
    const packages = await Promise.all([
      import('guestdma'),
      import('@guestdma/spec'),
      import('@guestdma/memory'),
      import('@guestdma/dma'),
      import('@guestdma/virtqueue'),
      import('@guestdma/transport'),
      import('@guestdma/bounce'),
      import('@guestdma/drivers'),
      import('@guestdma/iommu'),
      import('@guestdma/devices'),
    ])
    expect(packages).toHaveLength(10)
    expect('process' in globalThis).toBe(false)
  })

  test.each([
    ['direct', 'mmio'],
    ['shared-pool', 'pci'],
    ['on-device', 'pci'],
    ['virtio-iommu', 'mmio'],
  ] as const)('a disk works over %s and %s', async (platform, transport) => {
    const { createMachine, MemoryBlockStore } = await import('guestdma')
    const device = { store: new MemoryBlockStore(new Uint8Array(1 << 16)) }
    const machine = await createMachine({
      memory: [{ base: 0x8000_0000, length: 16 << 20, memory: new ArrayBuffer(16 << 20) }],
      devices: [{ type: 'blk', name: 'disk0', platform, transport, device }],
    })
    expect(machine.counters().devices.disk0.scheme).toBe(platform)
    const disk = machine.blk('disk0')
    await machine.run(disk.writeBytes(0, new Uint8Array(512).fill(7)))
    expect(await machine.run(disk.readBytes(0, 512))).toEqual(new Uint8Array(512).fill(7))
    await machine.close()
  })
})
