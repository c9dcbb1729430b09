import { sharedPoolScheme } from '@guestdma/bounce'
import type { IommuDevice } from '@guestdma/devices'
import { type DmaScheme, directScheme, type PlatformBuilder } from '@guestdma/dma'
import { VirtioIommuDomain, type VirtioIommuSchemeOptions, virtioIommuScheme } from '@guestdma/iommu'
import { type BusPort, GuestMemory, type SpanAllocator } from '@guestdma/memory'
import { VIRTIO_IOMMU_S_DEVERR } from '@guestdma/spec'
import { createMachine, type DeviceConfig, type Machine, MachineEvents, MemoryBlockStore } from 'guestdma'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { MAC, machineOver, pattern, RecordingLink, ranges, TRANSPORTS } from './support/machines.ts'

const POOL = 1 << 20

const net = (name: string, platform: string): DeviceConfig => ({
  type: 'net',
  name,
  platform,
  dma: platform,
  queueSize: 16,
  device: { mac: MAC, link: new RecordingLink() },
})
const blk = (name: string, platform: string): DeviceConfig => ({
  type: 'blk',
  name,
  platform,
  dma: platform,
  queueSize: 16,
  device: { store: new MemoryBlockStore(pattern(64 * 512)) },
})

/** A scheme whose port is of its own, so that the platform cannot cut its devices off. */
function uncut(scheme: DmaScheme): DmaScheme {
  return {
    id: 'uncut',
    provider: { ...scheme.provider, id: 'uncut' },
    install: (platform) => {
      const enforce = scheme.install(platform)
      return () => Object.create(enforce()) as BusPort
    },
  }
}

/** Every access to the registers of a device throws, until the result is called. */
function lose(made: Machine, name: string): () => void {
  const { transport } = made.device(name)
  const gone = (): never => {
    throw new Error(`${name} is gone`)
  }
  Object.assign(transport, { readStatus: gone, writeStatus: gone, notify: gone })
  return () => {
    for (const key of ['readStatus', 'writeStatus', 'notify']) Reflect.deleteProperty(transport, key)
  }
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  const machine = machineOver(transport)
  const schemes = (): DmaScheme[] => [
    directScheme(),
    sharedPoolScheme({ size: POOL }),
    uncut(sharedPoolScheme({ size: POOL })),
  ]

  describe('machine/release: every device is closed, and the first error is told', () => {
    it.each(['direct', 'shared-pool'])('a device of %s whose connection is gone is cut off', async (platform) => {
      const made = await machine([net('net0', platform), blk('disk0', platform), net('net1', platform)], {
        schemes: schemes(),
      })
      made.pump()
      const read = made.blk('disk0').readBytes(0, 4096)
      const failed = expect(read).rejects.toMatchObject({ code: 'DRIVER_CLOSED' })
      await Promise.resolve()
      lose(made, 'disk0')
      await expect(made.close()).rejects.toThrow('disk0 is gone')
      await failed
      expect(made.ram.live).toBe(0)
      for (const name of ['net0', 'net1']) expect(made.device(name).model.status).toBe(0)
      // Cut off: nothing is within its reach.
      const { port } = made.device('disk0')
      port.request[0] = 0x8000_0000
      expect(port.resolve(1, 1)).toBe(0)
    })

    it('a device whose connection came back is started again', async () => {
      const made = await machine([blk('disk0', 'shared-pool')], { schemes: schemes() })
      const found = lose(made, 'disk0')
      await expect(made.reset('disk0')).rejects.toThrow('disk0 is gone')
      expect(made.device('disk0').running).toBe(false)
      found()
      await made.reset('disk0')
      expect(await made.run(made.blk('disk0').readBytes(0, 512))).toEqual(pattern(512))
      await made.close()
      expect(made.ram.live).toBe(0)
    })
  })

  describe('machine/release behind an IOMMU (rule: memory goes back only when the device can no longer reach it)', () => {
    afterEach(() => vi.restoreAllMocks())

    const behind = (options: VirtioIommuSchemeOptions = {}): Promise<Machine> =>
      machine([net('net0', 'virtio-iommu'), blk('disk0', 'virtio-iommu')], { schemes: [virtioIommuScheme(options)] })

    /** The IOMMU refuses such requests from now on, as one does whose device does not let go. */
    const refuse = (made: Machine, request: 'unmap' | 'detach', times = Infinity) => {
      const { common } = made as unknown as { common: { own: IommuDevice[] } }
      const { requests } = common.own[0] as unknown as { requests: { unmap(): number; detach(): number } }
      const spy = vi.spyOn(requests, request)
      const refusal = (): number => VIRTIO_IOMMU_S_DEVERR
      if (times === Infinity) return spy.mockImplementation(refusal)
      for (let i = 0; i < times; i++) spy.mockImplementationOnce(refusal)
      return spy
    }
    /** Guest RAM that is in use when an endpoint is about to be detached. */
    const heldAtDetach = (made: Machine): number[] => {
      const { dispose } = VirtioIommuDomain.prototype
      const held: number[] = []
      vi.spyOn(VirtioIommuDomain.prototype, 'dispose').mockImplementation(function (this: VirtioIommuDomain) {
        held.push(made.ram.allocated)
        dispose.call(this)
      })
      return held
    }

    it.each<[string, VirtioIommuSchemeOptions]>([
      ['a removal that a queue waits for', {}],
      ['a removal that was deferred, when there are enough of them', { mode: 'lazy', lazy: { entries: 2 } }],
      ['a removal that was deferred, when it is old enough', { mode: 'lazy', lazy: { ms: 1 } }],
    ])('%s is refused: one reset detaches the endpoint and brings the device back', async (_what, options) => {
      const made = await machine([net('net0', 'iommu'), blk('disk0', 'iommu')], {
        schemes: [virtioIommuScheme({ id: 'iommu', ...options })],
      })
      made.pump()
      const refused = refuse(made, 'unmap')
      let broken = false
      made.events.on('needsReset', ({ device }) => {
        broken ||= device === 'disk0'
      })
      while (!broken) {
        await made.run(made.blk('disk0').readBytes(0, 512)).catch(() => {})
        await new Promise((resolve) => setTimeout(resolve, 2))
        made.pump()
      }
      const { allocated } = made.ram
      const held = heldAtDetach(made)
      await made.reset('disk0')
      // What the device was given is kept until all of it is gone.
      expect(held).toEqual([allocated])
      refused.mockRestore()
      expect(await made.run(made.blk('disk0').readBytes(0, 512))).toEqual(pattern(512))
      await made.close()
      expect([made.ram.live, made.device('disk0').quarantined]).toEqual([0, null])
    })

    it.each(['net0', 'disk0'])(
      'an UNMAP that is refused while %s is closed: its endpoint is detached, and that is no error',
      async (name) => {
        const made = await behind()
        made.pump()
        const read = made.blk('disk0').readBytes(0, 4096)
        const failed = expect(read).rejects.toMatchObject({ code: 'DRIVER_CLOSED' })
        await Promise.resolve()
        const refused = refuse(made, 'unmap')
        await made.device(name).close()
        expect(refused).toHaveBeenCalled()
        refused.mockRestore()
        await made.device(name).start()
        await made.close()
        await failed
        expect(made.ram.live).toBe(0)
      },
    )

    it('a DETACH that is refused once: the device is cut off from what is under the IOMMU, and started again', async () => {
      const made = await behind()
      made.pump()
      const refused = refuse(made, 'detach', 1)
      const warned: string[] = []
      made.events.on('warning', ({ device, warning }) => warned.push(`${device} ${warning.code}`))
      await made.reset('disk0')
      expect([refused.mock.calls.length, warned]).toEqual([2, ['disk0 DRIVER_CUT_OFF']])
      expect(await made.run(made.blk('disk0').readBytes(0, 512))).toEqual(pattern(512))
      await made.device('disk0').close()
      expect(made.device('disk0').quarantined).toBe(null)
      await made.close()
      expect(made.ram.live).toBe(0)
    })

    it('a DETACH that is refused for good: the device is cut off, and its memory goes back once it is attached anew', async () => {
      const made = await behind()
      made.pump()
      const refused = refuse(made, 'detach')
      const { allocated } = made.ram
      await expect(made.device('disk0').close()).rejects.toMatchObject({ code: 'DMA_STILL_REACHABLE', part: 'disk0' })
      const { port } = made.device('disk0')
      port.request[0] = 0x8000_0000
      expect([port.resolve(1, 1), made.device('disk0').quarantined]).toEqual([0, expect.any(Number)])
      await made.device('disk0').start()
      expect([made.device('disk0').quarantined, made.ram.allocated]).toEqual([null, allocated])
      expect(await made.run(made.blk('disk0').readBytes(0, 512))).toEqual(pattern(512))
      refused.mockRestore()
      await made.close()
      expect(made.ram.live).toBe(0)
    })

    it('a DETACH that is refused, over a port of somebody else’s: memory stays out of use', async () => {
      const made = await behind({ downstream: (platform) => Object.create(platform.everything()) as BusPort })
      made.pump()
      vi.spyOn(VirtioIommuDomain.prototype, 'dispose').mockImplementationOnce(() => {
        throw new Error('refused')
      })
      await expect(made.device('net0').close()).rejects.toThrow('refused')
      const quarantined = made.device('net0').quarantined as number
      expect(quarantined).toBeGreaterThan(0)
      await expect(made.close()).rejects.toMatchObject({ code: 'MACHINE_QUARANTINED' })
      expect(made.ram.allocated).toBe(quarantined)
    })
  })

  describe('machine/quarantine: memory that nothing can keep a device from is named, in bytes', () => {
    it('when it happens, and when the machine ends', async () => {
      const made = await machine([net('net0', 'uncut'), blk('disk0', 'direct')], { schemes: schemes() })
      made.pump()
      const told: unknown[] = []
      made.events.on('quarantine', (event) => told.push(event))
      const found = lose(made, 'net0')
      await expect(made.reset('net0')).rejects.toThrow('net0 is gone')
      const { quarantined } = made.device('net0')
      expect(quarantined).toBeGreaterThan(POOL)
      expect(told).toEqual([{ device: 'net0', bytes: quarantined }])
      // The device may come back; its memory does not.
      found()
      await made.reset('net0')
      await expect(made.close()).rejects.toMatchObject({
        code: 'MACHINE_QUARANTINED',
        details: { devices: { net0: quarantined }, shared: 0 },
      })
      expect(made.ram.allocated).toBe(quarantined)
    })

    it('a pool that another device may still reach stays out of use although its own device was closed', async () => {
      const made = await machine([net('net0', 'shared-pool'), blk('disk0', 'uncut')], {
        schemes: (() => {
          const shared = sharedPoolScheme({ size: POOL, per: 'machine' })
          return [shared, uncut(shared)]
        })(),
      })
      made.pump()
      const found = lose(made, 'disk0')
      await expect(made.reset('disk0')).rejects.toThrow('disk0 is gone')
      found()
      await expect(made.close()).rejects.toMatchObject({
        code: 'MACHINE_QUARANTINED',
        details: { devices: { disk0: 0 }, shared: POOL },
      })
      expect(made.ram.allocated).toBe(POOL)
    })
  })

  describe('machine/set-up that fails half way gives everything back', () => {
    it.each([
      ['a model of another type', { make: (_: BusPort) => ({ deviceId: 99 }) as never }, 'MACHINE_DEVICE_TYPE'],
      ['a scheme that is not for its platform', { dma: 'direct' }, 'DMA_NO_USABLE_BACKEND'],
    ])('with %s', async (_what, wrong, code) => {
      let ram: SpanAllocator | undefined
      const pool = sharedPoolScheme({ size: POOL })
      const watched: DmaScheme = {
        ...pool,
        install(platform: PlatformBuilder) {
          ram = platform.ram
          return pool.install(platform)
        },
      }
      const devices = [net('net0', 'shared-pool'), { ...net('net1', 'shared-pool'), ...wrong } as DeviceConfig]
      const events = new MachineEvents()
      await expect(
        createMachine({
          memory: new GuestMemory(ranges()),
          schemes: [watched, directScheme()],
          transport,
          events,
          devices,
        }),
      ).rejects.toMatchObject({ code })
      expect(ram?.live).toBe(0)
    })
  })
})
