import { setImmediate as turn } from 'node:timers/promises'
import { type BlockRequest, MemoryBlockStore } from '@guestdma/devices'
import { virtioIommuScheme } from '@guestdma/iommu'
import { describe, expect, test } from 'vitest'
import { createMachine, type DeviceConfig, FrameBatch, LoopbackLink, type Machine } from '../src/index.ts'

const BASE = 0x8000_0000

function machine(
  maxMappings: number,
  device: DeviceConfig | DeviceConfig[],
  mode: 'strict' | 'lazy',
): Promise<Machine> {
  return createMachine({
    memory: [{ base: BASE, length: 16 << 20, memory: new ArrayBuffer(16 << 20) }],
    schemes: [virtioIommuScheme({ maxMappings, mode })],
    devices: [device].flat(),
  })
}

describe.each(['strict', 'lazy'] as const)('an IOMMU that has no room for a whole batch, %s', (mode) => {
  test('disk requests go through in smaller batches, all of them', async () => {
    const store = new MemoryBlockStore(new Uint8Array(1 << 20).map((_, i) => i >>> 9))
    const m = await machine(16, { type: 'blk', name: 'disk0', device: { store } }, mode)
    const disk = m.blk('disk0')
    const reads = Array.from({ length: 40 }, (_, i) => disk.readBytes(i, 512))
    const sectors = await m.run(Promise.all(reads))
    sectors.forEach((sector, i) => {
      expect(sector).toEqual(new Uint8Array(512).fill(i))
    })
    await m.close()
  })

  test('as many receive buffers are posted as there is room for, and frames go and come', async () => {
    let received = 0
    const observer = {
      frames: (batch: { readonly count: number }): void => {
        received += batch.count
      },
    }
    const device = { mac: [2, 0, 0, 0, 0, 1], link: new LoopbackLink() }
    const m = await machine(100, { type: 'net', name: 'net0', device, observer }, mode)
    const net = m.net('net0')
    m.pump()
    // Each of them takes a mapping, and some are taken by rings.
    expect(net.counters.unposted).toBeGreaterThan(100)
    expect(net.counters.unposted).toBeLessThanOrEqual(256 - 32)
    const batch = new FrameBatch(64)
    batch.count = 64
    batch.length.fill(60)
    for (let i = 0; i < 64; i++) batch.address[i] = m.ram.allocate(4096, 4096)
    let sent = 0
    for (let i = 0; i < 200 && received < 640; i++) {
      sent += net.send(batch)
      m.pump()
    }
    expect(received).toBeGreaterThanOrEqual(640)
    expect(sent).toBeGreaterThanOrEqual(640)
    await m.close()
  })
})

test.each(['strict', 'lazy'] as const)(
  'receive comes back after a shortage that another device made, %s',
  async (mode) => {
    const held: (() => void)[] = []
    const inner = new MemoryBlockStore(new Uint8Array(1 << 20))
    const store = Object.assign(Object.create(inner) as MemoryBlockStore, {
      read: (request: BlockRequest) => void held.push(() => inner.read(request)),
    })
    let received = 0
    const m = await createMachine({
      memory: [{ base: BASE, length: 16 << 20, memory: new ArrayBuffer(16 << 20) }],
      schemes: [virtioIommuScheme({ maxMappings: 60, mode })],
      devices: [
        { type: 'blk', name: 'disk0', device: { store } },
        {
          type: 'net',
          name: 'net0',
          device: { mac: [2, 0, 0, 0, 0, 1], link: new LoopbackLink() },
          observer: {
            frames: (batch) => {
              received += batch.count
            },
          },
        },
      ],
    })
    const net = m.net('net0')
    const batch = new FrameBatch(64)
    batch.length.fill(60)
    for (let i = 0; i < 64; i++) batch.address[i] = m.ram.allocate(4096, 4096)
    batch.count = 64
    const reads: Promise<Uint8Array>[] = []
    // One by one, until the IOMMU is full: before the network posts anything.
    for (let i = 0; i < 128; i++) {
      reads.push(m.blk('disk0').readBytes(8 * i, 4096))
      for (let turn = 0; turn < 4; turn++) await Promise.resolve()
    }
    for (let i = 0; i < 200; i++) {
      net.send(batch)
      m.pump()
      await Promise.resolve()
    }
    for (let i = 0; i < 2000 && held.length > 0; i++) {
      for (const answer of held.splice(0)) answer()
      m.pump()
      await Promise.resolve()
    }
    await m.run(Promise.all(reads))
    received = 0
    batch.count = 1
    let sent = 0
    for (let i = 0; i < 400; i++) {
      sent += net.send(batch)
      m.pump()
    }
    expect(sent).toBeGreaterThan(350)
    expect(received).toBeGreaterThan(300)
    expect(net.counters.unposted).toBeLessThan(256)
    await m.close()
  },
)

const disk = (name: string): DeviceConfig => ({
  type: 'blk',
  name,
  device: { store: new MemoryBlockStore(new Uint8Array(1 << 20)) },
})
const net = (name: string): DeviceConfig => ({
  type: 'net',
  name,
  device: { mac: [2, 0, 0, 0, 0, 1], link: new LoopbackLink() },
})

test.each([
  ['alone', () => []],
  ['beside an idle disk', () => [disk('disk1')]],
  ['beside an idle network', () => [net('net0')]],
  ['beside two idle networks', () => [net('net0'), net('net1')]],
])(
  'an IOMMU without room for a single buffer, %s: requests fail with a typed error, and none waits for ever',
  async (_what, others) => {
    const outcomes: string[] = []
    for (let maxMappings = 1; maxMappings <= 24; maxMappings++) {
      let m: Machine
      try {
        m = await machine(maxMappings, [disk('disk0'), ...others()], 'strict')
      } catch (error) {
        outcomes.push((error as { code: string }).code)
        continue
      }
      m.pump()
      const read = m.run(m.blk('disk0').readBytes(0, 4096))
      outcomes.push(await read.then(() => 'read').catch((error: { code: string }) => error.code))
      await m.close()
    }
    const kinds = [...new Set(outcomes)]
    expect(kinds).toEqual([expect.any(String), 'BLK_DMA', 'read'])
  },
)

test.each(['answered', 'closed', 'reset'])(
  'a request that finds no room waits for what another device was lent: that one is %s',
  async (end) => {
    // Room for the rings of two disks, and for one buffer.
    const held: (() => void)[] = []
    const inner = new MemoryBlockStore(new Uint8Array(1 << 20).fill(5))
    const store = Object.assign(Object.create(inner) as MemoryBlockStore, {
      read: (request: BlockRequest) => void held.push(() => inner.read(request)),
    })
    const m = await machine(13, [disk('disk0'), { type: 'blk', name: 'disk1', device: { store } }], 'strict')
    const first = m
      .blk('disk1')
      .readBytes(0, 4096)
      .then(
        (bytes) => bytes[0],
        (error: { code: string }) => error.code,
      )
    await Promise.resolve()
    m.pump()
    expect(held).toHaveLength(1)
    let settled = false
    const second = m.blk('disk0').readBytes(0, 4096)
    void second.then(() => {
      settled = true
    })
    const both = m.run(second)
    for (let i = 0; i < 5; i++) await turn()
    expect(settled).toBe(false)
    if (end === 'answered') held[0]()
    else if (end === 'closed') await m.device('disk1').close()
    else await m.reset('disk1')
    expect(await both).toEqual(new Uint8Array(4096))
    expect(await first).toBe(end === 'answered' ? 5 : 'DRIVER_CLOSED')
    await m.close()
  },
)
