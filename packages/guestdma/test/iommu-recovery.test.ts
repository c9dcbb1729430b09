import { type IommuDevice, MemoryBlockStore } from '@guestdma/devices'
import { pooledIommuScheme, virtioIommuScheme } from '@guestdma/iommu'
import { describe, expect, test } from 'vitest'
import { createMachine, FrameBatch, LoopbackLink, type Machine, MachineEvents } from '../src/index.ts'

const BASE = 0x8000_0000

async function machine(mode: 'strict' | 'lazy' | 'pool') {
  const scheme = mode === 'pool' ? pooledIommuScheme({ size: 1 << 20 }) : virtioIommuScheme({ mode })
  const events = new MachineEvents()
  const failed: { device: string; code: string; waitedMs: unknown }[] = []
  events.on('needsReset', ({ device, error }) => {
    failed.push({ device, code: error.code, waitedMs: error.details.waitedMs })
  })
  const counts = { received: 0 }
  const m = await createMachine({
    memory: [{ base: BASE, length: 16 << 20, memory: new ArrayBuffer(16 << 20) }],
    schemes: [scheme],
    events,
    deadlineMs: 20,
    devices: [
      {
        type: 'blk',
        name: 'disk0',
        dma: [scheme.id],
        device: { store: new MemoryBlockStore(new Uint8Array(1 << 20).fill(7)) },
      },
      {
        type: 'net',
        name: 'net0',
        dma: [scheme.id],
        device: { mac: [2, 0, 0, 0, 0, 1], link: new LoopbackLink() },
        observer: {
          frames: ({ count }) => {
            counts.received += count
          },
        },
      },
    ],
  })
  const { common } = m as unknown as { common: { own: IommuDevice[] } }
  return { m, iommu: common.own[0], failed, counts, available: m.ram.available }
}

function send(m: Machine, address: number): void {
  const batch = new FrameBatch(1)
  batch.count = 1
  batch.length[0] = 60
  batch.address[0] = address
  for (let i = 0; i < 10; i++) {
    m.net('net0').send(batch)
    m.pump()
  }
}

describe.each(['strict', 'lazy', 'pool'] as const)('an IOMMU of a machine that fails, %s', (mode) => {
  test.each([
    ['sets DEVICE_NEEDS_RESET', (iommu: IommuDevice) => iommu.needsReset('a test')],
    ['is reset by the platform', (iommu: IommuDevice) => iommu.systemReset()],
    [
      'does not answer',
      (iommu: IommuDevice) => {
        iommu.poll = () => 0
      },
    ],
  ])('%s: an event names it, and its endpoints come back with their resets', async (_, fail) => {
    const { m, iommu, failed, counts, available } = await machine(mode)
    const frame = m.ram.allocate(4096, 4096)
    send(m, frame)
    expect(counts.received).toBe(10)
    fail(iommu)
    m.net('net0').send(new FrameBatch(1))
    send(m, frame)
    for (let i = 0; i < 100; i++) m.pump()
    // Nothing asks an IOMMU whose pool is mapped for good; its status tells. That it does not answer shows at the reset.
    if (mode === 'pool' && iommu.status !== 0) await m.reset('net0').catch(() => {})
    // The deadline of the machine is the IOMMU's as well. A new driver that has no answer either says so again.
    const told = failed.filter(({ device }) => device === 'iommu')
    expect(told.length).toBeLessThanOrEqual(mode === 'pool' ? 2 : 1)
    expect(told[0]).toEqual({ device: 'iommu', code: 'IOMMU_STUCK', waitedMs: 20 })
    Reflect.deleteProperty(iommu, 'poll')
    for (let round = 0; round < 2; round++) {
      await m.reset('net0')
      await m.reset('disk0')
    }
    counts.received = 0
    send(m, frame)
    expect(counts.received).toBe(10)
    expect(await m.run(m.blk('disk0').readBytes(0, 512))).toEqual(new Uint8Array(512).fill(7))
    m.ram.release(frame)
    expect(m.ram.available).toBe(available)
    await m.close()
  })
})
