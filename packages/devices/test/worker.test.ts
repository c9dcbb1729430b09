import { Worker } from 'node:worker_threads'
import { type BusWindow, DeviceError, everything, PagePort } from '@guestdma/devices'
import { DeviceWorker, type DeviceWorkerOptions, serveDevice } from '@guestdma/devices/worker'
import { GuestMemory, Region } from '@guestdma/memory'
import {
  BLK_CONFIG_CAPACITY,
  DEVICE_ID_BLOCK,
  DEVICE_ID_NET,
  INTERRUPT_CONFIGURATION,
  INTERRUPT_USED_BUFFER,
  MMIO_CONFIG,
  MMIO_DEVICE_ID,
  MMIO_DRIVER_FEATURES,
  MMIO_DRIVER_FEATURES_SEL,
  MMIO_INTERRUPT_ACK,
  MMIO_INTERRUPT_STATUS,
  MMIO_MAGIC,
  MMIO_MAGIC_VALUE,
  MMIO_QUEUE_NOTIFY,
  MMIO_QUEUE_SEL,
  MMIO_QUEUE_SIZE_MAX,
  MMIO_STATUS,
  STATUS_ACKNOWLEDGE,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FEATURES_OK,
} from '@guestdma/spec'
import { afterEach, describe, expect, it, vi } from 'vitest'

const DISK = 1 << 16
const open: DeviceWorker[] = []
afterEach(async () => {
  for (const worker of open.splice(0)) await worker.close()
})

const shared = (bytes = 1 << 16): Region => new Region(new SharedArrayBuffer(bytes), 'pool')
const whole = (region: Region): BusWindow[] => [{ base: 0x1000, length: region.length, region }]
const SCRIPT = new URL('./support/worker-device.ts', import.meta.url)
const SCRIBBLER = new URL('./support/worker-scribbler.ts', import.meta.url)

let latest: Worker
/** The mailbox of the latest one. */
let mailbox: Int32Array

async function start(options: Partial<DeviceWorkerOptions> = {}): Promise<DeviceWorker> {
  const spawn = (): Worker => {
    latest = new Worker(SCRIPT)
    const post = latest.postMessage.bind(latest)
    latest.postMessage = (message) => {
      if (message.mailbox !== undefined) mailbox = new Int32Array(message.mailbox)
      post(message)
    }
    return latest
  }
  const config = { disk: new SharedArrayBuffer(DISK) }
  const worker = await DeviceWorker.start({
    name: 'disk',
    type: 'blk',
    config,
    windows: whole(shared()),
    spawn,
    ...options,
  })
  open.push(worker)
  return worker
}

const version1 = [MMIO_DRIVER_FEATURES_SEL, 1, MMIO_DRIVER_FEATURES, 1]
const known = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK

async function live(type = 'net'): Promise<DeviceWorker> {
  const worker = await start({ type })
  const { registers } = worker
  const writes = [MMIO_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER, ...version1, MMIO_STATUS, known]
  for (let i = 0; i < writes.length; i += 2) registers.write(writes[i], 4, writes[i + 1])
  registers.write(MMIO_STATUS, 4, known | STATUS_DRIVER_OK)
  return worker
}

const codeOf = (error: unknown): string => (error as DeviceError).code
const thrown = (run: () => unknown): string => {
  try {
    run()
    return 'nothing'
  } catch (error) {
    return codeOf(error)
  }
}

describe('the registers of a device in a worker', () => {
  it('are those of its register file: values, widths, and what a write changes', async () => {
    const { registers } = await start()
    expect(registers.read(MMIO_MAGIC_VALUE, 4)).toBe(MMIO_MAGIC)
    expect(registers.read(MMIO_DEVICE_ID, 4)).toBe(DEVICE_ID_BLOCK)
    expect(registers.read(MMIO_CONFIG + BLK_CONFIG_CAPACITY, 4)).toBe(DISK / 512)
    expect([registers.read(MMIO_MAGIC_VALUE, 1), registers.read(MMIO_MAGIC_VALUE, 2)]).toEqual([0x76, 0x6976])
    registers.write(MMIO_STATUS, 4, STATUS_ACKNOWLEDGE)
    expect(registers.read(MMIO_STATUS, 4)).toBe(STATUS_ACKNOWLEDGE)
    registers.write(MMIO_STATUS, 4, 0)
    expect(registers.read(MMIO_STATUS, 4)).toBe(0)
    // Reads that are none of its registers are unsigned all the same.
    expect(registers.read(0x0b0, 4)).toBe(0xffff_ffff)
  })

  it('answer while the worker spins and after it went to sleep', async () => {
    const { registers } = await start()
    for (const milliseconds of [0, 20, 0, 20]) {
      await new Promise((resolve) => setTimeout(resolve, milliseconds))
      expect(registers.read(MMIO_DEVICE_ID, 4)).toBe(DEVICE_ID_BLOCK)
    }
  })

  it('take doorbells of every queue, of none that the device has, and before it is live', async () => {
    const { registers } = await start()
    for (const queue of [0, 1, 31, 32, 0xffff, 0x8001_0000, 0xffff_ffff]) registers.write(MMIO_QUEUE_NOTIFY, 4, queue)
    expect(registers.read(MMIO_STATUS, 4)).toBe(0)
  })
})

describe('the interrupts of a device in a worker', () => {
  it('are told of once, and again where an acknowledgement leaves the line up', async () => {
    const worker = await live()
    const { registers } = worker
    let told = 0
    worker.listen(() => void told++)
    expect([told, registers.read(MMIO_INTERRUPT_STATUS, 4)]).toEqual([1, 0])
    latest.postMessage('unplug')
    await expect.poll(() => told).toBe(2)
    expect(registers.read(MMIO_INTERRUPT_STATUS, 4)).toBe(INTERRUPT_CONFIGURATION)
    // What else happened while it was up would be told of by nothing but the level.
    registers.write(MMIO_INTERRUPT_ACK, 4, INTERRUPT_USED_BUFFER)
    await expect.poll(() => told).toBe(3)
    registers.write(MMIO_INTERRUPT_ACK, 4, INTERRUPT_CONFIGURATION)
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect([told, registers.read(MMIO_INTERRUPT_STATUS, 4)]).toEqual([3, 0])
  })

  it('bring a status that is newer than they are, however often it was read before', async () => {
    const worker = await live()
    const { registers } = worker
    let seen = 0
    const unlisten = worker.listen(() => {
      if (registers.read(MMIO_INTERRUPT_STATUS, 4) !== 0) seen = registers.read(MMIO_STATUS, 4)
    })
    // What is known of the status does for as long as the clock stands still.
    const clock = vi.spyOn(performance, 'now').mockReturnValue(performance.now())
    expect(registers.read(MMIO_STATUS, 4)).toBe(known | STATUS_DRIVER_OK)
    latest.postMessage('fail')
    for (let turns = 0; seen === 0 && turns < 1000; turns++) {
      expect(registers.read(MMIO_STATUS, 4) & (known | STATUS_DRIVER_OK)).toBe(known | STATUS_DRIVER_OK)
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    clock.mockRestore()
    unlisten()
    expect(seen).toBe(known | STATUS_DRIVER_OK | STATUS_DEVICE_NEEDS_RESET)
    registers.write(MMIO_STATUS, 4, 0)
    expect(registers.read(MMIO_STATUS, 4)).toBe(0)
  })
})

describe('a worker that is never idle', () => {
  it('answers registers all the same, and hears of messages, timers and what stores answer', async () => {
    const worker = await live('busy')
    let told = 0
    worker.listen(() => void told++)
    expect(worker.registers.read(MMIO_DEVICE_ID, 4)).toBe(DEVICE_ID_NET)
    latest.postMessage('unplug')
    await expect.poll(() => told).toBe(2)
  })
})

describe('what a worker is given', () => {
  it('is all of its buffers or a part of them, and which of the two is told', async () => {
    const [pool, half] = [shared(), shared()]
    expect((await start({ windows: whole(pool) })).enforcedBy).toBe('construction')
    const parts = [
      { base: 0x9000, length: 0x8000, region: half, offset: 0x8000 },
      { base: 0x1000, length: 0x8000, region: half },
    ]
    expect((await start({ windows: parts })).enforcedBy).toBe('construction')
    expect((await start({ windows: parts.slice(1) })).enforcedBy).toBe('peer')
    expect((await start({ windows: parts.slice(0, 1) })).enforcedBy).toBe('peer')
  })

  const refused = (options: Partial<DeviceWorkerOptions>): Promise<unknown> => start(options).catch((e: unknown) => e)
  const plain = new GuestMemory([{ base: 0x1000, length: 4096, memory: new ArrayBuffer(4096) }])

  it.each([
    ['memory that cannot be shared', { windows: everything(plain).windows }, 'WORKER_MEMORY', /no SharedArrayBuffer/],
    ['windows that overlap', { windows: [...whole(shared()), ...whole(shared())] }, 'WINDOW_OVERLAP', /overlap/],
    ['what cannot be sent', { config: () => {} }, 'WORKER_OPTION', /config cannot be sent/],
    ['a deadline that is none', { deadlineMs: Infinity }, 'WORKER_OPTION', /deadlineMs/],
    [
      'a type that the script does not make',
      { type: 'gpu' },
      'WORKER_FAILED',
      /'gpu'; it makes: blk, net, odd, busy, probe, broken/,
    ],
    ['a name that every object has', { type: 'toString' }, 'WORKER_FAILED', /no device of type 'toString'/],
    ['a device that cannot be made', { type: 'broken' }, 'WORKER_FAILED', /no such file/],
    [
      'a script that is not there',
      { spawn: () => new Worker(new URL('./nowhere.ts', import.meta.url)) },
      'WORKER_FAILED',
      /nowhere/,
    ],
    ['a thread that ends at once', { spawn: () => new Worker('', { eval: true }) }, 'WORKER_ENDED', /code 0/],
  ])('%s is refused with what is wrong', async (_what, options, code, message) => {
    const error = await refused(options)
    expect(error).toBeInstanceOf(DeviceError)
    expect(error).toMatchObject({ code })
    expect((error as Error).message).toMatch(message)
  })

  it('a thread that is no worker serves nothing', () => {
    expect(thrown(() => serveDevice(null, {}))).toBe('WORKER_OPTION')
  })
})

describe('the translations of a device in a worker', { timeout: 30_000 }, () => {
  it('are as many as its IOMMU keeps, and a restart brings all of them back', async () => {
    const ram = new GuestMemory([{ base: 0x8000_0000, length: 1 << 16, memory: new SharedArrayBuffer(1 << 16) }])
    const { windows } = everything(ram)
    const worker = await start({ type: 'probe', windows, translated: true })
    const pages = 5000
    const port = new PagePort('far', ram, 8, worker.translations)
    port.pages.set([0x8000_0000, pages * 8])
    const ask = async (address: number): Promise<number> => {
      latest.postMessage(address)
      return new Promise((resolve) => {
        const hear = (message: { readonly granted?: number }): void => {
          if (message.granted === undefined) return
          latest.off('message', hear)
          resolve(message.granted)
        }
        latest.on('message', hear)
      })
    }
    expect(await ask(0x8000_0000)).toBe(0)
    await expect.poll(() => port.faults.count).toBe(1)
    port.share()
    for (const page of [0, 1, 1023, 1024, 4999]) expect(await ask(0x8000_0000 + page * 8)).toBe(8)
    expect(await ask(0x8000_0000 + pages * 8)).toBe(0)
    await worker.restart()
    for (const page of [0, 1, 1023, 1024, 4999]) expect(await ask(0x8000_0000 + page * 8)).toBe(8)
    port.unshare()
    expect([port.settle(), await ask(0x8000_0000)]).toEqual([true, 0])
    expect(worker.enforcedBy).toBe('trusted-code')
  })

  it('are waited for until the worker is between two accesses, and a worker that never is counts as lost', async () => {
    const ram = new GuestMemory([{ base: 0x8000_0000, length: 1 << 16, memory: new SharedArrayBuffer(1 << 16) }])
    const worker = await start({ type: 'probe', windows: everything(ram).windows, translated: true, deadlineMs: 200 })
    const port = new PagePort('far', ram, 4096, worker.translations)
    port.pages.set([0x8000_0000, 4096])
    for (let round = 0; round < 50; round++) {
      port.share()
      port.unshare()
      expect(port.settle()).toBe(true)
    }
    let told = 0
    worker.listen(() => void told++)
    // A doorbell of the queue that this device hangs in.
    worker.registers.write(MMIO_QUEUE_NOTIFY, 4, 1)
    await new Promise((resolve) => setTimeout(resolve, 20))
    port.share()
    port.unshare()
    expect([port.settle(), told]).toEqual([false, 2])
    expect(thrown(() => worker.registers.read(MMIO_STATUS, 4))).toBe('WORKER_DEADLINE')
    await worker.close()
    expect(port.settle()).toBe(true)
  })
})

describe('the end of a worker', () => {
  it('by its owner: its loop confirms it, and every access throws', async () => {
    const worker = await start()
    worker.registers.write(MMIO_STATUS, 4, STATUS_ACKNOWLEDGE)
    expect(worker.detach()).toBe(true)
    expect(thrown(() => worker.registers.read(MMIO_STATUS, 4))).toBe('WORKER_ENDED')
    expect(thrown(() => worker.registers.write(MMIO_QUEUE_NOTIFY, 4, 0))).toBe('WORKER_ENDED')
    expect(worker.detach()).toBe(true)
  })

  it('by somebody else: who listens is told, and every access throws', async () => {
    const worker = await start()
    let told = 0
    const unlisten = worker.listen(() => void told++)
    expect(told).toBe(1)
    await latest.terminate()
    await expect.poll(() => told).toBe(2)
    expect(thrown(() => worker.registers.read(MMIO_STATUS, 4))).toBe('WORKER_ENDED')
    expect(worker.detach()).toBe(true)
    unlisten()
  })

  it('a restart makes it anew, as after a reset, behind the same registers', async () => {
    const worker = await start()
    const { registers } = worker
    for (let round = 0; round < 3; round++) {
      registers.write(MMIO_STATUS, 4, STATUS_ACKNOWLEDGE)
      if (round === 1) await latest.terminate()
      await worker.restart()
      expect(registers.read(MMIO_STATUS, 4)).toBe(0)
      expect(registers.read(MMIO_DEVICE_ID, 4)).toBe(DEVICE_ID_BLOCK)
    }
  })

  it('a reset of the machine resets registers and device, and leaves the worker', async () => {
    const worker = await live()
    worker.registers.write(MMIO_QUEUE_SEL, 4, 9)
    const before = latest
    worker.reset()
    expect(worker.registers.read(MMIO_STATUS, 4)).toBe(0)
    expect([worker.registers.read(MMIO_QUEUE_SIZE_MAX, 4), latest === before]).toEqual([256, true])
    expect(worker.detach()).toBe(true)
    expect(thrown(() => worker.reset())).toBe('WORKER_ENDED')
  })

  it('restarts that are asked for at the same time follow each other, and leave one worker', async () => {
    let spawned = 0
    let ended = 0
    const spawn = (): Worker => {
      spawned++
      return new Worker(SCRIPT).on('exit', () => void ended++)
    }
    const worker = await start({ spawn })
    await Promise.all([worker.restart(), worker.restart()])
    expect(worker.registers.read(MMIO_DEVICE_ID, 4)).toBe(DEVICE_ID_BLOCK)
    await expect.poll(() => [spawned, ended]).toEqual([3, 2])
  })

  it('may be asked for twice', async () => {
    const worker = await start()
    await worker.close()
    await worker.close()
    expect(thrown(() => worker.registers.read(MMIO_STATUS, 4))).toBe('WORKER_ENDED')
  })
})

describe('nonsense in the mailbox', () => {
  it("from the driver's side, at any time, keeps the worker answering or ends it", async () => {
    const worker = await start({ deadlineMs: 200 })
    const { registers } = worker
    let state = 7
    for (let round = 0; round < 20; round++) {
      const words = mailbox
      for (let i = 0; i < 2000; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) | 0
        const word = (state >>> 8) % words.length
        Atomics.store(words, word, state)
        Atomics.notify(words, word)
      }
      const outcome = thrown(() => registers.read(MMIO_MAGIC_VALUE, 4))
      expect(['nothing', 'WORKER_DEADLINE']).toContain(outcome)
      if (outcome !== 'nothing') await worker.restart()
    }
    await worker.restart()
    expect(registers.read(MMIO_MAGIC_VALUE, 4)).toBe(MMIO_MAGIC)
  })

  it("from the worker's side: an access ends with a value or an error, and who listens is not starved", async () => {
    const worker = await start({ deadlineMs: 50, spawn: () => new Worker(SCRIBBLER) })
    worker.listen(() => {})
    // Timers go on, whatever the interrupt word does.
    await new Promise((resolve) => setTimeout(resolve, 20))
    const outcomes = Array.from({ length: 4 }, () => thrown(() => worker.registers.read(MMIO_MAGIC_VALUE, 4)))
    for (const outcome of outcomes) expect(['nothing', 'WORKER_DEADLINE']).toContain(outcome)
    await worker.close()
    expect(thrown(() => worker.registers.read(MMIO_MAGIC_VALUE, 4))).toMatch(/WORKER_DEADLINE|WORKER_ENDED/)
  })
})
