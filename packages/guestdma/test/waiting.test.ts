// Device and driver that nobody polls by the clock: each is polled because its `onWork` was called, and for no other
// reason. A wake-up that is lost is a test that ends with something unfinished.
import { setImmediate as turn } from 'node:timers/promises'
import { BlkDevice, type BlockRequest, everything, LoopbackLink, MmioRegisters, NetDevice } from '@guestdma/devices'
import { directScheme, type PlatformOffer, platformOffer } from '@guestdma/dma'
import { BLK_FEATURES, BlkDriver, DeviceSession, NET_FEATURES, NetDriver, type VirtioDriver } from '@guestdma/drivers'
import { type BusPort, GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { FeatureSet, NET_FEATURE_DEPENDENCIES, VIRTIO_F_EVENT_IDX } from '@guestdma/spec'
import { MmioTransport, negotiate } from '@guestdma/transport'
import { describe, expect, test, vi } from 'vitest'
import {
  createMachine,
  type DeviceConfig,
  type Machine,
  MachineEvents,
  MemoryBlockStore,
  virtioIommuScheme,
  Wire,
} from '../src/index.ts'

const BASE = 0x8000_0000
const RAM_BYTES = 4 << 20

/** Polls what is due, until nothing is. */
class Loop {
  private readonly due = new Set<{ poll(budget: number): number }>()

  /** What to call when `part` has something to do. `part` may come into being later. */
  waker(part: () => { poll(budget: number): number } | null): () => void {
    return () => {
      const found = part()
      if (found !== null) this.due.add(found)
    }
  }

  run(): void {
    for (const part of this.due) {
      this.due.delete(part)
      while (part.poll(8) > 0);
    }
  }

  /** Lets whoever waits for something go on, and works what became due by that, until nothing happens any more. */
  async settle(): Promise<void> {
    for (let i = 0; i < 50; i++) {
      this.run()
      await turn()
    }
  }
}

interface Side<D extends VirtioDriver> {
  readonly loop: Loop
  readonly driver: D
}

/** One device and its driver over mmio, the interrupt sink handing interrupts to the driver as they come. */
async function compose<D extends VirtioDriver>(
  notify: 'marked' | 'inline',
  makeDevice: (options: {
    name: string
    port: ReturnType<typeof everything>
    onWork: () => void
  }) => BlkDevice | NetDevice,
  makeDriver: (session: DeviceSession, onWork: () => void) => D,
  features: typeof NET_FEATURES,
): Promise<Side<D>> {
  const memory = new GuestMemory([{ base: BASE, length: RAM_BYTES, memory: new ArrayBuffer(RAM_BYTES) }])
  const ram = new SpanAllocator(guestAddress(BASE), RAM_BYTES)
  const loop = new Loop()
  const parts: { device: BlkDevice | NetDevice | null; driver: D | null } = { device: null, driver: null }
  const device = makeDevice({ name: 'dev0', port: everything(memory), onWork: loop.waker(() => parts.device) })
  parts.device = device
  const level = (asserted: boolean): void => {
    if (asserted) parts.driver?.interrupt()
  }
  const transport = MmioTransport.probe(new MmioRegisters(device, { notify, interrupts: { level } }), 'dev0')
  if (transport === null) throw new Error('no device')
  const wait = { pump: (): void => {} }
  const offer = (offered: typeof NET_FEATURES): PlatformOffer =>
    platformOffer({
      device: 'dev0',
      offered,
      transport: { kind: 'mmio', transitional: false },
      memory,
      ram,
    })
  const { provider } = directScheme()
  const dependencies = NET_FEATURE_DEPENDENCIES
  const options = { transport, understood: features, dependencies, providers: [provider], offer, wait }
  const agreed = await negotiate({ ...options, dma: 'auto' })
  const { features: agreedFeatures, backend } = agreed
  const session = new DeviceSession({ transport, features: agreedFeatures, backend, memory, ram, wait })
  const driver = makeDriver(
    session,
    loop.waker(() => parts.driver),
  )
  parts.driver = driver
  // What became due while the driver was being made.
  driver.wake()
  driver.poll(8)
  await loop.settle()
  return { loop, driver }
}

/** A store that keeps its requests until it is told to answer. */
class HeldStore extends MemoryBlockStore {
  readonly held: (() => void)[] = []

  override read(request: BlockRequest): void {
    this.held.push(() => super.read(request))
  }
}

describe.each(['marked', 'inline'] as const)('after poll() returned 0 nobody polls: doorbells are %s', (notify) => {
  const EVENTS = [
    ['event index', NET_FEATURES, BLK_FEATURES],
    ['flags', withoutEvents(NET_FEATURES), withoutEvents(BLK_FEATURES)],
  ] as const

  test.each(EVENTS)('blk over a late store, %s', async (_mode, _net, features) => {
    const store = new HeldStore(new Uint8Array(1 << 16).map((_, i) => i >>> 9))
    const { loop, driver } = await compose(
      notify,
      (options) => new BlkDevice({ ...options, store, queueSize: 16 }),
      (session, onWork) => new BlkDriver(session, { onWork, queueSize: 8 }),
      features,
    )
    const reads = Array.from({ length: 40 }, (_, sector) => driver.readBytes(sector, 512))
    let settled = 0
    for (const read of reads) void read.then(() => settled++)
    for (let answered = 0; answered < 40; answered++) {
      await loop.settle()
      expect(settled).toBe(answered)
      store.held.splice((answered * 7) % store.held.length, 1)[0]?.()
    }
    await loop.settle()
    expect(settled).toBe(40)
    for (const [sector, bytes] of (await Promise.all(reads)).entries()) expect(bytes[0]).toBe(sector)
    await driver.close()
  })

  test.each(EVENTS)('net over a loopback link, sent and received, %s', async (_mode, features) => {
    let received = 0
    let sent = 0
    const { loop, driver } = await compose(
      notify,
      (options) => new NetDevice({ ...options, mac: [2, 0, 0, 0, 0, 1], link: new LoopbackLink(), queueSize: 8 }),
      (session, onWork) =>
        new NetDriver(session, {
          onWork,
          observer: {
            frames: (batch) => {
              received += batch.count
            },
            sent: (_tokens, count) => {
              sent += count
            },
          },
        }),
      features,
    )
    for (let n = 1; n <= 30; n++) {
      // From nowhere near a poll, as a timer of the user's would.
      expect(driver.sendCopy(new Uint8Array(60).fill(n), n)).toBe(true)
      await loop.settle()
      expect([sent, received]).toEqual([n, n])
    }
    await driver.close()
  })
})

function withoutEvents(features: typeof NET_FEATURES): typeof NET_FEATURES {
  return features.without(FeatureSet.of(VIRTIO_F_EVENT_IDX))
}

describe.each(['mmio', 'pci'] as const)(
  'a machine over %s that is pumped only because onWork was called',
  (transport) => {
    test.each([true, false])('goes on through a reset of each device, with interrupts %s', async (interrupts) => {
      const store = new HeldStore(new Uint8Array(1 << 16).fill(7))
      const wire = new Wire()
      let received = 0
      let pumps = 0
      const built: { machine: Machine | null } = { machine: null }
      const pump = (): void => {
        pumps++
        built.machine?.pump()
      }
      const net = (name: string, link: Wire['a']) =>
        ({
          type: 'net',
          name,
          interrupts,
          device: { mac: [2, 0, 0, 0, 0, name.length], link },
          observer: {
            frames: (batch: { readonly count: number }) => {
              received += batch.count
            },
          },
        }) as const
      const machine = await createMachine({
        transport,
        onWork: () => setImmediate(pump),
        memory: [{ base: BASE, length: 16 << 20, memory: new ArrayBuffer(16 << 20) }],
        devices: [net('a', wire.a), net('bb', wire.b), { type: 'blk', name: 'disk', interrupts, device: { store } }],
      })
      built.machine = machine
      // `onWork` is called from a later turn on.
      while (pumps === 0) await turn()
      const turns = async (): Promise<void> => {
        for (let i = 0; i < 30; i++) await turn()
      }
      for (let round = 0; round < 4; round++) {
        const before = received
        const read = machine.blk('disk').readBytes(1, 512)
        const ended = read.then(
          (bytes) => bytes[0],
          (error: { code: string }) => error.code,
        )
        machine.net('a').sendCopy(new Uint8Array(60))
        machine.net('bb').sendCopy(new Uint8Array(60))
        await turns()
        expect(received).toBe(before + 2)
        if (round % 2 === 0) {
          store.held.shift()?.()
          expect(await ended).toBe(7)
        } else {
          await Promise.all(['a', 'bb', 'disk'].map((name) => machine.reset(name)))
          expect(await ended).toBe('DRIVER_CLOSED')
          // What the store still holds from before the reset.
          store.held.shift()?.()
        }
        await turns()
      }
      const idle = pumps
      await turns()
      // Nothing is due, and so nobody pumps.
      expect(pumps).toBe(idle)
      await machine.close()
    })
  },
)

describe('a machine and what is plugged into it', () => {
  const RANGES = () => [{ base: BASE, length: 16 << 20, memory: new ArrayBuffer(16 << 20) }]
  const disk = (name: string, store = new MemoryBlockStore(new Uint8Array(1 << 16))) =>
    ({ type: 'blk', name, device: { store } }) as const

  test('tells of what became due while it was made, once its maker has it', async () => {
    const built: { machine: Machine | null } = { machine: null }
    let early = 0
    const onWork = (): void => {
      queueMicrotask(() => {
        if (built.machine === null) early++
        else built.machine.pump()
      })
    }
    built.machine = await createMachine({ onWork, memory: RANGES(), devices: [disk('disk0')] })
    await built.machine.blk('disk0').readBytes(0, 512)
    expect(early).toBe(0)
    await built.machine.close()
  })

  test('a port that throws stops its own device, says so, and everybody else goes on', async () => {
    const faults: unknown[] = []
    const events = new MachineEvents()
    events.on('fault', ({ device, fault }) => faults.push([device, 'kind' in fault ? fault.kind : 'access']))
    let broken = false
    const bad = {
      ...disk('bad'),
      make: (port: BusPort): BlkDevice => {
        const resolve = port.resolve.bind(port)
        port.resolve = (length, access) => {
          if (broken) throw new Error('a port of somebody else')
          return resolve(length, access)
        }
        return new BlkDevice({ name: 'bad', port, store: new MemoryBlockStore(new Uint8Array(1 << 16)) })
      },
    }
    const machine = await createMachine({ events, memory: RANGES(), devices: [bad, disk('good')] })
    const surfaced: string[] = []
    const real = globalThis.queueMicrotask
    vi.spyOn(globalThis, 'queueMicrotask').mockImplementation((task) =>
      real(() => {
        try {
          task()
        } catch (error) {
          surfaced.push((error as Error).message)
        }
      }),
    )
    broken = true
    const lost = machine.blk('bad').readBytes(0, 512)
    const kept = machine.blk('good').readBytes(0, 512)
    await expect(machine.run(lost)).rejects.toMatchObject({ code: 'DRIVER_DEVICE_BROKEN' })
    expect((await machine.run(kept)).length).toBe(512)
    expect(faults).toEqual([
      ['bad', 'host'],
      ['bad', 'needs-reset'],
    ])
    broken = false
    await machine.reset('bad')
    expect((await machine.run(machine.blk('bad').readBytes(0, 512))).length).toBe(512)
    await machine.close()
    vi.restoreAllMocks()
    expect(surfaced).toEqual(['a port of somebody else'])
  })

  test('devices that answer each other without end are left after a bound: due says so, and onWork is called', async () => {
    const built: { machine: Machine | null; echo: boolean; told: number } = { machine: null, echo: true, told: 0 }
    const wire = new Wire()
    const echo = (name: string, link: Wire['a']): DeviceConfig => ({
      type: 'net',
      name,
      device: { link },
      observer: {
        frames: (batch) => {
          for (let i = 0; i < batch.count; i++) if (built.echo) built.machine?.net(name).sendCopy(batch.copy(i))
        },
      },
    })
    const machine = await createMachine({
      memory: RANGES(),
      onWork: () => built.told++,
      devices: [echo('left', wire.a), echo('right', wire.b)],
    })
    built.machine = machine
    machine.pump()
    expect(machine.due).toBe(false)
    await new Promise((resolve) => setTimeout(resolve, 0))
    machine.net('left').sendCopy(new Uint8Array(60))
    built.told = 0
    const work = machine.pump()
    expect(work).toBeGreaterThan(0)
    expect([machine.due, built.told]).toEqual([true, 1])
    built.echo = false
    machine.pump()
    expect([machine.due, machine.pump()]).toEqual([false, 0])
    await machine.close()
  })

  test('run ends for a store that never answers, where the device has a deadline', async () => {
    const never = { capacity: 4096, read: () => {}, write: () => {}, flush: () => {} }
    const events = new MachineEvents()
    const broken: string[] = []
    events.on('needsReset', ({ device }) => broken.push(device))
    const machine = await createMachine({
      events,
      memory: RANGES(),
      devices: [{ type: 'blk', name: 'disk0', device: { store: never }, requestDeadlineMs: 5 }],
    })
    await expect(machine.run(machine.blk('disk0').readBytes(0, 512))).rejects.toMatchObject({
      code: 'DRIVER_DEVICE_BROKEN',
    })
    expect(broken).toEqual(['disk0'])
    await machine.close().catch(() => {})
  })

  test('each call of close() ends as the first one does', async () => {
    const machine = await createMachine({ memory: RANGES(), devices: [disk('disk0')] })
    machine.blk('disk0').session.transport.writeStatus = () => {
      throw new Error('the other end is gone')
    }
    const ends = await Promise.allSettled([machine.close(), machine.close()])
    expect(ends.map((end) => end.status)).toEqual(['rejected', 'rejected'])
    await expect(machine.close()).rejects.toThrow(/did not answer|gone/)
  })

  test('a net device needs no address', async () => {
    const machine = await createMachine({ memory: RANGES(), devices: [{ type: 'net', name: 'net0', device: {} }] })
    expect(machine.net('net0').mac).toBeNull()
    await machine.close()
  })
})

test('what a lazy IOMMU has not removed yet goes in a machine that sleeps, and a closed one calls nobody', async () => {
  const built: { machine: Machine | null } = { machine: null }
  let told = 0
  const machine = await createMachine({
    memory: [{ base: BASE, length: 16 << 20, memory: new ArrayBuffer(16 << 20) }],
    schemes: [virtioIommuScheme({ mode: 'lazy', granule: 1, lazy: { ms: 50 } })],
    onWork: () => {
      told++
      setImmediate(() => built.machine?.pump())
    },
    devices: [{ type: 'blk', name: 'disk', device: { store: new MemoryBlockStore(new Uint8Array(1 << 16)) } }],
  })
  built.machine = machine
  machine.pump()
  await machine.blk('disk').readBytes(0, 4096)
  const { port, negotiated } = machine.device('disk')
  // Where the buffer was that was read into. Whether it is out of reach by now depends on how slow this machine is.
  const { pendingAt } = negotiated.backend as unknown as { pendingAt: Float64Array }
  const mayWrite = (): boolean => {
    port.request[0] = pendingAt[0]
    return port.resolve(1, 2) > 0
  }
  // Nobody polls but for onWork.
  while (mayWrite()) await new Promise((resolve) => setTimeout(resolve, 1))
  await machine.blk('disk').readBytes(0, 4096)
  const before = told
  await machine.close()
  for (let i = 0; i < 30; i++) await turn()
  expect(told).toBe(before)
})
