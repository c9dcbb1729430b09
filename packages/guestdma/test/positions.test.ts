import { IommuDevice } from '@guestdma/devices'
import { type DmaScheme, directScheme } from '@guestdma/dma'
import { ACCESS_READ, ACCESS_WRITE } from '@guestdma/memory'
import { STATUS_FEATURES_OK, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_SWIOTLB } from '@guestdma/spec'
import {
  MemoryBlockStore,
  onDeviceScheme,
  pooledIommuScheme,
  sharedPagesScheme,
  sharedPoolScheme,
  virtioIommuScheme,
} from 'guestdma'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { HeldStore, MODES, outcome, pattern, settled } from './support/machines.ts'
import {
  DEVICES,
  namedSpans,
  onlyWindow,
  outside,
  reach,
  reachablePages,
  refusal,
  secret,
  site,
  statuses,
  traffic,
  watchAddresses,
} from './support/positions.ts'
import { cipherScheme, enciphered } from './support/positions-cipher.ts'
import { accesses, cost, snapshot } from './support/positions-cost.ts'
import { stubIommu, unawareScheme } from './support/positions-platforms.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

describe('Woodhouse: a device without DMA to system memory that owns its bounce region (SWIOTLB RFC 1/3, 3/3)', () => {
  const pci = { transport: 'pci' } as const

  it('carries network and disk, and reaches for system memory in vain', async () => {
    const here = await site([onDeviceScheme({ size: 1 << 20 })], pci)
    await traffic(here)
    const { made } = here
    const { address, bytes } = secret(made)
    for (const device of DEVICES) {
      const { features, scheme, backend } = made.device(device).negotiated
      expect([scheme, backend.traits.home, features.has(VIRTIO_F_SWIOTLB)]).toEqual([
        'on-device',
        'device-memory',
        true,
      ])
      const window = onlyWindow(made, device)
      expect(made.memory.regions).not.toContain(window.region)
      expect(here.faults).toEqual([])
      expect(reach(made.device(device).port, address, bytes.length)).toBeNull()
      expect(reach(made.device(device).port, address, 4, ACCESS_WRITE)).toBeNull()
      expect(here.faults.splice(0)).toMatchObject([
        { device, fault: { address, access: ACCESS_READ } },
        { device, fault: { address, access: ACCESS_WRITE } },
      ])
      expect(reachablePages(made, device)).toEqual([])
      here.faults.length = 0
    }
  })

  it.each(MODES)('swiotlb/inside: rings, tables, cells and payload lie in the region in %s mode', async (mode) => {
    const here = await site([onDeviceScheme({ size: 4 << 20 })], { ...pci, each: { mode } })
    const seen = DEVICES.map((name) => watchAddresses(here.made.device(name).model))
    for (let seed = 1; seed < 5; seed++) await traffic(here, seed)
    for (const [i, name] of DEVICES.entries()) {
      const { base, length } = onlyWindow(here.made, name)
      expect(outside(seen[i].values(), base, length)).toEqual([])
      const kinds = new Set([...seen[i].values()].map(({ what }) => what))
      // The disk's requests of three descriptors go through an indirect table.
      expect([...kinds].sort()).toEqual(name === 'disk0' ? ['buffer', 'rings', 'table'] : ['buffer', 'rings'])
      expect(seen[i].size).toBeGreaterThan(5)
    }
  })

  it('a driver that ignores the region is refused at FEATURES_OK, as the device may (SWIOTLB RFC 1/3)', async () => {
    const written = statuses()
    const region = onDeviceScheme({ size: 1 << 20 })
    const failure = site([region, unawareScheme()], { ...pci, each: { platform: 'on-device', dma: 'old' } })
    await expect(refusal(failure)).rejects.toMatchObject({
      code: 'DMA_NO_USABLE_BACKEND',
      details: { candidates: [{ id: 'old', outcome: expect.stringContaining('refused the features') }] },
    })
    expect(written.some((status) => (status & 4) !== 0)).toBe(false)
    // The same platform with a driver that knows the RFC.
    await traffic(await site([region, unawareScheme()], pci))
  })
})

describe('Hellwig: a pool in host memory that the system declares (SWIOTLB RFC 2/3)', () => {
  it.each([
    ['explicitly, for each device', 'device'],
    ['as the default of all devices', 'machine'],
  ] as const)('%s', async (_, per) => {
    const here = await site([sharedPoolScheme({ size: 1 << 20, per })])
    await traffic(here)
    const { made } = here
    const windows = DEVICES.map((device) => onlyWindow(made, device))
    const own = (base: number): number[] => Array.from({ length: 256 }, (_, i) => base + i * 4096)
    for (const [i, device] of DEVICES.entries()) {
      expect(made.memory.regions).toContain(windows[i].region)
      expect(reachablePages(made, device)).toEqual(own(windows[i].base))
      expect(reach(made.device(device).port, secret(made).address)).toBeNull()
      // What a default pool gives away: each device reads what lies in it for any other one.
      expect(reach(made.device(device).port, windows[1 - i].base) !== null).toBe(per === 'machine')
    }
  })

  const others = (): DmaScheme[] => [virtioIommuScheme(), sharedPoolScheme(), directScheme()]

  it.each([
    ['and nothing beside it', false],
    ['but a pool', true],
  ])('a stub IOMMU that blocks everything, %s: refused before FEATURES_OK, with the reasons', async (_, pool) => {
    const written = statuses()
    await expect(refusal(site([stubIommu(pool), ...others()]))).rejects.toMatchObject({
      code: 'DMA_NO_USABLE_BACKEND',
      details: {
        candidates: [
          { id: 'stub', fit: 'unusable' },
          { id: 'virtio-iommu', fit: 'unusable', why: expect.stringContaining('nobody drives the IOMMU') },
          { id: 'shared-pool', why: expect.stringContaining(pool ? 'behind an IOMMU' : 'no pool') },
          { id: 'direct', why: expect.stringContaining(pool ? 'not reachable' : 'behind an IOMMU') },
        ],
      },
    })
    expect(written.length).toBeGreaterThan(0)
    expect(written.some((status) => (status & STATUS_FEATURES_OK) !== 0)).toBe(false)
  })

  it('a stub IOMMU with a pool beside it carries devices that keep out of translation (without 33)', async () => {
    const here = await site([stubIommu(true), ...others()], { device: { withhold: [VIRTIO_F_ACCESS_PLATFORM] } })
    expect(here.chosen.map(({ scheme }) => scheme)).toEqual(['shared-pool', 'shared-pool'])
    await traffic(here)
    expect(reach(here.made.device('net0').port, secret(here.made).address)).toBeNull()
  })

  it.each(['pci', 'mmio'] as const)('offsets instead of pretended bus addresses over %s', async (transport) => {
    const size = 1 << 20
    const here = await site([onDeviceScheme({ size, addressing: 'offset' })], { transport })
    const seen = DEVICES.map((name) => watchAddresses(here.made.device(name).model))
    await traffic(here)
    for (const [i, device] of DEVICES.entries()) {
      expect(outside(seen[i].values(), 0, size)).toEqual([])
      expect(reach(here.made.device(device).port, size - 1)).not.toBeNull()
      expect(reach(here.made.device(device).port, size)).toBeNull()
      // An offset is no address of anything else.
      expect(reachablePages(here.made, device)).toEqual([])
    }
  })

  const deviceView = 0x7000_0000_0000
  it('why it matters: device and driver see the BAR at different addresses, and bus addresses fault', async () => {
    const here = await site([onDeviceScheme({ size: 1 << 20, deviceView })], { transport: 'pci' })
    const reading = outcome(here.made.blk('disk0').readBytes(0, 512))
    here.made.pump()
    await settled()
    expect(reading()).toBe('DRIVER_DEVICE_BROKEN')
    expect(here.made.net('net0').sendCopy(pattern(60))).toBe(false)
    expect([...here.broken].sort()).toEqual(['disk0', 'net0'])
    const bars = DEVICES.map((name) => here.made.device(name).pci?.range(2)?.address)
    for (const [i, name] of DEVICES.entries()) {
      const address = here.faults.find(({ device, fault }) => device === name && 'address' in fault)?.fault
      expect(address).toMatchObject({ port: name, reason: 'unmapped', address: expect.any(Number) })
      const at = (address as { readonly address: number }).address - (bars[i] as number)
      expect(at >= 0 && at < 1 << 20).toBe(true)
    }
    expect(here.frames).toEqual([])
  })

  it('why it matters: device and driver see the BAR at different addresses, and offsets work', async () => {
    const schemes = [onDeviceScheme({ size: 1 << 20, deviceView, addressing: 'offset' })]
    const here = await site(schemes, { transport: 'pci' })
    const seen = DEVICES.map((name) => watchAddresses(here.made.device(name).model))
    await traffic(here)
    // The driver knows neither view.
    for (const spans of seen) expect(outside(spans.values(), 0, 1 << 20)).toEqual([])
  })

  it('one address space for each request: virtio-iommu gives it addresses of its own (virtio 1.4 §5.13)', async () => {
    const store = new HeldStore(new Uint8Array(64 * 512))
    const disk = { type: 'blk', name: 'disk0', device: { store } } as const
    const { made } = await site([virtioIommuScheme()], { disk })
    const { model: device, port } = made.device('disk0')
    const buffers = [0, 1].map((seed) => {
      const address = made.ram.allocate(4096, 4096)
      made.memory.write(address, pattern(4096, seed))
      return address
    })
    const writes = buffers.map((address, i) => made.blk('disk0').write(8 * i, address, 4096))
    made.pump()
    expect(store.held.length).toBe(2)
    const spans = namedSpans(device).filter(({ what, length }) => what === 'buffer' && length === 4096)
    expect(spans.length).toBe(2)
    const [one, two] = spans.map(({ address }) => address)
    expect(Math.abs(one - two)).toBeGreaterThanOrEqual(4096)
    const view = (address: number): Uint8Array | null => reach(port, address, 4096)
    const seeds = [one, two].map((address) => [0, 1].find((seed) => equal(view(address), pattern(4096, seed))))
    expect([...seeds].sort()).toEqual([0, 1])
    for (const guest of buffers) expect(reach(port, guest)).toBeNull()
    expect(reach(port, one, 1, ACCESS_WRITE)).toBeNull()
    const first = seeds[0] === 0 ? one : two
    const second = first === one ? two : one
    store.release(0)
    await made.run(writes[0])
    expect([view(first), equal(view(second), pattern(4096, 1))]).toEqual([null, true])
    store.release(0)
    await made.run(writes[1])
    expect([view(first), view(second)]).toEqual([null, null])
  })
})

const equal = (a: Uint8Array | null, b: Uint8Array): boolean => a !== null && Buffer.from(a).equals(b)

describe('Tsirkin: an IOMMU instead (virtio 1.4 §5.13 against SWIOTLB RFC 1/3)', () => {
  const units = (): (() => IommuDevice) => {
    const spy = vi.spyOn(IommuDevice.prototype, 'addEndpoint')
    return () => spy.mock.contexts[0] as IommuDevice
  }

  it('virtio-iommu carries network and disk; the rest is refused and told (virtio 1.4 §5.13)', async () => {
    const here = await site([virtioIommuScheme()])
    await traffic(here)
    const { address } = secret(here.made)
    expect(here.reported).toEqual([])
    expect(reach(here.made.device('disk0').port, address, 64)).toBeNull()
    here.made.pump()
    expect(here.reported).toMatchObject([
      { device: 'disk0', reason: 'mapping', access: 'read', address: { high: 0, low: address } },
    ])
    expect(here.faults).toMatchObject([{ device: 'disk0', fault: { address, reason: 'unmapped' } }])
  })

  it('"simple mode", one static mapping of a pool: no MAP and no UNMAP on the data path', async () => {
    const unit = units()
    const here = await site([pooledIommuScheme({ size: 1 << 20 })], { each: { dma: 'virtio-iommu-simple' } })
    await traffic(here)
    const { map, unmap, mappings } = unit().counters
    expect([map, unmap, mappings]).toEqual([2, 0, 2])
    for (let seed = 2; seed < 6; seed++) await traffic(here, seed)
    expect(unit().counters).toMatchObject({ map: 2, unmap: 0, mappings: 2 })
    expect(reach(here.made.device('net0').port, secret(here.made).address)).toBeNull()
  })

  it('the same traffic mapped piece by piece does send requests: what "simple mode" saves', async () => {
    const unit = units()
    const here = await site([virtioIommuScheme()])
    await traffic(here)
    const { map, unmap } = unit().counters
    await traffic(here, 2)
    expect(unit().counters.map - map).toBeGreaterThan(10)
    expect(unit().counters.unmap).toBeGreaterThan(unmap)
  })

  it('doubts about caching and ordering: each access to the BAR is counted, by its width', async () => {
    const here = await site([onDeviceScheme({ size: 1 << 20 })], { transport: 'pci' })
    await traffic(here)
    for (const name of DEVICES) {
      const { loads, stores } = snapshot(here, name)
      for (const width of [2, 4, 8] as const) expect([loads[width], stores[width]]).not.toContain(0)
    }
    // A notification of a full ring reads nothing but rings; payload is what the width of 8 adds with its length.
    const [short, long] = [await cost(here, 64), await cost(here, 1514)]
    expect(short.stores[2]).toBeGreaterThan(0)
    expect(long.stores[2]).toBe(short.stores[2])
    expect(long.stores[8]).toBeGreaterThan(short.stores[8])
  })

  it('host memory is not metered: it is cached like any other', async () => {
    const here = await site([sharedPoolScheme({ size: 1 << 20 })])
    await traffic(here)
    expect(onlyWindow(here.made, 'net0').region.meter).toBeNull()
  })
})

describe('Zhu: what device memory costs, and encryption instead (against SWIOTLB RFC 3/3)', () => {
  it('accesses to device memory per packet, 64 and 1514 bytes: a fixed part and a part for each byte', async ({
    annotate,
  }) => {
    const parts = async (
      clear: 'on-lend' | 'never',
    ): Promise<Record<'small' | 'large' | 'perByte' | 'fixed', number>> => {
      const here = await site([onDeviceScheme({ size: 2 << 20, clear })], { transport: 'pci' })
      const [small, large] = [accesses(await cost(here, 64)), accesses(await cost(here, 1514))]
      const perByte = (large - small) / (1514 - 64)
      const fixed = small - 64 * perByte
      await annotate(`clear ${clear}: ${small} for 64, ${large} for 1514: ${fixed} and ${perByte} for each byte`)
      return { small, large, perByte, fixed }
    }
    const [cleared, bare] = [await parts('on-lend'), await parts('never')]
    // Out of the driver, into the device and back: four passes in words of 8 bytes, and not one in single bytes.
    for (const { perByte } of [cleared, bare]) expect(Math.abs(perByte - 4 / 8)).toBeLessThan(0.05)
    // Rings, headers and cells.
    expect(bare.fixed).toBeGreaterThan(10)
    expect(bare.fixed).toBeLessThan(100)
    // A receive buffer of 1526 bytes that is cleared whenever it is lent.
    expect(Math.abs(cleared.fixed - bare.fixed - 1526 / 8)).toBeLessThan(8)
    // Worst for small packets, in accesses for each byte.
    expect(bare.small / 64).toBeGreaterThan(1.5 * (bare.large / 1514))
    expect(cleared.small / 64).toBeGreaterThan(4 * (cleared.large / 1514))
  })

  it('encrypted payload, by a third party’s scheme: the disk holds no plaintext', async () => {
    const store = new HeldStore(new Uint8Array(128 * 512))
    const disk = { type: 'blk', name: 'disk0', device: { store } } as const
    const { made } = await site([cipherScheme(), sharedPagesScheme()], { disk, each: { platform: 'shared-pages' } })
    expect(made.device('disk0').negotiated.backend.traits.payload).toBe('transformed')
    const text = new TextEncoder().encode('correct horse battery staple. '.repeat(900).slice(0, 40 * 512))
    const holds = (where: Uint8Array, what: Uint8Array): boolean => Buffer.from(where).includes(Buffer.from(what))
    const answer = (): void => {
      made.pump()
      while (store.held.length > 0) store.release()
    }
    const writing = made.blk('disk0').writeBytes(3, text)
    made.pump()
    // While it is in flight the device sees what it is given, and no plaintext.
    const { region, offset, length } = onlyWindow(made, 'disk0')
    const seen = region.u8.subarray(offset, offset + length)
    expect(holds(seen, enciphered(text.subarray(0, 512)))).toBe(true)
    expect(holds(seen, text.subarray(0, 16))).toBe(false)
    answer()
    await made.run(writing)
    expect(store.bytes.slice(3 * 512, 3 * 512 + text.length)).toEqual(enciphered(text))
    expect(holds(store.bytes, text.subarray(0, 16))).toBe(false)
    const reading = made.blk('disk0').readBytes(3, text.length)
    answer()
    expect(await made.run(reading)).toEqual(text)
    // Hidden, and not authenticated: what the device changes is what is read.
    store.bytes[3 * 512] ^= 0xff
    const tampered = made.blk('disk0').readBytes(3, 512)
    answer()
    const [first, ...rest] = await made.run(tampered)
    expect(first).not.toBe(text[0])
    expect(Uint8Array.from(rest)).toEqual(text.subarray(1, 512))
  })

  it('encrypted payload in pool mode is refused: what both sides see cannot be transformed', async () => {
    const device = { store: new MemoryBlockStore(new Uint8Array(512)) }
    const disk = { type: 'blk', name: 'disk0', mode: 'pool', device } as const
    const failure = site([cipherScheme(), sharedPagesScheme()], { disk, each: { platform: 'shared-pages' } })
    await expect(refusal(failure)).rejects.toMatchObject({ code: 'DMA_POOL_TRANSFORMED' })
  })
})
