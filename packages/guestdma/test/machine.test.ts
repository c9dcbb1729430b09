import { sharedPoolScheme } from '@guestdma/bounce'
import { BlkDevice, type BusWindows, NetDevice } from '@guestdma/devices'
import { directScheme } from '@guestdma/dma'
import { NetDriver, type ReceivedFrames } from '@guestdma/drivers'
import { GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_SWIOTLB } from '@guestdma/spec'
import {
  type BlkConfig,
  createMachine,
  type DeviceConfig,
  DMA_BACKEND,
  DRIVER,
  GUEST_MEMORY,
  GUEST_RAM,
  type Machine,
  type MachineConfig,
  MachineEvents,
  MemoryBlockStore,
  type NetConfig,
  type SchemeChosen,
  Wire,
} from 'guestdma'
import type { DependencyContainer } from 'tsyringe'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  BASE,
  catchMicrotasks,
  HeldStore,
  MAC,
  MODES,
  machineOver,
  outcome,
  PLATFORMS,
  pattern,
  RecordingLink,
  ranges,
  settled,
  smallSchemes,
  TRANSPORTS,
} from './support/machines.ts'

const net = (name: string, more: Partial<NetConfig> = {}): DeviceConfig => ({
  type: 'net',
  name,
  device: { mac: MAC },
  ...more,
})
const blk = (name: string, more: Partial<BlkConfig> = {}): DeviceConfig => ({
  type: 'blk',
  name,
  device: { store: new MemoryBlockStore(pattern(64 * 512)) },
  ...more,
})

/** A block device that does not answer resets while it is stuck. */
class StuckDisk extends BlkDevice {
  stuck = false

  override writeStatus(value: number): boolean {
    return this.stuck && value === 0 ? true : super.writeStatus(value)
  }
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  const machine = machineOver(transport)

  /** Creates a machine and keeps what was chosen. */
  async function chosen(
    devices: readonly DeviceConfig[],
    config: Partial<MachineConfig> = {},
  ): Promise<{ made: Machine; events: SchemeChosen[] }> {
    const events = new MachineEvents()
    const seen: SchemeChosen[] = []
    events.on('scheme', (event) => seen.push(event))
    return { made: await machine(devices, { events, ...config }), events: seen }
  }

  describe('machine/scheme: what is chosen and why', () => {
    it('takes the shared pool by default, and tells the ladder', async () => {
      const events: SchemeChosen[] = []
      const emitter = new MachineEvents()
      emitter.on('scheme', (event) => events.push(event))
      const made = await createMachine({ transport, memory: ranges(), devices: [net('net0')], events: emitter })
      expect(events).toEqual([
        {
          device: 'net0',
          scheme: 'shared-pool',
          why: expect.stringContaining('pool'),
          ladder: [
            { id: 'on-device', fit: 'unusable', why: expect.stringContaining('no region') },
            { id: 'virtio-iommu', fit: 'unusable', why: expect.stringContaining('not behind an IOMMU') },
            { id: 'shared-pool', fit: 'usable', why: expect.any(String) },
            { id: 'direct', fit: 'unusable', why: expect.stringContaining('not reachable') },
          ],
        },
      ])
      expect(made.device('net0').negotiated.features.has(VIRTIO_F_ACCESS_PLATFORM)).toBe(true)
      expect(made.net('net0').session.transport.kind).toBe(transport)
    })

    it('takes direct on a platform that confines nothing', async () => {
      const { made, events } = await chosen([net('net0', { platform: 'direct' })])
      expect(events[0].scheme).toBe('direct')
      expect(events[0].ladder.map(({ id, fit }) => [id, fit])).toEqual([
        ['shared-pool', 'unusable'],
        ['direct', 'usable'],
      ])
      expect(made.counters().devices.net0.scheme).toBe('direct')
    })

    it('follows a list as it stands', async () => {
      const { events } = await chosen([net('net0', { dma: ['direct', 'shared-pool'] })])
      expect([events[0].scheme, events[0].ladder.map(({ id }) => id)]).toEqual([
        'shared-pool',
        ['direct', 'shared-pool'],
      ])
    })

    it('refuses a listed scheme that the platform does not carry, and sets FAILED', async () => {
      let device: NetDevice | null = null
      const make: BlkConfig['make'] = (port) => {
        device = new NetDevice({ name: 'net0', port, mac: MAC })
        return device
      }
      await expect(machine([net('net0', { dma: 'direct', make })])).rejects.toMatchObject({
        code: 'DMA_NO_USABLE_BACKEND',
        details: { candidates: [{ id: 'direct', fit: 'unusable' }] },
      })
      expect((device as NetDevice | null)?.live).toBe(false)
    })

    it('knows no other scheme and no other platform than those it was given', async () => {
      await expect(machine([net('net0', { dma: 'iommu' })])).rejects.toMatchObject({
        code: 'DMA_UNKNOWN_SCHEME',
        details: { id: 'iommu' },
      })
      await expect(machine([net('net0', { dma: ['direct', 'iommu'] })])).rejects.toMatchObject({
        code: 'DMA_UNKNOWN_SCHEME',
      })
      await expect(machine([net('net0', { platform: 'iommu' })])).rejects.toMatchObject({
        code: 'DMA_UNKNOWN_SCHEME',
        details: { id: 'iommu' },
      })
      await expect(machine([net('net0')], { schemes: [] })).rejects.toMatchObject({ code: 'MACHINE_CONFIG' })
      await expect(
        machine([net('net0', { platform: 'shared-pool' })], { schemes: [directScheme()] }),
      ).rejects.toMatchObject({ code: 'DMA_UNKNOWN_SCHEME' })
    })

    it.each(PLATFORMS)('brings a device up on %s that insists on ACCESS_PLATFORM', async (platform) => {
      const { made } = await chosen([net('net0', { platform, device: { mac: MAC, accessPlatform: 'required' } })])
      expect(made.device('net0').negotiated.features.has(VIRTIO_F_ACCESS_PLATFORM)).toBe(true)
    })

    it('a device whose access is limited offers ACCESS_PLATFORM, and the driver accepts it (§6.1, §6.2)', {
      tags: ['6.2/access-platform', '6.1/access-platform'],
    }, async () => {
      const { made } = await chosen([net('net0', { platform: 'shared-pool' })])
      expect(made.device('net0').negotiated.features.has(VIRTIO_F_ACCESS_PLATFORM)).toBe(true)
    })

    it('reports the ladder where a device insists on what no scheme accepts', async () => {
      const device = { mac: MAC, offer: [VIRTIO_F_SWIOTLB], requires: FeatureSet.of(VIRTIO_F_SWIOTLB) }
      await expect(machine([net('net0', { device })])).rejects.toMatchObject({
        code: 'DMA_NO_USABLE_BACKEND',
        details: { candidates: [{ id: 'shared-pool', outcome: expect.stringContaining('refused') }, { id: 'direct' }] },
      })
    })

    it('gives a bus offset only to a device that offers ACCESS_PLATFORM', async () => {
      const schemes = [directScheme({ busOffset: 0x1_0000_0000 })]
      const { made } = await chosen([blk('disk0')], { schemes })
      expect((await made.run(made.blk('disk0').readBytes(0, 512))).slice(0, 4)).toEqual(pattern(4))
      expect(made.device('disk0').negotiated.backend.limits.maxDeviceAddress).toBeGreaterThan(0x1_0000_0000)
      const device = { store: new MemoryBlockStore(new Uint8Array(512)), withhold: [VIRTIO_F_ACCESS_PLATFORM] }
      await expect(machine([blk('disk0', { device })], { schemes })).rejects.toMatchObject({
        code: 'DMA_NO_USABLE_BACKEND',
      })
    })
  })

  describe('machine/names and device types', () => {
    it('refuses two devices with one name, before anything is made', async () => {
      let first: BlkDevice | null = null
      const make: BlkConfig['make'] = (port) => {
        first = new BlkDevice({ name: 'disk0', port, store: new MemoryBlockStore(new Uint8Array(512)) })
        return first
      }
      await expect(machine([blk('disk0', { make }), blk('disk0')])).rejects.toMatchObject({ code: 'MACHINE_CONFIG' })
      expect(first).toBe(null)
    })

    it('closes the devices that were up when a later one fails', async () => {
      let first: BlkDevice | null = null
      const make: BlkConfig['make'] = (port) => {
        first = new BlkDevice({ name: 'disk0', port, store: new MemoryBlockStore(new Uint8Array(512)) })
        return first
      }
      await expect(machine([blk('disk0', { make }), net('net0', { dma: 'direct' })])).rejects.toMatchObject({
        code: 'DMA_NO_USABLE_BACKEND',
      })
      const { status, port } = first as unknown as BlkDevice
      expect(status).toBe(0)
      expect((port as BusWindows).windows).toEqual([])
    })

    it('closes a device whose queues are too small for its driver, and its name says which', async () => {
      const devices: NetDevice[] = []
      const make: BlkConfig['make'] = (port) => {
        devices.push(new NetDevice({ name: 'net0', port, mac: MAC, queueSize: 1, accessPlatform: 'offered' }))
        return devices[0]
      }
      await expect(machine([net('net0', { make })])).rejects.toMatchObject({
        code: 'VIRTQUEUE_TOO_SMALL',
        part: 'net0 transmit',
      })
      expect(devices[0].live).toBe(false)
      // One descriptor is enough where header and frame always lie together.
      const link = new RecordingLink()
      const made = await machine([net('net0', { mode: 'pool', device: { mac: MAC, queueSize: 1, link } })])
      for (let i = 0; i < 3; i++) {
        expect(made.net('net0').sendCopy(pattern(60, i))).toBe(true)
        made.pump()
      }
      expect(link.frames).toEqual([0, 1, 2].map((seed) => pattern(60, seed)))
    })

    it('refuses a model whose device ID is not of the type', async () => {
      const make: BlkConfig['make'] = (port) =>
        new BlkDevice({ name: 'net0', port, store: new MemoryBlockStore(new Uint8Array(512)) })
      await expect(machine([net('net0', { make })])).rejects.toMatchObject({
        code: expect.stringMatching(/^(MACHINE_DEVICE_TYPE|TRANSPORT_DEVICE_TYPE)$/),
      })
    })

    it('tells devices apart', async () => {
      const { made } = await chosen([net('net0'), blk('disk0')])
      expect(made.net('net0')).toBeInstanceOf(NetDriver)
      expect(() => made.net('disk0')).toThrow(expect.objectContaining({ code: 'MACHINE_DEVICE_TYPE' }))
      expect(() => made.blk('net0')).toThrow(expect.objectContaining({ code: 'MACHINE_DEVICE_TYPE' }))
      expect(() => made.device('nowhere')).toThrow(expect.objectContaining({ code: 'MACHINE_NO_DEVICE' }))
    })

    it('uses a model of the caller’s', async () => {
      const store = new MemoryBlockStore(pattern(1024, 3))
      const make: BlkConfig['make'] = (port) =>
        new BlkDevice({ name: 'mine', port, store, id: 'my own', accessPlatform: 'offered' })
      const { made } = await chosen([blk('disk0', { make })])
      expect(await made.run(made.blk('disk0').id())).toBe('my own')
    })
  })

  describe('init/*: the drivers break no rule that the device models know of', () => {
    it.each(PLATFORMS.flatMap((platform) => MODES.map((mode) => [platform, mode] as const)))(
      'on %s in %s mode',
      async (platform, mode) => {
        const wire = new Wire()
        const got: Uint8Array[] = []
        const made = await machine([
          net('net0', { platform, mode, device: { mac: MAC, link: wire.a, mtu: 1500 } }),
          net('net1', {
            platform,
            mode,
            device: { mac: [0x52, 0x54, 0, 1, 2, 4], link: wire.b, offer: [35, 38] },
            observer: {
              frames: (batch) => {
                for (let i = 0; i < batch.count; i++) got.push(batch.copy(i))
              },
            },
          }),
          blk('disk0', {
            platform,
            mode,
            device: { store: new MemoryBlockStore(pattern(64 * 512)), blockSize: 4096, sizeMax: 4096, offer: [35, 38] },
          }),
        ])
        made.pump()
        for (let i = 0; i < 40; i++) expect(made.net('net0').sendCopy(pattern(60 + i, i))).toBe(true)
        made.pump()
        expect(got).toEqual(Array.from({ length: 40 }, (_, i) => pattern(60 + i, i)))
        // The longest frame there is: two VLAN tags at full MTU.
        const stacked = pattern(1522)
        stacked.set([0x88, 0xa8], 12)
        stacked.set([0x81, 0x00], 16)
        expect(made.net('net0').sendCopy(stacked)).toBe(true)
        made.pump()
        expect(got[40]).toEqual(stacked)
        expect(await made.run(made.blk('disk0').readBytes(0, 64 * 512))).toEqual(pattern(64 * 512))
        await made.run(made.blk('disk0').flush())
        await made.reset('net1')
        for (const name of ['net0', 'net1', 'disk0']) expect(made.device(name).model.faults.last()).toEqual([])
        expect(Object.values(made.counters().devices).map(({ faults }) => faults)).toEqual([0, 0, 0])
        await made.close()
        expect(made.ram.live).toBe(0)
      },
    )
  })

  describe('reset/revokes: close gives every span of guest RAM back', () => {
    it.each(PLATFORMS.flatMap((platform) => MODES.map((mode) => [platform, mode] as const)))(
      'on %s in %s mode, with requests in flight',
      async (platform, mode) => {
        const store = new HeldStore(pattern(64 * 512))
        const made = await machine([
          net('net0', { platform, mode }),
          blk('disk0', { platform, mode, device: { store } }),
        ])
        made.pump()
        const address = made.ram.allocate(4096)
        const states = [outcome(made.blk('disk0').read(0, address, 4096)), outcome(made.blk('disk0').readBytes(0, 512))]
        made.net('net0').sendCopy(pattern(60))
        await settled()
        made.pump()
        expect(store.held.length).toBe(2)
        const leaks: number[] = []
        made.events.on('leak', ({ mappings }) => leaks.push(mappings))
        made.ram.release(address)
        await made.close()
        await settled()
        expect(states.map((state) => state())).toEqual(['DRIVER_CLOSED', 'DRIVER_CLOSED'])
        expect([made.ram.live, leaks]).toEqual([0, []])
        // Late answers of the store reach nothing.
        const before = made.memory.read(address, 4096)
        while (store.held.length > 0) store.release()
        made.pump()
        expect(made.memory.read(address, 4096)).toEqual(before)
      },
    )

    it('for one pool per machine', async () => {
      const made = await machine([net('net0'), blk('disk0'), blk('disk1')], {
        schemes: [sharedPoolScheme({ per: 'machine' })],
      })
      await made.run(made.blk('disk1').readBytes(0, 512))
      await made.close()
      expect(made.ram.live).toBe(0)
    })

    it('cuts the ports off', async () => {
      const made = await machine([blk('disk0'), net('net0', { platform: 'direct' })])
      const ports = ['disk0', 'net0'].map((name) => made.device(name).port as BusWindows)
      expect(ports.map(({ windows }) => windows.length)).toEqual([1, 1])
      await made.close()
      expect(ports.map(({ windows }) => windows.length)).toEqual([0, 0])
    })

    it('may be closed twice, at once, and by `await using`', async () => {
      const made = await machine([blk('disk0')])
      {
        await using same = made
        await Promise.all([same.close(), same.close()])
      }
      expect(made.ram.live).toBe(0)
      expect(() => made.blk('disk0')).toThrow(expect.objectContaining({ code: 'MACHINE_CLOSED' }))
      expect(made.pump()).toBe(0)
      expect(made.counters()).toEqual({ devices: {} })
    })
  })

  describe('machine/reset', () => {
    it.each(PLATFORMS.flatMap((platform) => MODES.map((mode) => [platform, mode] as const)))(
      'recovers a broken device on %s in %s mode',
      async (platform, mode) => {
        const link = new RecordingLink()
        const made = await machine([
          net('net0', { platform, mode, device: { mac: MAC, link } }),
          blk('disk0', { platform, mode }),
        ])
        const broken: string[] = []
        made.events.on('needsReset', ({ device, error }) => broken.push(`${device} ${error.code}`))
        made.pump()
        const { live } = made.ram
        for (let round = 0; round < 3; round++) {
          const reading = outcome(made.blk('disk0').readBytes(0, 4096))
          made.device('net0').model.needsReset('a test')
          made.device('disk0').model.needsReset('a test')
          made.pump()
          await settled()
          made.pump()
          await settled()
          expect(reading()).toBe('DRIVER_DEVICE_BROKEN')
          const old = made.net('net0')
          expect(old.sendCopy(pattern(60))).toBe(false)
          await made.reset('net0')
          await made.reset('disk0')
          expect(made.net('net0')).not.toBe(old)
          expect(old.sendCopy(pattern(60))).toBe(false)
          expect(made.net('net0').sendCopy(pattern(60, round))).toBe(true)
          made.pump()
          expect(link.frames.at(-1)).toEqual(pattern(60, round))
          expect(await made.run(made.blk('disk0').readBytes(1, 512))).toEqual(pattern(64 * 512).slice(512, 1024))
        }
        expect(broken.sort()).toEqual(
          [0, 1, 2].map(() => 'disk0 DRIVER_DEVICE_BROKEN').concat([0, 1, 2].map(() => 'net0 DRIVER_DEVICE_BROKEN')),
        )
        expect(made.ram.live).toBe(live)
        await made.close()
        expect(made.ram.live).toBe(0)
      },
    )

    it('is refused after close, when the memory of the platform was given back', async () => {
      const made = await machine([blk('disk0')])
      await made.close()
      await expect(made.reset('disk0')).rejects.toMatchObject({ code: 'MACHINE_CLOSED' })
      expect(made.ram.live).toBe(0)
    })

    it('may be called twice at once', async () => {
      const made = await machine([blk('disk0')])
      await Promise.all([made.reset('disk0'), made.reset('disk0')])
      expect(await made.run(made.blk('disk0').readBytes(0, 512))).toEqual(pattern(512))
      await made.close()
      expect(made.ram.live).toBe(0)
    })

    it('leaves nothing behind when the machine is closed meanwhile', async () => {
      const made = await machine([blk('disk0')])
      const resetting = made.reset('disk0').catch(() => {})
      await made.close()
      await resetting
      expect(made.ram.live).toBe(0)
      expect(made.device('disk0').running).toBe(false)
    })

    it('finds room for its rings in a pool whose receive ring filled it meanwhile', async () => {
      const schemes = [sharedPoolScheme({ per: 'machine', size: 40 * 2048 })]
      const made = await machine([blk('disk0', { queueSize: 16 }), net('net0', { queueSize: 64 })], { schemes })
      made.pump()
      for (let round = 0; round < 4; round++) {
        await made.reset('disk0')
        made.pump()
        expect(await made.run(made.blk('disk0').readBytes(0, 4096))).toEqual(pattern(4096))
      }
    })
  })

  describe('reset/quarantine', () => {
    const stuckMachine = async (): Promise<{ made: Machine; disk: StuckDisk }> => {
      const disks: StuckDisk[] = []
      const make: BlkConfig['make'] = (port) => {
        const disk = new StuckDisk({
          name: 'disk0',
          port,
          store: new MemoryBlockStore(pattern(4096)),
          accessPlatform: 'offered',
        })
        disks.push(disk)
        return disk
      }
      const made = await machine([blk('disk0', { make })], { deadlineMs: 5 })
      return { made, disk: disks[0] }
    }

    it('a stuck device is cut off from memory, then its memory goes back', async () => {
      const { made, disk } = await stuckMachine()
      disk.stuck = true
      await expect(made.close()).rejects.toMatchObject({
        code: 'TRANSPORT_DEVICE_STUCK',
        details: { quarantined: false },
      })
      expect((disk.port as BusWindows).windows).toEqual([])
      expect(made.ram.live).toBe(0)
    })

    it('a device that was cut off works again after a reset that it answers', async () => {
      const { made, disk } = await stuckMachine()
      disk.stuck = true
      await expect(made.reset('disk0')).rejects.toMatchObject({
        code: 'TRANSPORT_DEVICE_STUCK',
        details: { quarantined: false },
      })
      expect(made.device('disk0').running).toBe(false)
      disk.stuck = false
      await made.reset('disk0')
      expect(await made.run(made.blk('disk0').readBytes(0, 512))).toEqual(pattern(512))
      await made.close()
      expect(made.ram.live).toBe(0)
    })
  })

  describe('machine/memory', () => {
    const work = async (made: Machine, link: RecordingLink, between: () => void): Promise<void> => {
      made.pump()
      for (let round = 0; round < 4; round++) {
        const address = made.ram.allocate(4096)
        made.memory.write(address, pattern(4096, round))
        const write = made.blk('disk0').write(8, address, 4096)
        between()
        await made.run(write)
        between()
        expect(await made.run(made.blk('disk0').readBytes(8, 4096))).toEqual(pattern(4096, round))
        expect(made.net('net0').sendCopy(pattern(100, round))).toBe(true)
        between()
        made.pump()
        expect(link.frames.at(-1)).toEqual(pattern(100, round))
        made.ram.release(address)
      }
    }
    const devices = (platform: string, mode: 'map' | 'pool', link: RecordingLink): DeviceConfig[] => [
      net('net0', { platform, mode, device: { mac: MAC, link } }),
      blk('disk0', { platform, mode }),
    ]

    it.each(PLATFORMS.flatMap((platform) => MODES.map((mode) => [platform, mode] as const)))(
      'a WebAssembly.Memory may grow at any time: %s, %s mode',
      async (platform, mode) => {
        const wasm = new WebAssembly.Memory({ initial: 128, maximum: 256 })
        const link = new RecordingLink()
        const memory = new GuestMemory([{ base: BASE, length: 128 << 16, memory: wasm }])
        const made = await createMachine({
          transport,
          memory,
          schemes: smallSchemes(),
          devices: devices(platform, mode, link),
        })
        await work(made, link, () => wasm.grow(1))
        expect(wasm.buffer.byteLength).toBe((128 + 12) << 16)
        await made.close()
        expect(made.ram.live).toBe(0)
      },
    )

    it('frames can be copied by a listener that made memory grow', async () => {
      const wasm = new WebAssembly.Memory({ initial: 128, maximum: 256 })
      const got: Uint8Array[] = []
      const memory = new GuestMemory([{ base: BASE, length: 128 << 16, memory: wasm }])
      const made = await createMachine({
        transport,
        memory,
        devices: [
          net('net0', {
            observer: {
              frames: (batch: ReceivedFrames) => {
                wasm.grow(1)
                for (let i = 0; i < batch.count; i++) got.push(batch.copy(i))
              },
            },
          }),
        ],
      })
      made.pump()
      const device = made.device('net0').model as NetDevice
      device.receive(pattern(60, 1))
      device.receive(pattern(61, 2))
      made.pump()
      device.receive(pattern(62, 3))
      made.pump()
      expect(got).toEqual([pattern(60, 1), pattern(61, 2), pattern(62, 3)])
    })

    it.each(PLATFORMS.flatMap((platform) => MODES.map((mode) => [platform, mode] as const)))(
      'may be a SharedArrayBuffer: %s, %s mode',
      async (platform, mode) => {
        const link = new RecordingLink()
        const memory = new GuestMemory([{ base: BASE, length: 8 << 20, memory: new SharedArrayBuffer(8 << 20) }])
        await work(
          await createMachine({ transport, memory, schemes: smallSchemes(), devices: devices(platform, mode, link) }),
          link,
          () => {},
        )
      },
    )

    it.each(PLATFORMS)(
      'may be several ranges over several buffers, users’ data in any of them: %s',
      async (platform) => {
        const memory = new GuestMemory([
          { base: 0x1000, length: 0x10_000, memory: new ArrayBuffer(0x10_000) },
          { base: BASE, length: 8 << 20, memory: new ArrayBuffer(9 << 20), offset: 1 << 20 },
          { base: 0x1_0000_0000, length: 0x10_000, memory: new ArrayBuffer(0x10_000) },
        ])
        const made = await createMachine({
          transport,
          memory,
          schemes: smallSchemes(),
          devices: [blk('disk0', { platform })],
        })
        expect(made.ram.allocate(16)).toBeGreaterThanOrEqual(BASE)
        for (const at of [0x1000, 0x10_e00, 0x1_0000_0000, 0x1_0000_fe00]) {
          const address = guestAddress(at)
          await made.run(made.blk('disk0').read(3, address, 512))
          expect(memory.read(address, 512)).toEqual(pattern(64 * 512).slice(3 * 512, 4 * 512))
        }
        await expect(made.run(made.blk('disk0').read(0, guestAddress(0x1_0000_fe00), 1024))).rejects.toMatchObject({
          code: 'BLK_DMA',
        })
      },
    )

    it('takes rings and pools from the part that it is given, and from nowhere else', async () => {
      const memory = new GuestMemory(ranges())
      const ram = { base: guestAddress(BASE + (4 << 20)), length: 4 << 20 }
      memory.write(guestAddress(BASE), new Uint8Array(4 << 20).fill(0xee))
      const schemes = [sharedPoolScheme({ size: 1 << 20 })]
      const made = await createMachine({ transport, memory, ram, schemes, devices: [net('net0'), blk('disk0')] })
      await made.run(made.blk('disk0').readBytes(0, 4096))
      expect(memory.read(guestAddress(BASE), 4 << 20).every((byte) => byte === 0xee)).toBe(true)
      await expect(
        createMachine({ transport, memory, ram: { base: guestAddress(BASE), length: 9 << 20 }, devices: [] }),
      ).rejects.toMatchObject({ code: 'MEMORY_OUTSIDE' })
    })

    it('fails with a code where RAM is too small', async () => {
      await expect(
        createMachine({ transport, memory: ranges(64 << 10), devices: [blk('disk0')] }),
      ).rejects.toMatchObject({
        code: 'MACHINE_RESERVE',
      })
      await expect(
        createMachine({ transport, memory: ranges(64 << 10), devices: [net('net0')], schemes: [directScheme()] }),
      ).rejects.toMatchObject({
        code: expect.stringMatching(/^(MEMORY_EXHAUSTED|DMA_ALLOC)$/),
      })
    })
  })

  describe('machine/counters', () => {
    it('are plain data, per device', async () => {
      const made = await machine([net('net0'), blk('disk0', { platform: 'direct' })])
      await made.run(made.blk('disk0').readBytes(0, 1024))
      const counters = made.counters()
      expect(structuredClone(counters)).toEqual(counters)
      expect(JSON.parse(JSON.stringify(counters))).toEqual(counters)
      expect(counters.devices.disk0).toMatchObject({
        scheme: 'direct',
        driver: { requests: 1, sectorsRead: 2 },
        faults: 0,
      })
      expect(counters.devices.net0.queues).toHaveProperty(['net0 receive'])
      const later = made.counters()
      await made.run(made.blk('disk0').readBytes(0, 1024))
      expect(later).toEqual(counters)
    })
  })

  describe('machine/container (tsyringe)', () => {
    const containerOf = (made: Machine, name: string): DependencyContainer =>
      (made.device(name) as unknown as { container: DependencyContainer }).container

    it('two devices never share a backend or a driver', async () => {
      const made = await machine([net('net0'), net('net1'), blk('disk0')])
      const backends = ['net0', 'net1', 'disk0'].map((name) => made.device(name).negotiated.backend)
      expect(new Set(backends).size).toBe(3)
      expect(made.net('net0')).not.toBe(made.net('net1'))
      expect(['net0', 'net1'].map((name) => containerOf(made, name).resolve(DMA_BACKEND))).toEqual(backends.slice(0, 2))
      expect(made.net('net1').session.backend).toBe(backends[1])
    })

    it('resolves a driver once per device, and the driver that the machine uses', async () => {
      const made = await machine([net('net0'), net('net1')])
      for (const name of ['net0', 'net1']) {
        const container = containerOf(made, name)
        expect(container.resolve(DRIVER)).toBe(made.net(name))
        expect(container.resolve(DRIVER)).toBe(made.net(name))
      }
    })

    it('a reset makes a new driver over a new backend', async () => {
      const made = await machine([net('net0')])
      const before = [made.net('net0'), made.device('net0').negotiated.backend]
      await made.reset('net0')
      expect(made.net('net0')).not.toBe(before[0])
      expect(made.device('net0').negotiated.backend).not.toBe(before[1])
      expect(containerOf(made, 'net0').resolve(DRIVER)).toBe(made.net('net0'))
    })

    it('holds memory and RAM under global symbols, and no device’s things', async () => {
      const made = await machine([net('net0')])
      expect(made.container.resolve(GUEST_MEMORY)).toBe(made.memory)
      expect(made.container.resolve(GUEST_RAM)).toBeInstanceOf(SpanAllocator)
      expect(DMA_BACKEND).toBe(Symbol.for('guestdma.DmaBackend'))
      expect(made.container.isRegistered(DMA_BACKEND, true)).toBe(false)
      expect(() => made.container.resolve(DRIVER)).toThrow()
    })

    it('two machines have nothing in common', async () => {
      const [one, two] = await Promise.all([machine([net('net0')]), machine([net('net0')])])
      expect(one.container.resolve(GUEST_RAM)).not.toBe(two.container.resolve(GUEST_RAM))
      await one.close()
      expect(two.net('net0').sendCopy(pattern(60))).toBe(true)
    })
  })

  describe('machine/pump and run', () => {
    it('pump goes on until neither side has anything to do, what was asked for in this task included', async () => {
      const made = await machine([blk('disk0')])
      const state = outcome(made.blk('disk0').readBytes(0, 512))
      made.pump()
      await settled()
      expect(state()).toBe('ok')
    })

    it('pump serves what had to wait for room', async () => {
      const made = await machine([
        blk('disk0', { queueSize: 4, device: { store: new MemoryBlockStore(pattern(64 * 512)), withhold: [28] } }),
      ])
      const address = made.ram.allocate(64 * 512)
      const states = Array.from({ length: 64 }, (_, i) =>
        outcome(made.blk('disk0').read(i, guestAddress(address + 512 * i), 512)),
      )
      made.pump()
      await settled()
      expect(states.filter((state) => state() !== 'ok')).toEqual([])
      expect(made.memory.read(address, 64 * 512)).toEqual(pattern(64 * 512))
    })

    it('run rejects as the promise does, and resolves to its value', async () => {
      const made = await machine([blk('disk0')])
      await expect(made.run(Promise.reject(new Error('mine')))).rejects.toThrow('mine')
      await expect(made.run(made.blk('disk0').readBytes(1000, 512))).rejects.toMatchObject({ code: 'BLK_RANGE' })
      expect(await made.run(Promise.resolve(7))).toBe(7)
    })

    it('run waits for a store that answers in later turns', async () => {
      const store = new HeldStore(pattern(8 * 512))
      const made = await machine([blk('disk0', { device: { store } })])
      const timer = setInterval(() => {
        if (store.held.length > 0) store.release(store.held.length - 1)
      }, 1)
      try {
        const reads = [0, 1, 2, 3].map((sector) => made.blk('disk0').readBytes(sector, 512))
        expect(await made.run(Promise.all(reads))).toEqual(
          [0, 1, 2, 3].map((sector) => pattern(8 * 512).slice(sector * 512, sector * 512 + 512)),
        )
      } finally {
        clearInterval(timer)
      }
    })

    it('run lets the event loop go on although two devices answer each other for ever', async () => {
      const wire = new Wire()
      let bounced = 0
      let fired = false
      const echo = (name: string): Partial<NetConfig> => ({
        device: { mac: MAC, link: name === 'net0' ? wire.a : wire.b },
        observer: {
          frames: (batch) => {
            // Ends the test instead of hanging it.
            if (fired || ++bounced > 300_000) return
            for (let i = 0; i < batch.count; i++) made.net(name).sendCopy(batch.copy(i))
          },
        },
      })
      const made = await machine([net('net0', echo('net0')), net('net1', echo('net1'))])
      made.pump()
      made.net('net0').sendCopy(pattern(60))
      await made.run(
        new Promise<void>((resolve) =>
          setTimeout(() => {
            fired = true
            resolve()
          }, 0),
        ),
      )
      expect(bounced).toBeGreaterThan(0)
      expect(bounced).toBeLessThanOrEqual(300_000)
    })
  })

  describe('machine/events', () => {
    let caught: ReturnType<typeof catchMicrotasks>
    beforeEach(() => {
      caught = catchMicrotasks()
    })
    afterEach(() => caught.stop())

    it('a listener that throws unwinds nothing, whatever the event', async () => {
      const events = new MachineEvents()
      for (const name of ['scheme', 'fault', 'needsReset', 'link', 'drain', 'leak'] as const) {
        events.on(name, () => {
          throw new Error(name)
        })
      }
      const made = await machine([net('net0', { queueSize: 2 })], { events })
      made.pump()
      const device = made.device('net0').model as NetDevice
      device.setLink(false)
      made.pump()
      while (made.net('net0').sendCopy(pattern(60)));
      made.pump()
      made.device('net0').port.request[0] = 0
      expect(made.device('net0').port.resolve(16, 1)).toBe(0)
      device.needsReset('a test')
      made.pump()
      await made.close()
      await settled()
      const names = new Set(caught.errors.map((error) => (error as Error).message))
      expect(names).toEqual(new Set(['scheme', 'fault', 'needsReset', 'link', 'drain']))
      expect(made.ram.live).toBe(0)
    })

    it('tells of what a device says that makes no sense, while the machine is made', async () => {
      const events = new MachineEvents()
      const seen: unknown[] = []
      events.on('warning', (event) => seen.push(event))
      const made = await machine([net('net0', { device: { mac: [0, 0, 0, 0, 0, 0] } })], { events })
      expect(made.net('net0').mac).toBe(null)
      expect(seen).toMatchObject([{ device: 'net0', warning: { code: 'NET_MAC', part: 'net0' } }])
    })

    it('tells of the link, of room, and of a broken device, with its name', async () => {
      const made = await machine([net('net0', { queueSize: 2 })])
      const seen: unknown[] = []
      made.events.on('link', (event) => seen.push(event))
      made.events.on('drain', (event) => seen.push(event))
      made.pump()
      const device = made.device('net0').model as NetDevice
      device.setLink(false)
      made.pump()
      device.setLink(true)
      made.pump()
      while (made.net('net0').sendCopy(pattern(60)));
      made.pump()
      expect(seen).toEqual([{ device: 'net0', up: false }, { device: 'net0', up: true }, { device: 'net0' }])
    })
  })

  describe('machine/observer', () => {
    it('may be an instance of a class, with methods and state', async () => {
      class Recorder {
        readonly got: Uint8Array[] = []
        readonly tokens: number[] = []

        frames(batch: ReceivedFrames): void {
          for (let i = 0; i < batch.count; i++) this.got.push(batch.copy(i))
        }

        sent(tokens: Uint32Array, count: number): void {
          this.tokens.push(...tokens.subarray(0, count))
        }
      }
      const recorder = new Recorder()
      const made = await machine([net('net0', { observer: recorder, device: { mac: MAC, link: new RecordingLink() } })])
      made.pump()
      ;(made.device('net0').model as NetDevice).receive(pattern(60))
      made.net('net0').sendCopy(pattern(60), 77)
      made.pump()
      expect(recorder.got).toEqual([pattern(60)])
      expect(recorder.tokens).toEqual([77])
    })
  })
})
