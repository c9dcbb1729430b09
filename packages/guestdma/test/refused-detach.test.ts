import type { IommuDevice } from '@guestdma/devices'
import type { DmaScheme } from '@guestdma/dma'
import { BLK_FEATURES, BlkDriver } from '@guestdma/drivers'
import { type ForeignIommu, pooledIommuScheme, VirtioIommu, virtioIommuScheme } from '@guestdma/iommu'
import {
  ACCESS_READ,
  ACCESS_WRITE,
  type BusPort,
  GuestMemory,
  guestAddress,
  type SpanAllocator,
} from '@guestdma/memory'
import { DEVICE_ID_BLOCK, VIRTIO_IOMMU_S_DEVERR } from '@guestdma/spec'
import type { VirtioTransport } from '@guestdma/transport'
import { createMachine, type DriverKind, type Machine, MachineEvents, type RemoteConfig } from 'guestdma'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { FarSide } from './support/far.ts'
import { pattern, ranges } from './support/machines.ts'
import { type Threads, threads } from './support/workers.ts'

const ENDPOINT = 24
const PAGE = 4096
const RAM = 16 << 20

interface Mapping {
  readonly iova: number
  readonly guest: number
  readonly length: number
}

/** All that the driver of the IOMMU maps from now on, for any endpoint. */
function recordMappings(): Mapping[] {
  const mappings: Mapping[] = []
  const { queue } = VirtioIommu.prototype
  vi.spyOn(VirtioIommu.prototype, 'queue').mockImplementation(function (this: VirtioIommu, domain, access) {
    const [iova, guest, length] = domain.request
    if (access !== 0) mappings.push({ iova, guest, length })
    queue.call(this, domain, access)
  })
  return mappings
}

/** Those of them that the device reaches now. */
function reached({ machine, port, mappings }: Site): Mapping[] {
  return mappings.filter(({ iova, guest }) => {
    const { region, offset } = machine.memory.window(guestAddress(guest), 1)
    port.request[0] = iova
    const granted = port.resolve(1, ACCESS_READ) > 0 || port.resolve(1, ACCESS_WRITE) > 0
    return granted && port.region === region && port.offset === offset
  })
}

/** Whether the allocator would give any of it to somebody else. */
function givenBack(ram: SpanAllocator, mappings: readonly Mapping[]): boolean {
  const free: number[] = []
  while (ram.available > 0) {
    try {
      free.push(ram.allocate(PAGE, PAGE))
    } catch {
      break
    }
  }
  for (const page of free) ram.release(page as never)
  return mappings.some(({ guest, length }) => free.some((page) => page < guest + length && page + PAGE > guest))
}

type Request = 'attach' | 'detach' | 'unmap'

interface Site {
  readonly machine: Machine
  readonly far: FarSide
  readonly port: BusPort
  readonly mappings: Mapping[]
  readonly told: unknown[]
  /** The IOMMU refuses such requests from now on, so many times. */
  refuse(request: Request, times?: number): void
  /** It refuses nothing any more. */
  relent(): void
  /** From now on the IOMMU cannot be reset. */
  wedge(): void
}

/** Deferred removals are due: until then a buffer that came back is within reach by contract. */
async function flushed(machine: Machine): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 20))
  machine.pump()
}

type Make = (iommu: ForeignIommu) => DmaScheme

async function behindForeign(make: Make, entry: Partial<RemoteConfig> = {}): Promise<Site> {
  const [far, memory, events, told] = [
    new FarSide(),
    new GuestMemory(ranges(RAM)),
    new MachineEvents(),
    [] as unknown[],
  ]
  const { iommu, port } = far.behindIommu(memory, ENDPOINT)
  const [device] = far.devices as IommuDevice[]
  const transports: VirtioTransport[] = []
  const scheme = make({
    transport: () => {
      const transport = iommu()
      transports.push(transport)
      return transport
    },
    endpoint: () => ENDPOINT,
  })
  events.on('warning', (warning) => told.push(warning))
  events.on('quarantine', (quarantine) => told.push(quarantine))
  const mappings = recordMappings()
  const transport = far.blk(port, new Uint8Array(1 << 20))
  const machine = await createMachine({
    memory,
    schemes: [scheme],
    events,
    deadlineMs: 20,
    devices: [{ type: 'blk', name: 'disk', transport, dma: scheme.id, ...entry }],
  })
  await machine.run(machine.blk('disk').writeBytes(0, pattern(PAGE)))
  await flushed(machine)
  const { requests } = device as unknown as { requests: Record<Request, (...args: unknown[]) => number> }
  const answers = { attach: requests.attach, detach: requests.detach, unmap: requests.unmap }
  return {
    machine,
    far,
    port,
    mappings,
    told,
    refuse(request, times = Infinity) {
      let left = times
      requests[request] = (...args) => (left-- > 0 ? VIRTIO_IOMMU_S_DEVERR : answers[request].call(requests, ...args))
    },
    relent() {
      for (const request of ['attach', 'detach', 'unmap'] as const)
        Object.assign(requests, { [request]: answers[request] })
    },
    wedge() {
      for (const each of transports) Object.assign(each, { readStatus: () => 15, writeStatus: () => {} })
    },
  }
}

const SCHEMES: readonly (readonly [string, Make])[] = [
  ['strict', (iommu) => virtioIommuScheme({ iommu })],
  ['lazy', (iommu) => virtioIommuScheme({ iommu, mode: 'lazy' })],
  ['a pool', (iommu) => pooledIommuScheme({ iommu, size: 1 << 20 })],
]
/** An IOMMU that takes nothing away from a device. */
function refuseAll(site: Site): void {
  site.refuse('unmap')
  site.refuse('detach')
}

const STILL_REACHABLE = {
  code: 'DMA_STILL_REACHABLE',
  part: 'disk',
  details: { endpoint: ENDPOINT, status: VIRTIO_IOMMU_S_DEVERR },
  cause: { code: 'IOMMU_DETACH' },
}

const CASES = SCHEMES.flatMap(([name, make]) =>
  (
    [
      ['which nobody can cut off', undefined],
      ['which is cut off', () => true],
    ] as const
  ).map(([how, detach]) => {
    // The first refusal is told: that of an UNMAP, where there are any.
    const error = name === 'a pool' ? STILL_REACHABLE : { code: 'DMA_STILL_REACHABLE', part: make({} as never).id }
    return [name, how, make, detach === undefined ? {} : { detach }, error] as const
  }),
)
afterEach(() => vi.restoreAllMocks())

/** The device reaches memory, and none of that can be had by anybody else. */
function expectHeld(site: Site): void {
  const within = reached(site)
  expect(within.length).toBeGreaterThan(0)
  expect(givenBack(site.machine.ram, within)).toBe(false)
}

describe.each(CASES)(
  '%s: a foreign IOMMU refuses every UNMAP and DETACH of a device %s',
  (_name, _how, make, entry, error) => {
    it('reset: it rejects, nothing within reach is given back, and the next one attaches anew and gives it back', async () => {
      const site = await behindForeign(make, entry)
      const { machine, told } = site
      const { allocated } = machine.ram
      for (let round = 0; round < 3; round++) {
        refuseAll(site)
        await expect(machine.reset('disk')).rejects.toMatchObject(error)
        expectHeld(site)
        const bytes = machine.device('disk').quarantined
        expect(told.splice(0)).toEqual([{ device: 'disk', bytes }])
        site.relent()
        await machine.reset('disk')
        expect(await machine.run(machine.blk('disk').readBytes(0, PAGE))).toEqual(pattern(PAGE))
        await flushed(machine)
        expect([machine.ram.allocated, machine.device('disk').quarantined]).toEqual([allocated, null])
      }
      await machine.close()
    })

    it('close: it rejects, and all memory goes back with the reset of the IOMMU', async () => {
      const site = await behindForeign(make, entry)
      const { machine } = site
      refuseAll(site)
      await expect(machine.close()).rejects.toMatchObject(error)
      expect(reached(site)).toEqual([])
      expect([machine.ram.allocated, machine.device('disk').quarantined]).toEqual([0, null])
    })

    it('close, and the IOMMU does not confirm its reset either: the memory stays out of use for good', async () => {
      const site = await behindForeign(make, entry)
      const { machine } = site
      refuseAll(site)
      await machine
        .device('disk')
        .close()
        .catch(() => {})
      expectHeld(site)
      const mine = machine.device('disk').quarantined as number
      site.wedge()
      await expect(machine.close()).rejects.toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK' })
      expect(machine.device('disk').quarantined).toBe(mine)
      expect(machine.ram.allocated).toBeGreaterThanOrEqual(mine)
      expectHeld(site)
    })

    it('removal: the device answers nothing any more, and nothing within reach is given back', async () => {
      const site = await behindForeign(make, entry)
      const { machine } = site
      refuseAll(site)
      Object.assign(machine.device('disk').transport, { readStatus: () => 0xff })
      await expect(machine.device('disk').close()).rejects.toMatchObject({
        code: 'TRANSPORT_DEVICE_STUCK',
        details: { quarantined: true },
      })
      expectHeld(site)
      await machine.close().catch(() => {})
    })

    it('a driver that cannot be made: its error is told, and nothing within reach is given back', async () => {
      let failing = (): void => {}
      const type: DriverKind<BlkDriver> = {
        name: 'fails',
        deviceId: DEVICE_ID_BLOCK,
        features: BLK_FEATURES,
        make(session, options) {
          const driver = new BlkDriver(session, options)
          failing()
          return driver
        },
      }
      const site = await behindForeign(make, { ...entry, type })
      const { machine, told } = site
      failing = () => {
        refuseAll(site)
        throw new Error('no driver')
      }
      await expect(machine.reset('disk')).rejects.toThrow('no driver')
      expectHeld(site)
      expect(told).toEqual([{ device: 'disk', bytes: machine.device('disk').quarantined }])
      await machine.close()
      expect(machine.ram.allocated).toBe(0)
    })

    it('a negotiation that fails afterwards leaves the memory where it is', async () => {
      const site = await behindForeign(make, entry)
      const { machine } = site
      const { allocated } = machine.ram
      refuseAll(site)
      await expect(machine.reset('disk')).rejects.toMatchObject(error)
      site.refuse('attach', 1)
      await expect(machine.reset('disk')).rejects.toMatchObject({ code: 'DMA_NO_USABLE_BACKEND' })
      expectHeld(site)
      await machine.reset('disk')
      expect([machine.ram.allocated, machine.device('disk').quarantined]).toEqual([allocated, null])
      await machine.close().catch(() => {})
    })
  },
)

describe.each(SCHEMES)('%s: a foreign IOMMU refuses one DETACH', (_name, make) => {
  it('the platform cuts the device off, it is detached after all, and a warning says so', async () => {
    let cut = 0
    const site = await behindForeign(make, { detach: () => ++cut > 0 })
    const { machine, told } = site
    site.refuse('detach', 1)
    await machine.reset('disk')
    expect([cut, machine.device('disk').quarantined]).toEqual([1, null])
    expect(told).toEqual([
      {
        device: 'disk',
        warning: expect.objectContaining({
          code: 'DRIVER_CUT_OFF',
          part: 'disk',
          message: expect.stringMatching(/endpoint 24 was detached: DEVERR.*its platform cut it off/),
          details: { endpoint: ENDPOINT, domain: 0, status: VIRTIO_IOMMU_S_DEVERR },
        }),
      },
    ])
    await machine.close()
    expect(machine.ram.allocated).toBe(0)
  })
})

describe('a negotiation that fails after it mapped a pool, where the IOMMU refuses to detach the device', () => {
  const failing: Make = (iommu) => pooledIommuScheme({ iommu, size: 1 << 20, reserve: -1 })

  async function failedNegotiation(wedged: boolean): Promise<{ error: unknown; allocated: number }> {
    let ram: SpanAllocator | undefined
    const detach = vi.spyOn(VirtioIommu.prototype, 'release').mockReturnValue(VIRTIO_IOMMU_S_DEVERR)
    const error = await behindForeign((iommu) => {
      const scheme = failing({
        ...iommu,
        transport: () => {
          const transport = iommu.transport()
          const { readStatus } = transport
          // Its own reset, before it is driven, is confirmed.
          if (wedged) transport.readStatus = () => (detach.mock.calls.length > 0 ? 15 : readStatus.call(transport))
          return transport
        },
      })
      return {
        ...scheme,
        install(platform) {
          ram = platform.ram
          return scheme.install(platform)
        },
      }
    }).catch((thrown: unknown) => thrown)
    return { error, allocated: (ram as unknown as SpanAllocator).allocated }
  }

  it('the error says that the device may still reach it, and the pool stays out of use', async () => {
    const { error, allocated } = await failedNegotiation(false)
    expect(error).toMatchObject({ ...STILL_REACHABLE, message: expect.stringMatching(/before that: .*reserve/) })
    expect(allocated).toBe(1 << 20)
  })

  it('it does so where the IOMMU does not confirm its reset either', async () => {
    const { error, allocated } = await failedNegotiation(true)
    expect(error).toMatchObject(STILL_REACHABLE)
    // The IOMMU has rings of its own.
    expect(allocated).toBeGreaterThan(1 << 20)
  })
})

// A thread is started.
describe('a device in a worker, whose IOMMU refuses every DETACH', { timeout: 30_000 }, () => {
  const open: Threads[] = []
  afterEach(async () => {
    for (const threads of open.splice(0)) await threads.close().catch(() => {})
  })

  it('a worker that was ended and restarted reaches nothing that was given back, and a reset brings it back', async () => {
    const made = await threads({ type: 'blk', scheme: 'virtio-iommu' })
    open.push(made)
    const { machine, worker } = made
    const mappings = recordMappings()
    await machine.reset('far')
    const { allocated } = machine.ram
    const { common } = machine as unknown as { common: { own: unknown[] } }
    const { requests } = common.own[0] as { requests: { detach(): number; unmap(): number } }
    const unmap = vi.spyOn(requests, 'unmap').mockReturnValue(VIRTIO_IOMMU_S_DEVERR)
    vi.spyOn(requests, 'detach').mockReturnValue(VIRTIO_IOMMU_S_DEVERR)
    const held = machine.ram.allocated
    await expect(machine.reset('far')).rejects.toMatchObject({ code: 'DMA_STILL_REACHABLE' })
    // All that is still mapped for the endpoint is told to the next worker.
    await worker.restart()
    expect(mappings.length).toBeGreaterThan(0)
    expect([machine.ram.allocated, givenBack(machine.ram, mappings)]).toEqual([held, false])
    unmap.mockRestore()
    await machine.reset('far')
    await machine.run(machine.blk('far').writeBytes(0, pattern(PAGE)))
    expect([machine.ram.allocated, machine.device('far').quarantined]).toEqual([allocated, null])
  })
})
