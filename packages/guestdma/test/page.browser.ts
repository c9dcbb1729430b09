import { describe, expect, test } from 'vitest'
import { BUSES, DOORBELL, reach } from './support/worker-bus.ts'

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
      import('@guestdma/devices/worker'),
    ])
    expect(packages).toHaveLength(11)
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

  test.each(BUSES)('a disk works in a worker over %s, which has the pool and nothing of the guest', async (bus) => {
    const { createMachine, sharedPoolScheme } = await import('guestdma')
    const { DeviceWorker } = await import('@guestdma/devices/worker')
    const { deviceAddress, Region } = await import('@guestdma/memory')
    const region = new Region(new SharedArrayBuffer(1 << 20), 'pool')
    const pool = { device: deviceAddress(0x4000_0000), window: { region, offset: 0, length: region.length } }
    const disk = new SharedArrayBuffer(1 << 16)
    const worker = await DeviceWorker.start({
      name: 'far',
      type: 'blk',
      config: { disk },
      windows: [{ base: pool.device, ...pool.window }],
      spawn: () => new Worker(new URL('./support/page-worker.ts', import.meta.url), { type: 'module' }),
      deadlineMs: 200,
      ...(bus === 'mmio' ? {} : { pci: { doorbell: DOORBELL } }),
    })
    const transport = reach(worker, bus)
    const { listen, detach, enforcedBy } = worker
    expect(enforcedBy).toBe('construction')
    const machine = await createMachine({
      memory: [{ base: 0x8000_0000, length: 16 << 20, memory: new ArrayBuffer(16 << 20) }],
      mayBlock: false,
      schemes: [sharedPoolScheme({ memory: () => ({ ...pool, home: 'guest-ram' }) })],
      devices: [{ type: 'blk', name: 'far', transport, listen, detach, enforcedBy, requestDeadlineMs: 200 }],
    })
    for (const value of [7, 9]) {
      const bytes = new Uint8Array(4096).fill(value)
      await machine.run(machine.blk('far').writeBytes(8, bytes))
      expect(await machine.run(machine.blk('far').readBytes(8, 4096))).toEqual(bytes)
      expect(new Uint8Array(disk, 8 * 512, 4096).every((byte) => byte === value)).toBe(true)
      await worker.restart()
      await machine.reset('far')
    }
    await expect(machine.run(machine.blk('far').writeBytes(0, new Uint8Array(512).fill(0xff)))).rejects.toMatchObject({
      code: 'DRIVER_DEVICE_BROKEN',
    })
    await worker.restart()
    await machine.reset('far')
    expect(await machine.run(machine.blk('far').readBytes(8, 512))).toEqual(new Uint8Array(512).fill(9))
    await machine.close()
    expect(worker.detach()).toBe(true)
    await worker.close()
  })

  test.each([
    ['virtio-iommu', 'mmio'],
    ['virtio-iommu', 'msix'],
    ['shared-pages', 'intx'],
  ] as const)('a disk works in a worker over %s and %s, which translates by a copy there', async (id, bus) => {
    const { createMachine, sharedPagesScheme, virtioIommuScheme } = await import('guestdma')
    const { everything } = await import('@guestdma/devices')
    const { DeviceWorker } = await import('@guestdma/devices/worker')
    const { GuestMemory } = await import('@guestdma/memory')
    const bytes = 16 << 20
    const memory = new GuestMemory([{ base: 0x8000_0000, length: bytes, memory: new SharedArrayBuffer(bytes) }])
    const worker = await DeviceWorker.start({
      name: 'far',
      type: 'blk',
      config: { disk: new SharedArrayBuffer(1 << 16) },
      windows: everything(memory).windows,
      translated: true,
      ...(bus === 'mmio' ? {} : { pci: { doorbell: DOORBELL } }),
      spawn: () => new Worker(new URL('./support/page-worker.ts', import.meta.url), { type: 'module' }),
    })
    const transport = reach(worker, bus)
    const { listen, detach, enforcedBy, translations } = worker
    const machine = await createMachine({
      memory,
      schemes: [id === 'shared-pages' ? sharedPagesScheme() : virtioIommuScheme()],
      devices: [{ type: 'blk', name: 'far', transport, listen, detach, enforcedBy, translations }],
    })
    expect(machine.device('far').negotiated.backend.traits.enforcedBy).toBe('trusted-code')
    for (const value of [7, 9]) {
      const written = new Uint8Array(4096).fill(value)
      await machine.run(machine.blk('far').writeBytes(8, written))
      expect(await machine.run(machine.blk('far').readBytes(8, 4096))).toEqual(written)
      await worker.restart()
      await machine.reset('far')
    }
    await machine.close()
    await worker.close()
  })
})
