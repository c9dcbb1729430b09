import { BlkDevice, everything, MemoryBlockStore } from '@guestdma/devices'
import { BLK_FEATURES, BlkDriver } from '@guestdma/drivers'
import { GuestMemory } from '@guestdma/memory'
import { DEVICE_ID_BLOCK } from '@guestdma/spec'
import {
  createMachine,
  type DriverKind,
  directScheme,
  type Machine,
  MachineEvents,
  onDeviceScheme,
  pooledIommuScheme,
  type RemoteConfig,
  sharedPagesScheme,
  sharedPoolScheme,
  virtioIommuScheme,
} from 'guestdma'
import { describe, expect, it } from 'vitest'
import { CONFINED, FarSide, ownMemory } from './support/far.ts'
import { pattern, ranges } from './support/machines.ts'

const DISK = 1 << 20

async function writesAndReads(machine: Machine, name = 'disk'): Promise<void> {
  const data = pattern(9000 - (9000 % 512), 3)
  await machine.run(machine.blk(name).writeBytes(4, data))
  await machine.run(machine.blk(name).flush())
  expect(await machine.run(machine.blk(name).readBytes(4, data.length))).toEqual(data)
}

describe('remote: a device that lives elsewhere is given by its transport', () => {
  it('its driver, counters, container and reset are those of any device', async () => {
    const [far, disk, memory] = [new FarSide(), new Uint8Array(DISK), new GuestMemory(ranges())]
    const events = new MachineEvents()
    const chosen: string[] = []
    events.on('scheme', ({ device, scheme }) => chosen.push(`${device} ${scheme}`))
    const transport = far.blk(everything(memory), disk)
    const devices = [{ type: 'blk', name: 'disk', transport } as const]
    const machine = await createMachine({ memory, schemes: [directScheme()], devices, events })
    await writesAndReads(machine)
    expect(disk.subarray(2048, 2048 + 512)).toEqual(pattern(512, 3))
    const device = machine.device('disk')
    expect([device.remote, device.registers, device.pci]).toEqual([true, null, null])
    expect(device.transport).toBe(transport)
    const before = machine.counters().devices.disk
    expect([before.scheme, before.driver.requests, before.faults]).toEqual(['direct', 3, 0])
    await machine.reset('disk')
    await writesAndReads(machine)
    expect(chosen).toEqual(['disk direct', 'disk direct'])
    await machine.close()
    expect(far.devices[0].status).toBe(0)
  })

  it('what only a device of this machine has is refused with what to do', async () => {
    const [far, memory] = [new FarSide(), new GuestMemory(ranges())]
    const transport = far.blk(everything(memory), new Uint8Array(DISK))
    const schemes = [directScheme()]
    const machine = await createMachine({ memory, schemes, devices: [{ type: 'blk', name: 'disk', transport }] })
    expect(() => machine.device('disk').model).toThrow(expect.objectContaining({ code: 'MACHINE_REMOTE' }))
    expect(() => machine.device('disk').port).toThrow(expect.objectContaining({ code: 'MACHINE_REMOTE' }))
    expect(() => machine.blkModel('disk')).toThrow(expect.objectContaining({ code: 'MACHINE_REMOTE' }))
    await machine.close()
  })

  it('frames go there and come back, and the user hears of them', async () => {
    const [far, memory, got] = [new FarSide(), new GuestMemory(ranges()), [] as number[]]
    const observer: RemoteConfig['observer'] = {
      frames: (batch) => {
        for (let i = 0; i < batch.count; i++) got.push(batch.length[i])
      },
    }
    const transport = far.net(everything(memory))
    const schemes = [directScheme()]
    const machine = await createMachine({
      memory,
      schemes,
      devices: [{ type: 'net', name: 'net', transport, observer }],
    })
    machine.pump()
    for (const length of [60, 1514]) machine.net('net').sendCopy(pattern(length))
    await machine.run(new Promise<void>((resolve) => setTimeout(resolve, 10)))
    expect(got).toEqual([60, 1514])
    await machine.close()
  })

  it.each([
    ['peer', undefined],
    ['construction', 'construction'],
  ] as const)('its backend says that it is enforced by %s', async (expected, enforcedBy) => {
    const [far, memory] = [new FarSide(), new GuestMemory(ranges())]
    const { pool, port } = ownMemory(1 << 20, 0x4000_0000, 'guest-ram')
    const transport = far.blk(port, new Uint8Array(DISK))
    const machine = await createMachine({
      memory,
      schemes: [sharedPoolScheme({ memory: () => pool })],
      devices: [{ type: 'blk', name: 'disk', transport, ...(enforcedBy === undefined ? {} : { enforcedBy }) }],
    })
    expect(machine.device('disk').negotiated.backend.traits.enforcedBy).toBe(expected)
    // All that the device reaches is the file: rings, cells and payload lie in it.
    await writesAndReads(machine)
    expect(far.devices[0].faults.count).toBe(0)
    await machine.close()
  })

  it('a region in the BAR of a neighbour holds rings and payload', async () => {
    const [far, memory] = [new FarSide(), new GuestMemory(ranges())]
    const { pool, port } = ownMemory(1 << 20, 0x3_0000_0000, 'device-memory')
    const transport = far.blk(port, new Uint8Array(DISK))
    const schemes = [onDeviceScheme({ memory: () => pool, bit: 'absent' })]
    const machine = await createMachine({ memory, schemes, devices: [{ type: 'blk', name: 'disk', transport }] })
    expect(machine.device('disk').negotiated.backend.traits.home).toBe('device-memory')
    await writesAndReads(machine)
    expect(far.devices[0].faults.count).toBe(0)
    await machine.close()
  })

  it.each([
    ['strict', (iommu: never) => virtioIommuScheme({ iommu })],
    ['lazy', (iommu: never) => virtioIommuScheme({ iommu, mode: 'lazy' })],
    ['simple', (iommu: never) => pooledIommuScheme({ iommu })],
  ])('behind an IOMMU that lives there too: %s', async (mode, make) => {
    const [far, memory] = [new FarSide(), new GuestMemory(ranges(16 << 20))]
    const { iommu, port } = far.behindIommu(memory, 24)
    const transport = far.blk(port, new Uint8Array(DISK))
    const asked: string[] = []
    const place = {
      transport: iommu,
      endpoint: (device: string) => {
        asked.push(device)
        return 24
      },
    }
    const scheme = make(place as never)
    const device = { type: 'blk', name: 'disk', transport, ...(mode === 'simple' ? { dma: scheme.id } : {}) } as const
    const machine = await createMachine({ memory, schemes: [scheme], devices: [device] })
    expect(asked).toEqual(['disk'])
    await writesAndReads(machine)
    expect(far.devices.map(({ faults }) => faults.count)).toEqual([0, 0])
    await machine.reset('disk')
    await writesAndReads(machine)
    await machine.close()
  })

  it('an interrupt that somebody hears of wakes a sleeping loop', async () => {
    const [far, memory] = [new FarSide(), new GuestMemory(ranges())]
    const transport = far.blk(everything(memory), new Uint8Array(DISK))
    let listening = 0
    const device: RemoteConfig = {
      type: 'blk',
      name: 'disk',
      transport,
      listen: (interrupt) => {
        listening++
        far.interrupt = interrupt
        return () => {
          listening--
          far.interrupt = null
        }
      },
    }
    let woken = 0
    const machine = await createMachine({
      memory,
      schemes: [directScheme()],
      devices: [device],
      onWork: () => void woken++,
    })
    await writesAndReads(machine)
    expect([listening, machine.device('disk').silent]).toEqual([1, false])
    machine.pump()
    await new Promise<void>((resolve) => setTimeout(resolve, 1))
    const before = woken
    const read = machine.blk('disk').readBytes(0, 512)
    machine.pump()
    await new Promise<void>((resolve) => setTimeout(resolve, 1))
    expect(woken).toBeGreaterThan(before)
    await machine.run(read)
    await machine.close()
    expect(listening).toBe(0)
  })

  it.each([
    ['direct', 0],
    ['behind an IOMMU, which maps it', 24],
  ])('its messages arrive in memory that its backend allocated: %s', async (_how, endpoint) => {
    const [far, memory] = [new FarSide(), new GuestMemory(ranges(16 << 20))]
    const behind = endpoint === 0 ? null : far.behindIommu(memory, endpoint)
    const store = new MemoryBlockStore(new Uint8Array(DISK))
    const port = behind?.port ?? everything(memory)
    const transport = far.pci(new BlkDevice({ name: 'far disk', port, store, ...CONFINED }), 'disk')
    const schemes = [
      behind === null
        ? directScheme()
        : virtioIommuScheme({ iommu: { transport: behind.iommu, endpoint: () => endpoint } }),
    ]
    const devices = [{ type: 'blk', name: 'disk', transport, messages: 'memory' } as const]
    const machine = await createMachine({ memory, schemes, devices })
    let interrupts = 0
    const { driver } = machine.device('disk')
    const interrupt = driver.interrupt.bind(driver)
    driver.interrupt = () => {
      interrupts++
      interrupt()
    }
    await writesAndReads(machine)
    expect(interrupts).toBeGreaterThan(0)
    expect(far.devices.map(({ faults }) => faults.count)).toEqual(far.devices.map(() => 0))
    await machine.close()
    expect(machine.ram.allocated).toBe(0)
  })

  it.each([
    [
      'listen',
      (): never => {
        throw new Error('no such line')
      },
    ],
    [
      'what listen returned',
      () => (): never => {
        throw new Error('no such line')
      },
    ],
  ])('where %s throws, it is told, the device is reset, and all memory goes back', async (_what, listen) => {
    const [far, memory] = [new FarSide(), new GuestMemory(ranges())]
    const ram = { base: memory.ranges[0].base as never, length: memory.ranges[0].length }
    const transport = far.blk(everything(memory), new Uint8Array(DISK))
    const events = new MachineEvents()
    const devices = [{ type: 'blk', name: 'disk', transport, listen } as const]
    let made: Machine | null = null
    const life = async (): Promise<void> => {
      made = await createMachine({ memory, ram, schemes: [directScheme()], devices, events })
      await made.close()
    }
    await expect(life()).rejects.toThrow('no such line')
    expect(far.devices[0].status).toBe(0)
    if (made !== null) expect((made as Machine).ram.allocated).toBe(0)
    // The memory is whole, and the device can be driven again.
    const again = await createMachine({
      memory,
      schemes: [directScheme()],
      devices: [{ type: 'blk', name: 'disk', transport }],
    })
    await writesAndReads(again)
    await again.close()
  })

  it('where its connection is lost, requests end with an error, it is cut off, and all memory goes back', async () => {
    const [far, memory] = [new FarSide(), new GuestMemory(ranges())]
    const transport = far.blk(everything(memory), new Uint8Array(DISK))
    let cut = 0
    const detach = (): boolean => {
      cut++
      return true
    }
    const machine = await createMachine({
      memory,
      schemes: [directScheme()],
      devices: [{ type: 'blk', name: 'disk', transport, detach, requestDeadlineMs: 50 }],
    })
    await writesAndReads(machine)
    far.gone = true
    const broken: string[] = []
    machine.events.on('needsReset', ({ device, error }) => broken.push(`${device} ${error.code}`))
    await expect(machine.run(machine.blk('disk').readBytes(0, 512))).rejects.toMatchObject({
      code: 'DRIVER_DEVICE_BROKEN',
    })
    expect(broken).toEqual(['disk DRIVER_DEVICE_BROKEN'])
    await expect(machine.close()).rejects.toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK' })
    expect([cut, machine.device('disk').quarantined]).toEqual([1, null])
    expect(machine.ram.allocated).toBe(0)
  })

  it('where nobody can cut it off, its memory stays out of use and is told', async () => {
    const [far, memory] = [new FarSide(), new GuestMemory(ranges())]
    const transport = far.blk(everything(memory), new Uint8Array(DISK))
    const schemes = [directScheme()]
    const machine = await createMachine({ memory, schemes, devices: [{ type: 'blk', name: 'disk', transport }] })
    far.gone = true
    await expect(machine.close()).rejects.toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK' })
    expect(machine.device('disk').quarantined).toBeGreaterThan(0)
  })
})

describe('remote: what a machine cannot do for a device that lives elsewhere is refused at once', () => {
  const refusal = async (scheme: Parameters<typeof createMachine>[0]['schemes'], more: object = {}) => {
    const [far, memory] = [new FarSide(), new GuestMemory(ranges())]
    const transport = far.blk(everything(memory), new Uint8Array(DISK))
    const devices = [{ type: 'blk', name: 'disk', transport, ...more } as RemoteConfig]
    return createMachine({ memory, devices, ...(scheme === undefined ? {} : { schemes: scheme }) }).catch(
      (error: unknown) => error,
    )
  }

  it.each([
    ['an IOMMU', [virtioIommuScheme()], /an IOMMU.*give the scheme the iommu/],
    ['pages that are shared', [sharedPagesScheme()], /shared one by one/],
  ])('%s', async (_what, schemes, message) => {
    const error = await refusal(schemes)
    expect(error).toMatchObject({ code: 'MACHINE_REMOTE', part: 'disk' })
    expect((error as Error).message).toMatch(message)
  })

  it.each([
    ['a driver of another type', { type: 'net' }, 'MACHINE_DEVICE_TYPE', /device ID 2, and the driver is for 1/],
    ['options of a model', { device: {} }, 'MACHINE_CONFIG', /devices\[0\]\.device/],
    [
      'a transport that is none',
      { transport: {} },
      'MACHINE_CONFIG',
      /devices\[0\]\.transport must be a VirtioTransport/,
    ],
    ['a claim that nobody can check', { enforcedBy: 'trusted-code' }, 'MACHINE_CONFIG', /'peer' or 'construction'/],
    ['messages over mmio', { messages: 'memory' }, 'MACHINE_CONFIG', /over PCI.*over mmio/],
  ])('%s', async (_what, more, code, message) => {
    const error = await refusal([directScheme()], more)
    expect(error).toMatchObject({ code })
    expect((error as Error).message).toMatch(message)
  })

  it('a model of this machine behind an IOMMU that lives elsewhere', async () => {
    const [far, memory] = [new FarSide(), new GuestMemory(ranges())]
    const { iommu } = far.behindIommu(memory, 8)
    const schemes = [virtioIommuScheme({ iommu: { transport: iommu, endpoint: () => 8 } })]
    const store = new MemoryBlockStore(new Uint8Array(4096))
    const devices = [{ type: 'blk', name: 'disk', device: { store } } as const]
    await expect(createMachine({ memory, schemes, devices })).rejects.toMatchObject({ code: 'IOMMU_FOREIGN' })
  })
})

describe('driver kinds: a type of device that guestdma does not have', () => {
  class CountingDriver extends BlkDriver {
    polls = 0

    override poll(budget: number): number {
      this.polls++
      return super.poll(budget)
    }
  }

  const kind: DriverKind<CountingDriver> = {
    name: 'counting',
    deviceId: DEVICE_ID_BLOCK,
    features: BLK_FEATURES,
    make: (session, options) => new CountingDriver(session, options),
  }

  it('is driven by the driver that its kind makes, over the backend that was chosen', async () => {
    const store = new MemoryBlockStore(new Uint8Array(DISK))
    const machine = await createMachine({
      memory: ranges(),
      schemes: [sharedPoolScheme({ size: 1 << 20 })],
      devices: [
        { type: kind, name: 'disk', make: (port) => new BlkDevice({ name: 'disk', port, store, ...CONFINED }) },
      ],
    })
    const driver = machine.device('disk').driver as CountingDriver
    expect(driver).toBeInstanceOf(CountingDriver)
    await writesAndReads(machine)
    expect(driver.polls).toBeGreaterThan(0)
    expect(machine.counters().devices.disk.scheme).toBe('shared-pool')
    await machine.close()
  })

  it.each([
    ['without make', {}, /devices\[0\]\.make must be a function/],
    ['with a kind that makes nothing', { type: { name: 'x', deviceId: 2, features: BLK_FEATURES } }, /DriverKind/],
  ])('is refused %s', async (_what, more, message) => {
    const devices = [{ type: kind, name: 'disk', ...more } as never]
    const error = await createMachine({ memory: ranges(), devices }).catch((e: unknown) => e)
    expect(error).toMatchObject({ code: 'MACHINE_CONFIG' })
    expect((error as Error).message).toMatch(message)
  })
})
