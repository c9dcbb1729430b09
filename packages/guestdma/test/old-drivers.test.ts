import { BlkDevice, type BusWindows, everything, nothing, oneWindow } from '@guestdma/devices'
import { type DmaProvider, type DmaScheme, directScheme, platformScheme } from '@guestdma/dma'
import { type BusPort, deviceAddress, type GuestMemory, guestAddress } from '@guestdma/memory'
import {
  FeatureSet,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_SWIOTLB,
} from '@guestdma/spec'
import { type DeviceConfig, MemoryBlockStore, onDeviceScheme, sharedPoolScheme, virtioIommuScheme } from 'guestdma'
import { describe, expect, it } from 'vitest'
import { BASE, outcome, pattern, settled } from './support/machines.ts'
import { DEVICES, onlyWindow, reach, refusal, secret, site, traffic } from './support/positions.ts'
import {
  DISK_BYTES,
  ExposurePort,
  finish,
  negotiateOld,
  OLD_DRIVERS,
  oldMachine,
  startOld,
} from './support/positions-old.ts'

const TRANSPORTS = ['mmio', 'pci'] as const
const CASES = OLD_DRIVERS.flatMap((driver) => TRANSPORTS.map((transport) => [driver, transport] as const))

const POOL = 1 << 20
const confined = (memory: GuestMemory): BusPort => {
  const { region, offset } = memory.window(guestAddress(BASE + (3 << 20)), POOL)
  return oneWindow('disk0', { base: BASE + (3 << 20), length: POOL, region, offset })
}

describe('an old driver and a strict device, which requires 27 (SWIOTLB RFC 1/3)', () => {
  it.each(TRANSPORTS)('leaves 27 clear over %s: FEATURES_OK stays clear, and the device touches nothing', (kind) => {
    const old = oldMachine(kind, true, () => nothing('disk0'))
    expect(negotiateOld(old, 'leaves 27 clear')).toBeNull()
    expect(old.device.status & (STATUS_FEATURES_OK | STATUS_DRIVER_OK)).toBe(0)
    expect(old.device.status & STATUS_FAILED).toBe(STATUS_FAILED)
    old.device.poll(64)
    expect((old.device.port as BusWindows).faults.count).toBe(0)
    expect(old.device.faults.last()).toMatchObject([{ kind: 'features', reason: 'required', bits: [VIRTIO_F_SWIOTLB] }])
  })

  it.each(TRANSPORTS)(
    'accepts 27 as ANY_LAYOUT over %s: that proves nothing, and its first access faults',
    async (kind) => {
      const old = oldMachine(kind, true, confined)
      const features = negotiateOld(old, 'accepts 27 as ANY_LAYOUT') as FeatureSet
      expect(features.has(VIRTIO_F_SWIOTLB)).toBe(true)
      const driver = startOld(old, features)
      expect(await finish(old.device, driver, driver.readBytes(0, 512))).toBe('DRIVER_DEVICE_BROKEN')
      const [first] = (old.device.port as BusWindows).faults.last()
      expect(first).toMatchObject({ port: 'disk0', reason: 'unmapped' })
      const address = Number(first.address)
      expect(address >= BASE && address < BASE + (3 << 20)).toBe(true)
      // Nothing of the disk turned up in memory.
      const sector = Buffer.from(pattern(64))
      expect(Buffer.from(old.memory.read(guestAddress(BASE), 4 << 20)).includes(sector)).toBe(false)
    },
  )
})

describe('an old driver and a permissive device, which offers 27 and goes on without it (SWIOTLB RFC 1/3)', () => {
  it.each(CASES)(
    '%s over %s, with a confined port: its first access faults, is recorded, and the driver notices',
    async (driver, kind) => {
      const old = oldMachine(kind, false, confined)
      const features = negotiateOld(old, driver) as FeatureSet
      expect(features.has(VIRTIO_F_SWIOTLB)).toBe(driver === 'accepts 27 as ANY_LAYOUT')
      const blk = startOld(old, features)
      expect(await finish(old.device, blk, blk.readBytes(0, 512))).toBe('DRIVER_DEVICE_BROKEN')
      const { faults } = old.device.port as BusWindows
      expect(faults.count).toBeGreaterThan(0)
      expect(faults.last()[0]).toMatchObject({ reason: 'unmapped', address: expect.any(Number) })
      expect(old.device.faults.last()).toMatchObject([{ kind: 'queue' }])
      expect(old.device.live).toBe(false)
    },
  )

  it.each(CASES)(
    '%s over %s, with an open port: it works, and every byte outside of any pool is counted',
    async (driver, kind) => {
      const old = oldMachine(kind, false, (memory) => new ExposurePort(everything(memory), BASE + (3 << 20), POOL))
      const blk = startOld(old, negotiateOld(old, driver) as FeatureSet)
      const port = old.device.port as ExposurePort
      expect(await finish(old.device, blk, blk.readBytes(0, 4096))).toEqual(pattern(DISK_BYTES).slice(0, 4096))
      // Three ring areas, a header, the data and a status, at the least.
      expect(port.accesses).toBeGreaterThanOrEqual(6)
      expect(port.bytes).toBeGreaterThan(4096 + 16 + 1)
      expect(port.faults.count).toBe(0)
    },
  )

  it('a driver of today on that open port is counted as well: nothing, since it keeps to the pool', async () => {
    const ports: ExposurePort[] = []
    const pool = sharedPoolScheme({ size: POOL })
    const open: DmaScheme = {
      ...pool,
      install(platform) {
        const { windows } = pool.install(platform)() as BusWindows
        ports.push(new ExposurePort(everything(platform.memory), windows[0].base, windows[0].length))
        return () => ports[ports.length - 1]
      },
    }
    await traffic(await site([open]))
    expect(ports.map(({ accesses, bytes, inside }) => [accesses, bytes, inside > 4096])).toEqual([
      [0, 0, true],
      [0, 0, true],
    ])
  })
})

describe('downgrade: a device’s claim may narrow the choice, never widen it (virtio 1.4 §2.2, §6.1)', () => {
  const downgrade = (name: string): { code: string; details: unknown } => ({
    code: 'DMA_DOWNGRADE_REFUSED',
    details: expect.objectContaining({ refused: 'direct', stronger: name }),
  })

  it('a device that withholds ACCESS_PLATFORM behind an IOMMU is refused, with what would have worked', async () => {
    const schemes = [virtioIommuScheme(), directScheme()]
    const device = { withhold: [VIRTIO_F_ACCESS_PLATFORM] }
    await expect(refusal(site(schemes, { device }))).rejects.toMatchObject({
      ...downgrade('virtio-iommu'),
      message: expect.stringContaining("list 'direct' explicitly"),
    })
    // The same device without the withholding.
    await traffic(await site(schemes))
  })

  it('unless the caller listed direct: then the IOMMU stops its untranslated addresses, and that is told', async () => {
    const schemes = [virtioIommuScheme(), directScheme()]
    const device = { withhold: [VIRTIO_F_ACCESS_PLATFORM] }
    const here = await site(schemes, { device, each: { dma: ['virtio-iommu', 'direct'] } })
    expect(here.chosen.map(({ scheme }) => scheme)).toEqual(['direct', 'direct'])
    expect(here.chosen[0].ladder[0]).toMatchObject({ id: 'virtio-iommu', fit: 'unusable' })
    const reading = outcome(here.made.blk('disk0').readBytes(0, 512))
    here.made.pump()
    await settled()
    here.made.pump()
    expect(reading()).toBe('DRIVER_DEVICE_BROKEN')
    expect(here.reported.length).toBeGreaterThan(0)
  })

  it('a device that withholds 27 gains nothing: its region is used all the same', async () => {
    const schemes = [onDeviceScheme({ size: 1 << 20, bit: 'offered' }), directScheme()]
    const here = await site(schemes, { transport: 'pci', device: { withhold: [VIRTIO_F_SWIOTLB] } })
    await traffic(here)
    expect(here.chosen.map(({ scheme }) => scheme)).toEqual(['on-device', 'on-device'])
    expect(here.made.device('net0').negotiated.features.has(VIRTIO_F_SWIOTLB)).toBe(false)
    expect(reach(here.made.device('net0').port, secret(here.made).address)).toBeNull()
  })

  // A region and a bus that would reach all of RAM: what a driver gives up is what the device then sees.
  const open = (ports: BusPort[]): DmaScheme =>
    platformScheme('open', (platform) => {
      const { guest, window } = platform.reserve(POOL, 4096)
      const device = deviceAddress(guest)
      platform.declareSwiotlb({ window, device, home: 'guest-ram', addressing: 'bus', bit: 'offered' })
      platform.declareRam(true)
      ports.push(platform.everything())
      return () => ports[ports.length - 1]
    })

  /** Clears FEATURES_OK wherever 27 is accepted. */
  class RefusingDisk extends BlkDevice {
    refused = 0

    override writeStatus(value: number): boolean {
      const set = (value & ~this.status & STATUS_FEATURES_OK) !== 0
      if (!set || !this.accepts27) return super.writeStatus(value)
      this.refused++
      return super.writeStatus(value & ~STATUS_FEATURES_OK)
    }

    override writeDriverFeatures(index: number, value: number): boolean {
      if (index === 0) this.accepts27 = (value & (1 << VIRTIO_F_SWIOTLB)) !== 0
      return super.writeDriverFeatures(index, value)
    }

    private accepts27 = false
  }

  const refusing = (disks: RefusingDisk[]): DeviceConfig & { type: 'blk' } => {
    const store = new MemoryBlockStore(pattern(64 * 512))
    const make = (port: BusPort): RefusingDisk => {
      const options = { name: 'disk0', port, store, offer: [VIRTIO_F_SWIOTLB], accessPlatform: 'offered' as const }
      disks.push(new RefusingDisk(options))
      return disks[disks.length - 1]
    }
    return { type: 'blk', name: 'disk0', device: { store }, make }
  }

  it('a device that withholds FEATURES_OK until direct is left is refused, with what would have worked', async () => {
    const disks: RefusingDisk[] = []
    await expect(
      refusal(site([open([]), onDeviceScheme(), directScheme()], { disk: refusing(disks) })),
    ).rejects.toMatchObject({
      code: 'DMA_DOWNGRADE_REFUSED',
      details: {
        refused: 'direct',
        stronger: 'on-device',
        candidates: [
          { id: 'on-device', outcome: expect.stringContaining('refused the features') },
          { id: 'open', fit: 'unusable' },
          { id: 'direct', fit: 'usable', outcome: expect.stringContaining('confine less') },
        ],
      },
    })
    expect(disks[0].refused).toBe(1)
    expect(disks[0].live).toBe(false)
  })

  it('unless the caller listed direct, and then the ladder says what was tried before', async () => {
    const disks: RefusingDisk[] = []
    const disk = { ...refusing(disks), dma: ['on-device', 'direct'] }
    const here = await site([open([]), onDeviceScheme(), directScheme()], { disk })
    expect(here.chosen.map(({ device, scheme }) => [device, scheme])).toEqual([
      ['net0', 'on-device'],
      ['disk0', 'direct'],
    ])
    expect(here.chosen[1].ladder).toMatchObject([
      { id: 'on-device', outcome: expect.stringContaining('refused the features') },
      { id: 'direct', fit: 'usable' },
    ])
    expect(await here.made.run(here.made.blk('disk0').readBytes(0, 512))).toEqual(pattern(512))
  })
})

describe('the ladder of candidates (virtio 1.4 §3.1.1)', () => {
  const third = (change: Partial<DmaProvider>): DmaScheme => {
    const pool = sharedPoolScheme({ size: POOL })
    return { ...pool, id: 'third', provider: { ...pool.provider, id: 'third', ...change } }
  }

  it('a scheme whose create fails costs one rung: reset, the next candidate, and the ladder says so', async () => {
    const failing = third({
      create: () => {
        throw new Error('out of luck')
      },
    })
    const here = await site([failing, sharedPoolScheme()])
    for (const { scheme, ladder } of here.chosen) {
      expect(scheme).toBe('shared-pool')
      expect(ladder.map(({ id, outcome: what }) => [id, what])).toEqual([
        ['third', 'could not be set up: out of luck'],
        ['shared-pool', undefined],
      ])
    }
    await traffic(here)
  })

  it('a scheme whose create fails and nothing beside it: refused with the reason, and the device is told', async () => {
    const failing = third({ create: () => Promise.reject(new Error('out of luck')) })
    await expect(refusal(site([failing]))).rejects.toMatchObject({
      code: 'DMA_NO_USABLE_BACKEND',
      details: { candidates: [{ id: 'third', outcome: 'could not be set up: out of luck' }] },
      cause: { message: 'out of luck' },
    })
  })

  it('two schemes that are both required are a conflict: neither is taken', async () => {
    const why = 'because it says so'
    const greedy = third({ assess: () => ({ fit: 'required', accept: FeatureSet.empty, why }) })
    const failure = site([onDeviceScheme({ size: 1 << 20 }), greedy], { transport: 'pci' })
    await expect(refusal(failure)).rejects.toMatchObject({
      code: 'DMA_CONFLICT',
      details: { ids: ['on-device', 'third'] },
    })
    // The caller may decide.
    const here = await site([onDeviceScheme({ size: 1 << 20 }), greedy], {
      transport: 'pci',
      each: { dma: 'on-device' },
    })
    await traffic(here)
    for (const name of DEVICES) expect(onlyWindow(here.made, name).length).toBe(1 << 20)
  })
})
