import { type DmaScheme, directScheme } from '@guestdma/dma'
import { guestAddress } from '@guestdma/memory'
import {
  MMIO_VERSION,
  PCI_CAP_OFFSET,
  PCI_CAP_SIZE,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_ORDER_PLATFORM,
  VIRTIO_F_SWIOTLB,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import type { PciTransport } from '@guestdma/transport'
import { MemoryBlockStore, onDeviceScheme, sharedPoolScheme } from 'guestdma'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { BASE, pattern } from './support/machines.ts'
import {
  accepted,
  chosenSchemes,
  DEVICES,
  onlyWindow,
  outside,
  reach,
  reachablePages,
  refusal,
  site,
  strays,
  traffic,
  watchAddresses,
} from './support/positions.ts'
import {
  functionsSay,
  overlaid,
  swiotlbAt,
  throughConfig,
  throughRegisters,
  transitional,
  unusableRegions,
} from './support/positions-config.ts'
import { cost, snapshot } from './support/positions-cost.ts'
import { exampleOfTheRfc } from './support/positions-devicetree.ts'
import { withPool, withReservedCapability } from './support/positions-platforms.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const SIZE = 1 << 20
const pci = { transport: 'pci' } as const
const region = (): DmaScheme => onDeviceScheme({ size: SIZE, bit: 'offered' })

describe('bit 27 is legacy ANY_LAYOUT: it means SWIOTLB only with all that goes with it (SWIOTLB RFC 1/3)', () => {
  // Offers 27 together with 32, as testpmd, Linux vhost and vdpa_sim do.
  const anyLayout = { device: { offer: [VIRTIO_F_SWIOTLB] } }

  it.each([
    ['a modern device over PCI', 'pci', 'device-memory'],
    ['mmio version 2', 'mmio', 'guest-ram'],
  ] as const)('with the extension on, VERSION_1, a region and %s it means SWIOTLB', async (_, transport, home) => {
    const here = await site([region()], { transport })
    await traffic(here)
    expect(accepted(here, VIRTIO_F_SWIOTLB)).toEqual([true, true])
    for (const name of DEVICES) expect(here.made.device(name).negotiated.backend.traits.home).toBe(home)
  })

  it.each([
    ['the extension off, over mmio', [sharedPoolScheme({ size: SIZE })], {}],
    ['the extension off, over PCI', [sharedPoolScheme({ size: SIZE })], pci],
    ['the extension off, on an open platform', [directScheme()], pci],
  ] as const)('%s: it is ignored without complaint', async (_, list, config) => {
    const here = await site(list, { ...config, ...anyLayout })
    await traffic(here)
    expect(here.made.device('net0').model.offered.has(VIRTIO_F_SWIOTLB)).toBe(true)
    expect(accepted(here, VIRTIO_F_SWIOTLB)).toEqual([false, false])
    for (const name of DEVICES) expect(here.made.device(name).model.faults.count).toBe(0)
  })

  it('the extension off, and the capability there: type 10 is reserved, and ignored (virtio 1.4 §4.1.4)', async () => {
    const here = await site([withReservedCapability(SIZE), sharedPoolScheme()], { ...pci, ...anyLayout })
    await traffic(here)
    expect(accepted(here, VIRTIO_F_SWIOTLB)).toEqual([false, false])
    for (const name of DEVICES) {
      const { swiotlb, ignored } = here.made.device(name).transport as PciTransport
      expect([swiotlb, ignored]).toMatchObject([null, [{ type: 10, why: 'type 10 is reserved' }]])
    }
  })

  it('no valid region: it is ignored without complaint, and what else the platform has is used', async () => {
    functionsSay([{ length: 0 }])
    const here = await site([withPool(SIZE), sharedPoolScheme(), onDeviceScheme()], pci)
    await traffic(here)
    expect(chosenSchemes(here)).toEqual(['shared-pool', 'shared-pool'])
    expect(accepted(here, VIRTIO_F_SWIOTLB)).toEqual([false, false])
  })

  it('a PCI device ID below 0x1040: it is ANY_LAYOUT, and the region is a hint', async () => {
    throughConfig(transitional)
    const here = await site([region()], pci)
    await traffic(here)
    expect(DEVICES.map((name) => here.made.device(name).transport.transitional)).toEqual([true, true])
    expect(chosenSchemes(here)).toEqual(['on-device', 'on-device'])
    expect(accepted(here, VIRTIO_F_SWIOTLB)).toEqual([false, false])
  })

  it('vhost-user: it is ANY_LAYOUT', async () => {
    throughRegisters((registers) => registers, 'vhost-user')
    const here = await site([region()])
    await traffic(here)
    expect(accepted(here, VIRTIO_F_SWIOTLB)).toEqual([false, false])
  })

  it('no VERSION_1: the device is a legacy one, and refused', async () => {
    const failure = site([region()], { ...pci, device: { withhold: [VIRTIO_F_VERSION_1] } })
    await expect(refusal(failure)).rejects.toMatchObject({ code: 'TRANSPORT_LEGACY' })
  })

  it('mmio version 1: the device is a legacy one, and refused', async () => {
    throughRegisters((registers) => overlaid(registers, new Map([[MMIO_VERSION, 1]])))
    await expect(refusal(site([region()]))).rejects.toMatchObject({ code: 'TRANSPORT_VERSION' })
  })

  it('accepted 27 proves nothing: the device confines its port all the same', async () => {
    const here = await site([region()], pci)
    expect(accepted(here, VIRTIO_F_SWIOTLB)).toEqual([true, true])
    for (const name of DEVICES) expect(reachablePages(here.made, name)).toEqual([])
  })
})

describe('exempt from ACCESS_PLATFORM (33) only; 36 is accepted whenever offered (SWIOTLB RFC 1/3)', () => {
  it.each([
    ['33 and 36', [VIRTIO_F_ORDER_PLATFORM], [], true, true],
    ['33 and not 36', [], [], true, false],
    ['36 and not 33', [VIRTIO_F_ORDER_PLATFORM], [VIRTIO_F_ACCESS_PLATFORM], false, true],
    ['neither', [], [VIRTIO_F_ACCESS_PLATFORM], false, false],
  ] as const)('a device that offers %s', async (_, offer, withhold, with33, with36) => {
    const here = await site([region()], { ...pci, device: { offer, withhold } })
    await traffic(here)
    expect(accepted(here, VIRTIO_F_SWIOTLB)).toEqual([true, true])
    expect(accepted(here, VIRTIO_F_ACCESS_PLATFORM)).toEqual([with33, with33])
    expect(accepted(here, VIRTIO_F_ORDER_PLATFORM)).toEqual([with36, with36])
  })

  it('36 is accepted beside other schemes as well', async () => {
    const here = await site([sharedPoolScheme({ size: SIZE })], { device: { offer: [VIRTIO_F_ORDER_PLATFORM] } })
    expect(accepted(here, VIRTIO_F_ORDER_PLATFORM)).toEqual([true, true])
  })
})

describe('rings in guest memory or in the region (virtio 1.4 §2.7, SWIOTLB RFC 1/3)', () => {
  it.each(['pci', 'mmio'] as const)('rings lie in the region once 27 is accepted over %s', async (transport) => {
    const here = await site([region()], { transport })
    expect(accepted(here, VIRTIO_F_SWIOTLB)).toEqual([true, true])
    expect(await strays(here)).toBe(0)
  })
})

describe('mixed mode, the capability without the bit (SWIOTLB RFC 3/3)', () => {
  it.each(['pci', 'mmio'] as const)('ring and payload live in the same place; no mixing over %s', async (transport) => {
    const here = await site([onDeviceScheme({ size: SIZE, bit: 'absent' }), directScheme()], { transport })
    expect(chosenSchemes(here)).toEqual(['on-device', 'on-device'])
    expect(here.made.device('net0').model.offered.has(VIRTIO_F_SWIOTLB)).toBe(false)
    expect(accepted(here, VIRTIO_F_SWIOTLB)).toEqual([false, false])
    expect(await strays(here)).toBe(0)
  })
})

describe('mmio: memory-region names reserved host RAM (SWIOTLB RFC 2/3)', () => {
  it.each(['required', 'offered', 'absent'] as const)(
    'then the region’s home is guest RAM, with its cost, whatever the bit says: %s',
    async (bit) => {
      const { scheme, pool, memory } = exampleOfTheRfc(bit)
      expect([pool.base, pool.length]).toEqual([0x5000_0000, 0x400_0000])
      // The example's second device has no memory-region.
      const device = { store: new MemoryBlockStore(new Uint8Array(512)) }
      const disk = { type: 'blk', name: 'disk0', platform: 'shared-pool', device } as const
      const ram = { base: guestAddress(BASE), length: 16 << 20 }
      const { made, frames } = await site([scheme, sharedPoolScheme({ size: SIZE })], { memory, ram, disk })
      const { backend, features } = made.device('net0').negotiated
      expect([backend.traits.home, features.has(VIRTIO_F_SWIOTLB)]).toEqual(['guest-ram', bit !== 'absent'])
      const seen = watchAddresses(made.device('net0').model)
      made.pump()
      made.net('net0').sendCopy(pattern(100))
      made.pump()
      expect(frames).toEqual([pattern(100)])
      expect(seen.size).toBeGreaterThan(6)
      expect(outside(seen.values(), pool.base, pool.length)).toEqual([])
      // The rest of RAM is out of reach, and no cost of a device's memory arises.
      expect(reach(made.device('net0').port, BASE)).toBeNull()
      expect(onlyWindow(made, 'net0').region.meter).toBeNull()
    },
  )
})

describe('bus addresses or offsets: bus addresses by default, offsets as an option (SWIOTLB RFC 1/3)', () => {
  it.each([
    ['bus', 'pci'],
    ['bus', 'mmio'],
    ['offset', 'pci'],
    ['offset', 'mmio'],
  ] as const)('%s over %s', async (addressing, transport) => {
    const options = addressing === 'bus' ? {} : { addressing }
    const here = await site([onDeviceScheme({ size: SIZE, ...options })], { transport })
    expect(await strays(here)).toBe(0)
    for (const name of DEVICES) {
      const { base } = onlyWindow(here.made, name)
      expect(base === 0).toBe(addressing === 'offset')
      const bar = here.made.device(name).pci?.range(2)?.address
      if (bar !== undefined) expect(base === bar).toBe(addressing === 'bus')
    }
  })
})

describe('alignment and size: a capability that does not fit is ignored with a reason (SWIOTLB RFC 3/3)', () => {
  const BAD = unusableRegions(SIZE)

  it.each(BAD)('%s: refused where there is nothing else', async (_, said) => {
    functionsSay([said])
    await expect(refusal(site([region(), sharedPoolScheme(), directScheme()], pci))).rejects.toMatchObject({
      code: 'DMA_NO_USABLE_BACKEND',
      details: {
        candidates: [
          { id: 'on-device', fit: 'unusable', why: 'the device has no region for bounce buffers' },
          { id: 'shared-pool', fit: 'unusable' },
          { id: 'direct', fit: 'unusable' },
        ],
      },
    })
  })

  it.each(BAD)('%s: the reason is told, and a pool is used where there is one', async (_, said, why) => {
    functionsSay([said])
    const here = await site([withPool(SIZE), sharedPoolScheme(), onDeviceScheme()], pci)
    await traffic(here)
    expect(chosenSchemes(here)).toEqual(['shared-pool', 'shared-pool'])
    const { swiotlb, ignored } = here.made.device('disk0').transport as PciTransport
    expect(swiotlb).toBeNull()
    expect(ignored).toMatchObject([{ type: 10, why: expect.stringContaining(why) }])
  })

  it.each([
    ['over the registers of the device, in another BAR', SIZE, { length: 4096, bar: 0 }],
    ['where the BAR is, and the memory behind it is not', 3 << 20, { length: 4 << 20 }],
  ] as const)('%s: nothing is put there', async (_, size, said) => {
    functionsSay([said])
    await expect(refusal(site([onDeviceScheme({ size })], pci))).rejects.toMatchObject({
      code: 'DMA_NO_USABLE_BACKEND',
    })
    vi.restoreAllMocks()
    await traffic(await site([onDeviceScheme({ size })], pci))
  })

  it('a part of the BAR is as good as all of it, and then nothing else is used', async () => {
    functionsSay([{ offset: 0x40000, length: 0x80000 }])
    const here = await site([region()], pci)
    expect(await strays(here, { offset: 0x40000, length: 0x80000 })).toBe(0)
  })
})

describe('several capabilities: the first usable one (virtio 1.4 §4.1.4.1, SWIOTLB RFC 3/3)', () => {
  it.each([
    ['two usable ones', [{ offset: 0x80000, length: 0x80000 }, { length: 0x80000 }], 0x80000],
    [
      'an unusable one first',
      [
        { offset: 100, length: 4096 },
        { offset: 0x40000, length: 0x80000 },
      ],
      0x40000,
    ],
    [
      'one that its BAR covers and its memory does not, over the registers or beyond its end, first',
      [
        { length: 4096, bar: 0 },
        { offset: 0x80000, length: 0x180000 },
        { offset: 0x40000, length: 0x80000 },
      ],
      0x40000,
      SIZE + 0x80000,
    ],
    ['two unusable ones first', [{ length: 0 }, { length: 4096, bar: 6 }, { offset: 4096, length: 0x80000 }], 4096],
  ] as const)('%s', async (_, said, first, size = SIZE) => {
    functionsSay(said)
    const here = await site([onDeviceScheme({ size, bit: 'offered' })], pci)
    const part = { offset: first, length: 0x80000 }
    for (const name of DEVICES) expect((here.made.device(name).transport as PciTransport).swiotlb).toMatchObject(part)
    expect(await strays(here, part)).toBe(0)
  })
})

describe('region values come from an untrusted device: they are read once (SWIOTLB RFC 3/3)', () => {
  it('a configuration space that answers otherwise the second time changes nothing, nor does a reset', async () => {
    const reads = new Map<number, number>()
    throughConfig((config) => {
      const at = swiotlbAt(config)
      const fields = [at + PCI_CAP_OFFSET, at + PCI_CAP_SIZE]
      return {
        read: (offset, size) => {
          if (!fields.includes(offset)) return config.read(offset, size)
          const before = reads.get(offset) ?? 0
          reads.set(offset, before + 1)
          // There are two functions; what each says first is true.
          return before < 2 ? config.read(offset, size) : offset === fields[0] ? 0x7fff_f000 : 0x4000_0000
        },
        write: (offset, size, value) => config.write(offset, size, value),
      }
    })
    const here = await site([region()], pci)
    expect(await strays(here)).toBe(0)
    await here.made.reset('net0')
    await here.made.reset('disk0')
    expect(await strays(here)).toBe(0)
    // Offset and length of two functions, each once.
    expect([...reads.values()]).toEqual([2, 2])
  })
})

describe('exhaustion: Exhausted, back-pressure, counted (SWIOTLB RFC 1/3)', () => {
  it('a batch that the region has no room for is taken in part, a drain follows, and every frame arrives', async () => {
    const drained: string[] = []
    const here = await site([onDeviceScheme({ size: 48 * 2048 })], { ...pci, each: { queueSize: 32 } })
    const { made, frames } = here
    made.events.on('drain', ({ device }) => drained.push(device))
    made.pump()
    const sent = Array.from({ length: 200 }, (_, i) => pattern(1000, i))
    let next = 0
    let refused = 0
    for (let round = 0; next < sent.length && round < 1000; round++) {
      while (next < sent.length && made.net('net0').sendCopy(sent[next])) next++
      if (next < sent.length) refused++
      made.pump()
    }
    expect(frames).toEqual(sent)
    expect(refused).toBeGreaterThan(0)
    expect(drained.length).toBeGreaterThan(0)
    const { backend } = made.counters().devices.net0
    expect(backend.exhausted).toBeGreaterThan(0)
    expect(backend.stalls).toBeGreaterThan(0)
    expect(backend.slotsHighWater).toBeLessThanOrEqual(backend.slots)
    expect(here.broken).toEqual([])
  })
})

describe('cacheability: what a cost profile needs to know is counted (SWIOTLB RFC 3/3)', () => {
  it('each access to a region on the device is metered by width; of rings in guest RAM none', async () => {
    const here = await site([region()], pci)
    const { loads, stores, bytesLoaded, bytesStored } = await cost(here, 256)
    for (const width of [2, 4, 8] as const) expect([loads[width], stores[width]]).not.toContain(0)
    expect(bytesLoaded).toBeGreaterThan(2 * 256)
    expect(bytesStored).toBeGreaterThan(2 * 256)
    // Nothing to do costs nothing to be written.
    const { stores: before } = snapshot(here, 'net0')
    here.made.pump()
    expect(snapshot(here, 'net0').stores).toEqual(before)
    const inRam = await site([region()])
    await traffic(inRam)
    expect(inRam.made.memory.regions.map(({ meter }) => meter)).toEqual([null])
  })
})
