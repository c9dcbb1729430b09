// How many frames go out per second, and how long one takes, with driver and device on one core, and with the device in a
// worker on another one; and what the two cores' handshake costs. A program of its own, run on the built packages by
// `bench threads`, once for each scheme. Prints a line of JSON for each figure.
import { Worker } from 'node:worker_threads'
import type { Quantiles, ThreadResult } from '@guestdma/bench'
import { endWithParent, turn } from '@guestdma/bench/program'
import { type BusWindow, everything, type NetDevice } from '@guestdma/devices'
import { DeviceWorker } from '@guestdma/devices/worker'
import type { DmaScheme, PoolFact } from '@guestdma/dma'
import type { NetDriver } from '@guestdma/drivers'
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
import { type Handshake, openHandshake } from './threads-handshake.ts'
import { countingDevice } from './threads-link.ts'

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
/** Single frames, or handshakes, of a round; fewer where they take longer than that. */
const SINGLES = 10_000
const SINGLES_MS = 300

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

/** One device and its driver, and frames to send. */
class Sending {
  private readonly net: NetDriver
  private readonly device: NetDevice | null
  private readonly batch = new FrameBatch(BATCH)
  private readonly base: number
  private next = 0

  constructor({ machine }: Open, threads: 1 | 2) {
    this.net = machine.net('net0')
    this.device = threads === 1 ? machine.netModel('net0') : null
    this.batch.length.fill(FRAME)
    this.batch.headed = true
    this.base = machine.ram.allocate(BUFFERS * STRIDE, 64)
  }

  private get completed(): number {
    return this.net.session.queues[1].counters.completed
  }

  /** Sends batches for a while. Returns how many frames per second the device gave back. */
  rate(milliseconds: number): number {
    this.batch.count = BATCH
    const before = this.completed
    const begin = performance.now()
    do for (let turn = 0; turn < 256; turn++) this.turn()
    while (performance.now() - begin < milliseconds)
    return ((this.completed - before) * 1000) / (performance.now() - begin)
  }

  /** Sends single frames, each when the one before is completed. Adds the nanoseconds of each to `samples`. */
  latency(samples: number[]): void {
    while (this.net.session.queues[1].outstanding > 0) this.poll()
    this.batch.count = 1
    const single = (): void => {
      const target = this.completed + 1
      this.turn()
      while (this.completed < target) this.poll()
    }
    timeEach(single, samples)
  }

  private turn(): void {
    const { batch, base } = this
    for (let i = 0; i < batch.count; i++) batch.address[i] = base + (((this.next + i) % BUFFERS) * STRIDE + HEADROOM)
    this.next = (this.next + this.net.send(batch)) % BUFFERS
    this.poll()
  }

  private poll(): void {
    this.device?.poll(BUDGET)
    this.net.poll(BUDGET)
  }
}

/** Adds the nanoseconds of each call to `samples`, the clock's own included. */
function timeEach(call: () => void, samples: number[]): void {
  const taken = new Float64Array(SINGLES)
  for (const warm = performance.now() + WARM_MS; performance.now() < warm; ) call()
  const end = performance.now() + SINGLES_MS
  let count = 0
  for (let before = performance.now(); count < SINGLES && before < end; ) {
    call()
    const now = performance.now()
    taken[count++] = (now - before) * 1e6
    before = now
  }
  for (let i = 0; i < count; i++) samples.push(taken[i])
}

function quantiles(samples: readonly number[]): Quantiles {
  const sorted = [...samples].sort((a, b) => a - b)
  const at = (q: number): number => Math.round(sorted[Math.floor(q * (sorted.length - 1))])
  return { median: at(0.5), p05: at(0.05), p95: at(0.95) }
}

async function handshakes(): Promise<Pick<ThreadResult, 'handshake' | 'handshakeAsleep'>> {
  const measure = async (asleep: boolean): Promise<Quantiles> => {
    const samples: number[] = []
    const handshake: Handshake = await openHandshake(asleep)
    timeEach(() => handshake.round(), samples)
    await handshake.close()
    return quantiles(samples)
  }
  return { handshake: await measure(false), handshakeAsleep: await measure(true) }
}

endWithParent()
const [, , scheme] = process.argv
const prices = await handshakes()
for (const ring of ['split', 'packed'] as const) {
  const best = [0, 0]
  const singles: [number[], number[]] = [[], []]
  for (let round = 0; round < ROUNDS; round++) {
    for (const threads of [1, 2] as const) {
      const opened = await open(scheme, ring === 'packed', threads)
      const sending = new Sending(opened, threads)
      sending.rate(WARM_MS)
      best[threads - 1] = Math.max(best[threads - 1], sending.rate(MS))
      sending.latency(singles[threads - 1])
      await opened.close()
      await turn()
    }
  }
  const [oneCore, twoCores] = best
  const [latencyOneCore, latencyTwoCores] = singles.map(quantiles)
  const result: ThreadResult = {
    backend: scheme,
    ring,
    bytes: FRAME,
    batch: BATCH,
    oneCore,
    twoCores,
    latencyOneCore,
    latencyTwoCores,
    ...prices,
  }
  process.stdout.write(`${JSON.stringify(result)}\n`)
}
process.exit()
