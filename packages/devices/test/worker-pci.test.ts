import { Worker } from 'node:worker_threads'
import {
  type BusWindow,
  BusWindows,
  type DeviceFault,
  everything,
  IommuDevice,
  NetDevice,
  PciFunction,
} from '@guestdma/devices'
import { DeviceWorker, type DeviceWorkerOptions, type WorkerPciOptions } from '@guestdma/devices/worker'
import { GuestMemory, Region } from '@guestdma/memory'
import {
  STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_MSI_NO_VECTOR,
} from '@guestdma/spec'
import { afterEach, describe, expect, it } from 'vitest'
import { capabilities, INTX_DISABLE, MASTER, MEMORY, PciDriver, type Reached } from './support/pci.ts'

const MAC = [0x52, 0x54, 0, 1, 2, 3]
const DOORBELL = { base: 0xfee0_0000, length: 0x1000 } as const
const OFFER = [VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_NOTIF_CONFIG_DATA]
const SCRIPT = new URL('./support/worker-device.ts', import.meta.url)
const SCRIBBLER = new URL('./support/worker-scribbler.ts', import.meta.url)
const MEMORY_BYTES = 1 << 14
const BASE = 0x1000

const open: DeviceWorker[] = []
afterEach(async () => {
  for (const worker of open.splice(0)) await worker.close()
})

const shared = (): Region => new Region(new SharedArrayBuffer(MEMORY_BYTES), 'shared')
const whole = (region = shared()): BusWindow[] => [{ base: BASE, length: region.length, region }]

let latest: Worker

async function start(pci: WorkerPciOptions, options: Partial<DeviceWorkerOptions> = {}): Promise<DeviceWorker> {
  const spawn = (): Worker => {
    latest = new Worker(SCRIPT)
    return latest
  }
  const worker = await DeviceWorker.start({ name: 'far', type: 'net', windows: whole(), spawn, pci, ...options })
  open.push(worker)
  return worker
}

/** What the device in the worker has recorded. */
async function recorded(): Promise<{ readonly faults: readonly DeviceFault[]; readonly count: number }> {
  latest.postMessage('faults')
  return new Promise((resolve) => {
    const hear = (message: { readonly count?: number }): void => {
      if (message.count === undefined) return
      latest.off('message', hear)
      resolve(message as never)
    }
    latest.on('message', hear)
  })
}

const msixOf = (pci: Reached): number => capabilities(pci).find(({ id }) => id === 0x11)?.at ?? 0
const mask = (pci: Reached, masked: boolean): void => pci.bar(1)?.write(28, 4, masked ? 1 : 0)

/** Entry 1 of the table leads to `address`, and changes of the configuration are mapped to it. */
function useMessages(pci: Reached, address: number): PciDriver<Reached> {
  const driver = new PciDriver(pci)
  pci.bar(1)?.write(16, 4, address)
  pci.bar(1)?.write(24, 4, 77)
  mask(pci, false)
  pci.config.write(msixOf(pci) + 2, 2, 0x8000)
  driver.start([])
  driver.set('configVector', 1)
  return driver
}

const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20))

const codeOf = (run: () => unknown): string => {
  try {
    run()
    return 'nothing'
  } catch (error) {
    return (error as { readonly code: string }).code
  }
}

describe('a PCI function in a worker', () => {
  it.each([0, 2, 4, 4096])(
    'answers every access as one in this thread does, with doorbells %i bytes apart',
    async (gap) => {
      const offer = gap === 2 ? [] : OFFER
      const options = { notifyMultiplier: gap, msixVectors: 3 }
      const worker = await start({ ...options, swiotlb: true }, { type: offer.length > 0 ? 'odd' : 'net' })
      const window = { region: shared(), offset: 0, length: MEMORY_BYTES }
      const device = new NetDevice({ name: 'far', port: new BusWindows('far'), mac: MAC, offer })
      const here = new PciFunction(device, { ...options, swiotlb: { window } })
      for (const { config } of [here, worker.pci]) config.write(4, 2, MEMORY | MASTER)
      let state = 11 + gap
      const next = (below: number): number => {
        state = (Math.imul(state, 1664525) + 1013904223) | 0
        return (state >>> 8) % below
      }
      const places = [0, 0, 0, 0x1000, 0x2000, 0x3000, 0x3000]
      for (let round = 0; round < 3000; round++) {
        const space = next(8)
        const config = space >= 6
        const size = [1, 2, 2, 4][next(4)] as 1 | 2 | 4
        const at = (config ? 0 : places[next(places.length)]) + next(config ? 256 : 72)
        const offset = next(4) === 0 ? at : at - (at % size)
        // Without DRIVER_OK, which lets a device act by itself.
        const value = (next(2) === 0 ? next(16) : (next(2 ** 24) << 8) | next(256)) & ~0x04040404
        const isWrite = next(2) === 0
        const [near, far] = [here, worker.pci].map((pci) => {
          const bus = config ? pci.config : pci.bar(space)
          if (bus === null) return null
          if (!isWrite) return bus.read(offset, size)
          bus.write(offset, size, value >>> 0)
          // A doorbell that is rung twice before the worker looks is taken once.
          return pci.config.read(0, 4)
        })
        expect([round, far]).toEqual([round, near])
        expect(Array.from({ length: 6 }, (_, i) => worker.pci.range(i))).toEqual(
          Array.from({ length: 6 }, (_, i) => here.range(i)),
        )
      }
      expect(device.faults.count).toBeGreaterThan(500)
      expect(await recorded()).toEqual({ faults: device.faults.last(), count: device.faults.count })
    },
  )

  it('tells where its BARs are by what was written to them, when that changes, and when the worker is gone', async () => {
    const worker = await start({})
    const { pci } = worker
    let told = 0
    pci.onWindows = () => void told++
    pci.config.write(0x10, 4, 0xffff_ffff)
    expect(pci.config.read(0x10, 4)).toBe(0xffff_c000)
    pci.config.write(0x10, 4, 0xe000_0000)
    expect([pci.range(0)?.enabled, told]).toEqual([false, 0])
    pci.config.write(4, 2, MEMORY)
    expect([pci.range(0), told]).toEqual([{ address: 0xe000_0000, size: 0x4000, kind: 'memory', enabled: true }, 1])
    expect([pci.range(2), pci.bar(2), pci.range(3), pci.bar(6)]).toEqual([null, null, null, null])
    await latest.terminate()
    expect(pci.range(0)?.address).toBe(0xe000_0000)
    await expect.poll(() => codeOf(() => pci.config.read(0, 4))).toBe('WORKER_ENDED')
    expect(codeOf(() => pci.bar(0)?.write(0x3000, 2, 0))).toBe('WORKER_ENDED')
  })

  it('rings doorbells without waiting, of a worker that hangs too, and waits for anything else', async () => {
    const worker = await start({}, { type: 'probe', deadlineMs: 200 })
    const { pci } = worker
    pci.config.write(4, 2, MEMORY | MASTER)
    // In which this device hangs.
    pci.bar(0)?.write(0x3004, 2, 1)
    await settled()
    expect([0, 1].map((queue) => codeOf(() => pci.bar(0)?.write(0x3000 + 4 * queue, 2, queue)))).toEqual([
      'nothing',
      'nothing',
    ])
    expect(codeOf(() => pci.config.read(0, 4))).toBe('WORKER_DEADLINE')
    expect(codeOf(() => pci.bar(0)?.write(0x3000, 2, 0))).toBe('WORKER_DEADLINE')
    await worker.restart()
    expect(pci.config.read(4, 2)).toBe(MEMORY | MASTER)
  })

  it('is reached through its access capability, doorbells included (§4.1.4.9)', async () => {
    const { pci } = await start({})
    const driver = new PciDriver(pci)
    const window = capabilities(pci).find(({ id, type }) => id === 9 && type === 5)?.at ?? 0
    const through = (offset: number, length: number): void => {
      pci.config.write(window + 4, 1, 0)
      pci.config.write(window + 8, 4, offset)
      pci.config.write(window + 12, 4, length)
    }
    through(20, 1)
    pci.config.write(window + 16, 4, 3)
    expect([driver.status, pci.config.read(window + 16, 4) & 0xff]).toEqual([3, 3])
    through(0x3000, 2)
    pci.config.write(window + 16, 4, 1)
    expect((await recorded()).faults).toMatchObject([{ reason: 'value', space: 0, offset: 0x3000, value: 1 }])
  })
})

describe('the interrupts of a PCI function in a worker', () => {
  it('raise its line, are told of, and let it fall when ISR status is read (§4.1.4.5)', async () => {
    const worker = await start({})
    const driver = new PciDriver(worker.pci)
    driver.start([])
    let told = 0
    worker.listen(() => void told++)
    expect([told, worker.asserted]).toEqual([1, false])
    for (const round of [2, 3]) {
      latest.postMessage(round === 2 ? 'unplug' : 'fail')
      await expect.poll(() => told).toBe(round)
      expect([worker.asserted, driver.interrupting]).toEqual([true, true])
      expect([driver.acknowledge(), worker.asserted, driver.interrupting]).toEqual([2, false, false])
    }
    expect(driver.status & STATUS_DEVICE_NEEDS_RESET).not.toBe(0)
  })

  it('wait for Interrupt Disable to be cleared, and end with a reset of the device', async () => {
    const worker = await start({})
    const driver = new PciDriver(worker.pci, MEMORY | MASTER | INTX_DISABLE)
    driver.start([])
    latest.postMessage('unplug')
    await expect.poll(() => driver.interrupting).toBe(true)
    expect(worker.asserted).toBe(false)
    driver.command = MEMORY | MASTER
    await expect.poll(() => worker.asserted).toBe(true)
    driver.status = 0
    expect(worker.asserted).toBe(false)
  })

  it('are messages to the doorbell, which a mask holds back, and which bring a status that is new', async () => {
    const worker = await start({ doorbell: DOORBELL })
    const { pci } = worker
    const driver = useMessages(pci, DOORBELL.base + 0xffc)
    const heard: unknown[] = []
    pci.onMessage = (address, data) => void heard.push([address, data, driver.status & STATUS_DEVICE_NEEDS_RESET])
    worker.listen(() => void heard.push('told'))
    mask(pci, true)
    latest.postMessage('unplug')
    await expect.poll(() => pci.bar(1)?.read(0x1000, 4)).toBe(2)
    expect(heard).toEqual(['told'])
    mask(pci, false)
    await expect.poll(() => heard.length).toBe(3)
    expect(driver.status & STATUS_DEVICE_NEEDS_RESET).toBe(0)
    latest.postMessage('fail')
    await expect.poll(() => heard.length).toBe(5)
    const at = DOORBELL.base + 0xffc
    expect(heard).toEqual(['told', [at, 77, 0], 'told', [at, 77, STATUS_DEVICE_NEEDS_RESET], 'told'])
    expect(worker.asserted).toBe(false)
  })

  it.each([
    ['elsewhere', { doorbell: DOORBELL }],
    ['with no doorbell', {}],
  ])('are writes to memory %s, which nobody is told of', async (_where, options) => {
    const [window] = whole()
    const worker = await start(options, { windows: [window] })
    useMessages(worker.pci, BASE + 64)
    let told = 0
    worker.pci.onMessage = () => void told++
    latest.postMessage('unplug')
    await expect.poll(() => window.region.view.getUint32(64, true)).toBe(77)
    await settled()
    expect(told).toBe(0)
  })

  it('do not go out without Bus Master Enable', async () => {
    const worker = await start({ doorbell: DOORBELL })
    const driver = useMessages(worker.pci, DOORBELL.base)
    let told = 0
    worker.pci.onMessage = () => void told++
    driver.command = MEMORY
    latest.postMessage('unplug')
    await expect.poll(() => worker.pci.bar(1)?.read(0x1000, 4)).toBe(2)
    await settled()
    expect(told).toBe(0)
    driver.command = MEMORY | MASTER
    await expect.poll(() => told).toBe(1)
  })

  it('pass an IOMMU as they are, which reserves their addresses', async () => {
    const ram = new GuestMemory([{ base: 0x8000_0000, length: 1 << 16, memory: new SharedArrayBuffer(1 << 16) }])
    const all = everything(ram)
    const worker = await start({ doorbell: DOORBELL }, { windows: all.windows, translated: true })
    const iommu = new IommuDevice({ name: 'iommu', port: all })
    const copy = worker.translations ?? undefined
    const port = iommu.addEndpoint(1, { name: 'far', downstream: all, ...(copy === undefined ? {} : { copy }) })
    const { base, length } = DOORBELL
    expect(port.reserved).toEqual([{ start: base, end: base + length - 1, kind: 'msi' }])
    useMessages(worker.pci, base)
    let told = 0
    worker.pci.onMessage = () => void told++
    latest.postMessage('unplug')
    await expect.poll(() => told).toBe(1)
    expect(port.faults.count).toBe(0)
  })
})

describe('the memory on the device of a function in a worker', () => {
  it('is behind BAR 2, and the device reaches it where that is put and nowhere else', async () => {
    const [window] = whole()
    const worker = await start({ swiotlb: true }, { windows: [window], type: 'probe' })
    const { pci } = worker
    const granted = async (address: number): Promise<number> => {
      latest.postMessage(address)
      return new Promise((resolve) => {
        latest.once('message', (message: { readonly granted: number }) => resolve(message.granted))
      })
    }
    expect(await granted(BASE)).toBe(0)
    for (const high of [1, 2]) {
      pci.config.write(0x1c, 4, high)
      pci.config.write(4, 2, MEMORY | MASTER)
      expect(await granted(high * 2 ** 32 + 8)).toBe(8)
      expect([await granted((3 - high) * 2 ** 32 + 8), await granted(BASE)]).toEqual([0, 0])
    }
    pci.bar(2)?.write(8, 4, 0x1234_5678)
    expect([window.region.view.getUint32(8, true), pci.bar(2)?.read(9, 2)]).toEqual([0x1234_5678, 0x3456])
    pci.config.write(4, 2, MASTER)
    expect(await granted(2 * 2 ** 32 + 8)).toBe(0)
  })
})

describe('a restart of a worker', () => {
  it('leaves BARs, command and MSI-X as they were, whatever was written last, and resets the device', async () => {
    const worker = await start({ doorbell: DOORBELL })
    const { pci } = worker
    pci.config.write(0x10, 4, 0xd000_0000)
    pci.config.write(0x12, 2, 0xc000)
    pci.config.write(0x10, 4, 0xe000_0000)
    pci.config.write(0x3c, 1, 9)
    const driver = useMessages(pci, DOORBELL.base)
    driver.command = MASTER | INTX_DISABLE
    // These are lost, and are not brought back: the BAR is off, and pending bits are read-only.
    pci.bar(1)?.write(24, 4, 88)
    pci.bar(1)?.write(0x1000, 4, 1)
    for (const round of [0, 1]) {
      if (round === 1) await latest.terminate()
      await worker.restart()
      expect([driver.command, pci.config.read(0x10, 4), pci.config.read(0x3c, 1)]).toEqual([
        MASTER | INTX_DISABLE,
        0xe000_0000,
        9,
      ])
      expect(pci.config.read(msixOf(pci) + 2, 2) & 0xc000).toBe(0x8000)
      expect(pci.range(0)).toMatchObject({ address: 0xe000_0000, enabled: false })
      driver.command = MEMORY | MASTER
      expect([0, 4, 8, 12].map((at) => pci.bar(1)?.read(16 + at, 4))).toEqual([DOORBELL.base, 0, 77, 0])
      expect([driver.status, driver.get('configVector')]).toEqual([0, VIRTIO_MSI_NO_VECTOR])
      expect((await recorded()).count).toBe(0)
      driver.start([])
      driver.set('configVector', 1)
      let told = 0
      pci.onMessage = () => void told++
      latest.postMessage('unplug')
      await expect.poll(() => told).toBe(1)
      driver.command = MASTER | INTX_DISABLE
    }
  })

  it('does not repeat what has an effect: accesses through a window, and registers of the device', async () => {
    const worker = await start({})
    const { pci } = worker
    const driver = new PciDriver(pci)
    const window = capabilities(pci).find(({ id, type }) => id === 9 && type === 5)?.at ?? 0
    pci.config.write(window + 8, 4, 20)
    pci.config.write(window + 12, 4, 1)
    pci.config.write(window + 16, 4, 3)
    expect(driver.status).toBe(3)
    await worker.restart()
    expect([driver.status, (await recorded()).count]).toEqual([0, 0])
  })

  it('brings back nothing of what was before a reset of the machine', async () => {
    const worker = await start({ doorbell: DOORBELL })
    const { pci } = worker
    let told = 0
    pci.config.write(0x10, 4, 0xe000_0000)
    const driver = useMessages(pci, DOORBELL.base)
    pci.onWindows = () => void told++
    worker.reset()
    expect(told).toBe(1)
    for (const round of [0, 1]) {
      if (round === 1) await worker.restart()
      expect([driver.command, pci.config.read(0x10, 4), pci.range(0)?.address]).toEqual([0, 0, 0])
      expect(pci.config.read(msixOf(pci) + 2, 2) & 0xc000).toBe(0)
      driver.command = MEMORY
      expect([pci.bar(1)?.read(16, 4), pci.bar(1)?.read(28, 4), driver.status]).toEqual([0, 1, 0])
      driver.command = 0
    }
  })
})

describe('what cannot be is refused with what is wrong', () => {
  const bar = { kind: 'memory', size: 0x4000, wide: false, prefetchable: false }
  const described = { bars: [bar, null, null, null, null, null], doorbells: 0x3000, msix: 0, table: 0 }
  const translated = { translated: true } as const
  const nowhere = { doorbell: { base: -1, length: 4 } } as const
  const refused = (pci: WorkerPciOptions, options: Partial<DeviceWorkerOptions> = {}): Promise<unknown> =>
    start(pci, options).catch((error: unknown) => error)

  it.each([
    ['memory on the device that is two windows', { swiotlb: true }, { windows: [] }, 'WORKER_OPTION', /one window/],
    ['memory on the device behind an IOMMU', { swiotlb: true }, translated, 'WORKER_OPTION', /translated/],
    ['a doorbell at no address', nowhere, {}, 'MEMORY_ADDRESS', /far doorbell/],
    ['doorbells that overlap', { notifyMultiplier: 3 }, {}, 'WORKER_FAILED', /notifyMultiplier 3 must be/],
    ['a table that is too long', { msixVectors: 2049 }, {}, 'WORKER_FAILED', /msixVectors 2049 must be/],
  ] as const)('%s', async (_what, pci, options, code, message) => {
    const error = await refused(pci, options)
    expect(error).toMatchObject({ code })
    expect((error as Error).message).toMatch(message)
  })

  it('the registers of what is on PCI, and the function of what is on mmio', async () => {
    const worker = await start({})
    expect(codeOf(() => worker.registers)).toBe('WORKER_OPTION')
    const options = { name: 'far', type: 'net', windows: whole(), spawn: () => new Worker(SCRIPT) }
    const other = await DeviceWorker.start(options)
    open.push(other)
    expect([codeOf(() => other.pci), codeOf(() => other.registers)]).toEqual(['WORKER_OPTION', 'nothing'])
  })

  it.each([
    ['nothing', undefined],
    ['no BARs', { ...described, bars: 6 }],
    ['too few', { ...described, bars: [] }],
    ['a size that is none', { ...described, bars: [{ ...bar, size: 0x4001 }, null, null, null, null, null] }],
    ['a size beyond its register', { ...described, bars: [{ ...bar, size: 2 ** 40 }, null, null, null, null, null] }],
    ['one in the half of another', { ...described, bars: [{ ...bar, wide: true }, bar, null, null, null, null] }],
    ['the last one 64 bits wide', { ...described, bars: [null, null, null, null, null, { ...bar, wide: true }] }],
    ['doorbells nowhere', { ...described, doorbells: 'x' }],
    ['MSI-X outside', { ...described, msix: 256 }],
    ['no table', { ...described, table: -1 }],
    ['holes', { ...described, bars: [undefined, null, null, null, null, null] }],
  ])('a worker that describes %s', async (_what, config) => {
    const spawn = (): Worker => new Worker(SCRIBBLER)
    expect(await refused({}, { config, spawn, deadlineMs: 50 })).toMatchObject({ code: 'WORKER_FAILED' })
  })

  it('messages that are none of the doorbell, from a worker that lies, and answers that make no sense', async () => {
    const heard: unknown[] = []
    const spawn = (): Worker => new Worker(SCRIBBLER)
    const worker = await start({ doorbell: DOORBELL }, { config: described, spawn, deadlineMs: 50 })
    worker.pci.onMessage = (...message) => void heard.push(message)
    await expect.poll(() => heard).toEqual([[DOORBELL.base + 0xffc, 7]])
    const outcomes = Array.from({ length: 4 }, () => codeOf(() => worker.pci.config.write(0x10, 4, 0xe000_0000)))
    for (const outcome of outcomes) expect(['nothing', 'WORKER_DEADLINE']).toContain(outcome)
    expect([worker.pci.range(1), worker.pci.range(0)?.size]).toEqual([null, 0x4000])
  })
})
