// How many frames go out per second with driver and device on one core, and with the device in a worker on another one.
// A program of its own, run on the built packages by `bench threads`, once for each scheme. Prints a line of JSON for
// each figure.
import { Worker } from 'node:worker_threads'
import { endWithParent, turn } from '@guestdma/bench/program'
import { type BusWindow, everything } from '@guestdma/devices'
import { DeviceWorker } from '@guestdma/devices/worker'
import type { DmaScheme, PoolFact } from '@guestdma/dma'
import { type DeviceAddress, GuestMemory, Region } from '@guestdma/memory'
import { MmioTransport } from '@guestdma/transport'
import {
  createMachine,
  type DeviceConfig,
  directScheme,
  FrameBatch,
  type Machine,
  onDeviceScheme,
  sharedPoolScheme,
} from 'guestdma'
import { countingDevice } from './threads-link.ts'

/** Frames per second: the best of some rounds, since a machine is only ever slowed down. */
export interface ThreadFigure {
  readonly scheme: string
  readonly format: 'split' | 'packed'
  readonly oneCore: number
  readonly twoCores: number
}

const RAM = 0x8000_0000
const RAM_BYTES = 16 << 20
const POOL_BYTES = 4 << 20
const POOL_DEVICE = 0x4000_0000
const FRAME = 64
const BATCH = 32
const BUDGET = 64
const STRIDE = 2048
const HEADROOM = 16
const BUFFERS = 256
const ROUNDS = 5
const WARM_MS = 300
const MS = 400

interface Open {
  readonly machine: Machine
  close(): Promise<void>
}

function schemeOf(id: string, memory: GuestMemory): { scheme: DmaScheme; windows: readonly BusWindow[] } {
  if (id === 'direct') return { scheme: directScheme(), windows: everything(memory).windows }
  const window = { region: new Region(new SharedArrayBuffer(POOL_BYTES), 'pool'), offset: 0, length: POOL_BYTES }
  const home = id === 'on-device' ? 'device-memory' : 'guest-ram'
  const pool = (): PoolFact => ({ window, device: POOL_DEVICE as DeviceAddress, home })
  const scheme =
    id === 'on-device' ? onDeviceScheme({ memory: pool, bit: 'absent' }) : sharedPoolScheme({ memory: pool })
  return { scheme, windows: [{ base: POOL_DEVICE, ...window }] }
}

async function open(id: string, packed: boolean, threads: 1 | 2): Promise<Open> {
  const memory = new GuestMemory([{ base: RAM, length: RAM_BYTES, memory: new SharedArrayBuffer(RAM_BYTES) }])
  const { scheme, windows } = schemeOf(id, memory)
  const machineWith = (device: DeviceConfig): Promise<Machine> =>
    createMachine({ memory, schemes: [scheme], devices: [device] })
  if (threads === 1) {
    const device = countingDevice({ packed })
    const machine = await machineWith({ type: 'net', name: 'net0', device, interrupts: false })
    return { machine, close: () => machine.close() }
  }
  const spawn = (): Worker => new Worker(new URL('./threads-device.js', import.meta.url))
  const worker = await DeviceWorker.start({ name: 'net0', type: 'net', config: { packed }, windows, spawn })
  const transport = MmioTransport.probe(worker.registers, 'net0')
  if (transport === null) throw new Error('no device')
  const { enforcedBy, detach } = worker
  const machine = await machineWith({ type: 'net', name: 'net0', transport, enforcedBy, detach, interrupts: false })
  return { machine, close: () => machine.close().finally(() => worker.close()) }
}

/** Sends batches for a while. Returns how many frames per second the device gave back. */
function rate({ machine }: Open, threads: 1 | 2): (milliseconds: number) => number {
  const net = machine.net('net0')
  const device = threads === 1 ? machine.netModel('net0') : null
  const { counters } = net.session.queues[1]
  const batch = new FrameBatch(BATCH)
  batch.count = BATCH
  batch.length.fill(FRAME)
  batch.headed = true
  const base = machine.ram.allocate(BUFFERS * STRIDE, 64)
  let next = 0
  const turns = (count: number): void => {
    for (let turn = 0; turn < count; turn++) {
      for (let i = 0; i < BATCH; i++) batch.address[i] = base + (((next + i) % BUFFERS) * STRIDE + HEADROOM)
      next = (next + net.send(batch)) % BUFFERS
      device?.poll(BUDGET)
      net.poll(BUDGET)
    }
  }
  return (milliseconds) => {
    const before = counters.completed
    const begin = performance.now()
    do turns(256)
    while (performance.now() - begin < milliseconds)
    return ((counters.completed - before) * 1000) / (performance.now() - begin)
  }
}

endWithParent()
const [, , scheme] = process.argv
for (const format of ['split', 'packed'] as const) {
  const best = [0, 0]
  for (let round = 0; round < ROUNDS; round++) {
    for (const threads of [1, 2] as const) {
      const opened = await open(scheme, format === 'packed', threads)
      const measure = rate(opened, threads)
      measure(WARM_MS)
      best[threads - 1] = Math.max(best[threads - 1], measure(MS))
      await opened.close()
      await turn()
    }
  }
  const figure: ThreadFigure = { scheme, format, oneCore: best[0], twoCores: best[1] }
  process.stdout.write(`${JSON.stringify(figure)}\n`)
}
process.exit()
