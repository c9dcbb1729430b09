import { BusWindows, type DeviceFault, IommuDevice } from '@guestdma/devices'
import { type DmaScheme, directScheme, platformScheme } from '@guestdma/dma'
import type { IommuBackendCounters } from '@guestdma/iommu'
import { ACCESS_READ, ACCESS_WRITE, type BusPort, GuestMemory, guestAddress } from '@guestdma/memory'
import {
  type DeviceConfig,
  MemoryBlockStore,
  pooledIommuScheme,
  sharedPagesScheme,
  sharedPoolScheme,
  virtioIommuScheme,
} from 'guestdma'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { BASE, HeldStore, outcome, pattern, ranges, settled } from './support/machines.ts'
import {
  DEVICES,
  type NamedSpan,
  namedSpans,
  reach,
  reachablePages,
  refusal,
  type Site,
  secret,
  site,
  statuses,
  traffic,
  watchAddresses,
} from './support/positions.ts'
import { EVERY, StuckDisk } from './support/positions-platforms.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const diskOver = (store: HeldStore): DeviceConfig & { type: 'blk' } => ({
  type: 'blk',
  name: 'disk0',
  device: { store },
})

describe('deny-all: a platform on which a device reaches nothing (virtio 1.4 §6.1)', () => {
  const denyAll = (ram: boolean): DmaScheme =>
    platformScheme('deny-all', (platform) => {
      platform.declareRam(ram)
      return () => platform.nothing()
    })

  it('that says so is refused before FEATURES_OK', async () => {
    const written = statuses()
    await expect(refusal(site([denyAll(false), sharedPoolScheme(), directScheme()]))).rejects.toMatchObject({
      code: 'DMA_NO_USABLE_BACKEND',
    })
    expect(written.length).toBeGreaterThan(0)
    expect(written.some((status) => (status & 8) !== 0)).toBe(false)
  })

  it('that claims otherwise stops every device at its first access, and the drivers notice', async () => {
    const here = await site([denyAll(true), directScheme()])
    const reading = outcome(here.made.blk('disk0').readBytes(0, 512))
    here.made.pump()
    await settled()
    expect(reading()).toBe('DRIVER_DEVICE_BROKEN')
    expect([...here.broken].sort()).toEqual(['disk0', 'net0'])
    for (const device of DEVICES) {
      expect(here.faults.filter((told) => told.device === device).length).toBeGreaterThan(0)
      expect(reachablePages(here.made, device)).toEqual([])
    }
  })
})

describe('two stages: what a device reaches is what guest stage and host stage both allow (virtio 1.4 §5.13)', () => {
  const FORBIDDEN = guestAddress(0x4000_0000)
  const READ_ONLY = guestAddress(0x5000_0000)
  const memory = (): GuestMemory =>
    new GuestMemory([
      ...ranges(16 << 20),
      { base: FORBIDDEN, length: 1 << 20, memory: new ArrayBuffer(1 << 20) },
      { base: READ_ONLY, length: 1 << 20, memory: new ArrayBuffer(1 << 20) },
    ])
  // The host lets devices at the guest's main memory, at another range to read, and at a third one not at all.
  const hostStage = (guest: GuestMemory): DmaScheme =>
    virtioIommuScheme({
      downstream: ({ device }) => {
        const window = (base: number, access: 1 | 3) => {
          const { region, offset, length } = guest.ranges.find(
            (range) => range.base === base,
          ) as (typeof guest.ranges)[0]
          return { base, region, offset, length, access }
        }
        return new BusWindows(`${device} host stage`, [window(BASE, 3), window(READ_ONLY, 1)])
      },
    })
  const held = async (): Promise<{ here: Site; store: HeldStore }> => {
    const store = new HeldStore(new Uint8Array(64 * 512))
    const guest = memory()
    const ram = { base: guestAddress(BASE), length: 16 << 20 }
    return { here: await site([hostStage(guest)], { memory: guest, ram, disk: diskOver(store) }), store }
  }

  it('mapped by the guest and allowed by the host: traffic', async () => {
    const guest = memory()
    const here = await site([hostStage(guest)], { memory: guest, ram: { base: guestAddress(BASE), length: 16 << 20 } })
    await traffic(here)
    expect(here.faults).toEqual([])
  })

  it('mapped by the guest, not allowed by the host: the access faults, nothing moves, the guest is told', async () => {
    const { here, store } = await held()
    here.made.memory.write(FORBIDDEN, pattern(512, 3))
    const writing = outcome(here.made.blk('disk0').write(0, FORBIDDEN, 512))
    here.made.pump()
    await settled()
    here.made.pump()
    expect(store.held).toEqual([])
    expect(writing()).toBe('DRIVER_DEVICE_BROKEN')
    const refused = here.faults.filter(({ fault }) => 'reason' in fault && fault.reason === 'unmapped')
    expect(refused.length).toBeGreaterThan(0)
    expect(here.reported).toMatchObject([{ device: 'disk0', reason: 'unknown', access: 'read' }])
  })

  it('allowed by the host, not mapped by the guest: the access faults', async () => {
    const { here } = await held()
    const { address } = secret(here.made)
    expect(reach(here.made.device('disk0').port, address)).toBeNull()
    here.made.pump()
    expect(here.reported).toMatchObject([{ device: 'disk0', reason: 'mapping', address: { high: 0, low: address } }])
  })

  it('mapped to write by the guest, allowed to read by the host: the device reads and does not write', async () => {
    const { here, store } = await held()
    here.made.memory.write(READ_ONLY, pattern(512, 3))
    const writing = here.made.blk('disk0').write(0, READ_ONLY, 512)
    here.made.pump()
    store.release()
    await here.made.run(writing)
    expect(store.bytes.subarray(0, 512)).toEqual(pattern(512, 3))
    store.bytes.fill(0xee)
    const reading = outcome(here.made.blk('disk0').read(0, READ_ONLY, 512))
    here.made.pump()
    while (store.held.length > 0) store.release()
    here.made.pump()
    await settled()
    expect(reading()).toBe('DRIVER_DEVICE_BROKEN')
    expect(here.made.memory.read(READ_ONLY, 512)).toEqual(pattern(512, 3))
  })
})

describe('private RAM: a confidential guest, whose memory devices cannot reach (SWIOTLB RFC 2/3)', () => {
  it.each([
    ['with a pool for each device', sharedPoolScheme({ size: 1 << 20 }), 'shared-pool'],
    ['with a default pool', sharedPoolScheme({ size: 1 << 20, per: 'machine' }), 'shared-pool'],
    ['with an IOMMU over pools', pooledIommuScheme({ size: 1 << 20, privateRam: true }), 'virtio-iommu-pool'],
  ] as const)('%s: traffic, and no page of RAM but the pool', async (_, scheme, chosen) => {
    const endpoints = vi.spyOn(IommuDevice.prototype, 'addEndpoint')
    const here = await site([scheme, directScheme()])
    expect(here.chosen.map(({ scheme: id }) => id)).toEqual([chosen, chosen])
    await traffic(here)
    const hidden = secret(here.made).address
    for (const device of DEVICES) {
      expect(reach(here.made.device(device).port, hidden)).toBeNull()
      expect(reachablePages(here.made, device).length).toBeLessThanOrEqual(256)
    }
    // Direct is no way out, listed or not.
    await expect(refusal(site([scheme, directScheme()], { each: { dma: 'direct' } }))).rejects.toMatchObject({
      code: 'DMA_NO_USABLE_BACKEND',
    })
    // The IOMMU is a device as well: it reaches its own queues and nothing of the guest's.
    const iommu = endpoints.mock.contexts[0] as IommuDevice | undefined
    expect(iommu === undefined).toBe(chosen === 'shared-pool')
    if (iommu !== undefined) expect(reach(iommu.port, hidden)).toBeNull()
    // Nor would a mapping help: what is under the IOMMU ends at the pools.
    for (const [, { downstream }] of endpoints.mock.calls) expect(reach(downstream, hidden)).toBeNull()
  })
})

describe('pages that are shared one by one (SWIOTLB RFC 1/3: what a guest does without a region)', () => {
  const counters = ({ made }: Site): IommuBackendCounters =>
    made.device('disk0').negotiated.backend.counters as IommuBackendCounters

  it('while a buffer is lent its page is reachable, and after its completion it is not', async () => {
    const store = new HeldStore(new Uint8Array(64 * 512))
    const here = await site([sharedPagesScheme()], { disk: diskOver(store) })
    const { made } = here
    const { port } = made.device('disk0')
    const page = made.ram.allocate(4096, 4096)
    made.memory.write(page, pattern(4096, 7))
    expect(reach(port, page)).toBeNull()
    const before = reachablePages(made, 'disk0')
    const writing = made.blk('disk0').write(0, page, 4096)
    made.pump()
    expect(reach(port, page, 4096)).toEqual(pattern(4096, 7))
    expect(reachablePages(made, 'disk0')).toEqual([...before, page].sort((a, b) => a - b))
    expect(reach(made.device('net0').port, page)).toBeNull()
    store.release()
    await made.run(writing)
    expect(reach(port, page)).toBeNull()
    expect(reachablePages(made, 'disk0')).toEqual(before)
  })

  it.each([
    ['shared pages', sharedPagesScheme()],
    ['virtio-iommu', virtioIommuScheme()],
  ])('a neighbour in the same page keeps it within reach, and that is counted: %s', async (_, scheme) => {
    const store = new HeldStore(new Uint8Array(64 * 512))
    const here = await site([scheme], { disk: diskOver(store) })
    const { made } = here
    const page = made.ram.allocate(4096, 4096)
    const seen = watchAddresses(made.device('disk0').model)
    const writes = [0, 1].map((i) => made.blk('disk0').write(i, guestAddress(page + 512 * i), 512))
    made.pump()
    expect(store.held.length).toBe(2)
    const lent = [...seen.values()].filter(({ what, length }) => what === 'buffer' && length === 512)
    expect(lent.length).toBe(2)
    const neighbour = ({ address }: NamedSpan): number => address - (address % 4096) + 2048
    const within = (): boolean => lent.some((span) => reach(made.device('disk0').port, neighbour(span)) !== null)
    expect([within(), counters(here).stillExposed]).toEqual([true, 0])
    store.release()
    await made.run(writes[0])
    expect([within(), counters(here).stillExposed]).toEqual([true, 1])
    store.release()
    await made.run(writes[1])
    expect([within(), counters(here).stillExposed]).toEqual([false, 1])
    // And so neither claims more than that.
    expect(made.device('disk0').negotiated.backend.traits.revocation).toBe('deferred')
  })
})

describe('boot bypass: what devices reach before the IOMMU’s driver starts (virtio 1.4 §5.13.4)', () => {
  // Attacks as soon as the device is there, which is before any driver runs.
  const early = (bootBypass: boolean, stolen: (Uint8Array | null)[], where: () => number): DmaScheme => {
    const scheme = virtioIommuScheme({ bootBypass })
    return {
      ...scheme,
      install(platform) {
        const port: BusPort = scheme.install(platform)()
        stolen.push(reach(port, where(), 16))
        return () => port
      },
    }
  }

  it.each([
    ['on: each device reads a secret once, and never again', true],
    ['off: none does', false],
  ])('%s', async (_, bootBypass) => {
    const memory = new GuestMemory(ranges(16 << 20))
    const secretAt = BASE + (15 << 20)
    memory.write(guestAddress(secretAt), pattern(16, 5))
    const ram = { base: guestAddress(BASE), length: 15 << 20 }
    const stolen: (Uint8Array | null)[] = []
    const here = await site([early(bootBypass, stolen, () => secretAt)], { memory, ram })
    expect(stolen).toEqual(bootBypass ? [pattern(16, 5), pattern(16, 5)] : [null, null])
    for (const device of DEVICES) expect(reach(here.made.device(device).port, secretAt, 16)).toBeNull()
    await traffic(here)
    for (const device of DEVICES) {
      await here.made.reset(device)
      expect(reach(here.made.device(device).port, secretAt, 16)).toBeNull()
    }
  })
})

describe('reset/revokes: after a reset a device reaches nothing that it was given before (virtio 1.4 §2.4)', () => {
  it.each(EVERY)('%s', async (_, scheme, transport) => {
    const here = await site([scheme()], { transport })
    const seen = DEVICES.map((name) => watchAddresses(here.made.device(name).model))
    await traffic(here)
    const ports = DEVICES.map((name) => here.made.device(name).port)
    await here.made.close()
    for (const [i, port] of ports.entries()) {
      expect(seen[i].size).toBeGreaterThan(3)
      for (const { address } of seen[i].values())
        for (const access of [ACCESS_READ, ACCESS_WRITE] as const) expect(reach(port, address, 1, access)).toBeNull()
    }
    expect(reachablePages(here.made, 'net0')).toEqual([])
    expect(here.made.ram.live).toBe(0)
  })
})

describe('reset/revokes: a device that is reset while the others go on (virtio 1.4 §2.4)', () => {
  const revoking = EVERY.filter(([name]) => name.startsWith('virtio-iommu') || name === 'shared-pages')

  it.each(revoking)('%s: rings, buffers in flight and posted receive buffers are out of reach', async (_, scheme) => {
    const store = new HeldStore(new Uint8Array(64 * 512))
    const { made } = await site([scheme()], { disk: diskOver(store) })
    made.pump()
    const page = made.ram.allocate(4096, 4096)
    const writing = outcome(made.blk('disk0').write(0, page, 4096))
    made.pump()
    expect(store.held.length).toBe(1)
    for (const name of [...DEVICES].reverse()) {
      const { model: device, port } = made.device(name)
      const spans = namedSpans(device)
      expect(spans.length).toBeGreaterThan(3)
      for (const { address } of spans)
        expect(reach(port, address) ?? reach(port, address, 1, ACCESS_WRITE)).not.toBeNull()
      await made.device(name).close()
      for (const { address } of spans)
        for (const access of [ACCESS_READ, ACCESS_WRITE] as const) expect(reach(port, address, 1, access)).toBeNull()
      expect(reachablePages(made, name)).toEqual([])
    }
    expect(writing()).toBe('DRIVER_CLOSED')
  })
})

describe('reset/revokes: a device that does not answer a reset is cut off (virtio 1.4 §2.4)', () => {
  it.each(EVERY.filter(([, , transport]) => transport === 'mmio'))('%s', async (_, scheme) => {
    const disks: StuckDisk[] = []
    const store = new MemoryBlockStore(new Uint8Array(64 * 512))
    const make = (port: BusPort): StuckDisk => {
      disks.push(new StuckDisk({ name: 'disk0', port, store, accessPlatform: 'offered' }))
      return disks[0]
    }
    const disk: DeviceConfig & { type: 'blk' } = { type: 'blk', name: 'disk0', device: { store }, make }
    const here = await site([scheme()], { disk, deadlineMs: 5 })
    const { made } = here
    const seen = watchAddresses(disks[0])
    await made.run(made.blk('disk0').writeBytes(0, pattern(4096)))
    expect([...seen.values()].some(({ address }) => reach(disks[0].port, address) !== null)).toBe(true)
    disks[0].stuck = true
    await expect(made.reset('disk0')).rejects.toMatchObject({
      code: 'TRANSPORT_DEVICE_STUCK',
      details: { quarantined: false },
    })
    // It still believes that it is running, rings and all.
    expect(disks[0].live).toBe(true)
    for (const { address } of seen.values()) expect(reach(disks[0].port, address)).toBeNull()
    expect(reachablePages(made, 'disk0')).toEqual([])
    disks[0].notify(disks[0].queues[0])
    made.pump()
    // The other device goes on, and once it answers this one does too.
    expect(made.net('net0').sendCopy(pattern(60))).toBe(true)
    made.pump()
    expect(here.frames).toEqual([pattern(60)])
    disks[0].stuck = false
    await made.reset('disk0')
    const read = await made.run(made.blk('disk0').readBytes(0, 4096))
    expect(read).toEqual(pattern(4096))
    await made.close()
    expect(made.ram.live).toBe(0)
    const queueFaults = here.faults.filter(({ fault }) => (fault as DeviceFault).kind === 'queue')
    expect(queueFaults.length).toBeLessThanOrEqual(1)
  })
})
