// Whether the cost model predicts what a scheme costs over a device of another process. Its parameters are measured here
// one by one, and not fitted. A program of its own, run on the built packages by `bench model-check`. Prints a line
// of JSON for each figure.
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type CauseName, modelRow, type Parameters, parametersOf } from '@guestdma/bench'
import { endWithParent } from '@guestdma/bench/program'
import { RequestBatch } from '@guestdma/drivers'
import { guestAddress } from '@guestdma/memory'
import { SharedMemory } from '@guestdma/node'
import { startStorageDaemon, startTestpmd } from '@guestdma/peers'
import { BLK_T_IN } from '@guestdma/spec'
import { DPDK_IOTLB, iotlbScheme, type VhostUserOptions, VhostUserTransport } from '@guestdma/vhost-user'
import { directScheme, FrameBatch, type Machine } from 'guestdma'
import { bookkeeping, clearPrice, copyPrice, iotlbPrices, wakePrice } from './model-prices.ts'
import {
  BLK,
  MAC,
  median,
  NET,
  POOL_BYTES,
  POOL_DEVICE,
  peerMachine,
  poolScheme,
  RAM,
  RAM_BYTES,
  WAIT,
} from './peer-machine.ts'

/** What a scheme costs over `direct`, in one kind of work with one peer: measured, and as the model has it. */
export interface ModelCheckFigure {
  readonly peer: string
  readonly work: string
  readonly backend: string
  /** Nanoseconds of one operation with `direct`. */
  readonly direct: number
  /** Nanoseconds of one operation that the scheme takes more, and how many times as long it takes: medians of rounds. */
  readonly measured: number
  readonly ratio: number
  /** Nanoseconds more as the model has it, by cause, and what these add up to. */
  readonly causes: Readonly<Partial<Record<CauseName, number>>>
  readonly modelled: number
  /** What our own code takes for its mappings beside what is counted. The model does not know of it. */
  readonly code: number
  /** How much more an operation is counted to do than with `direct`. */
  readonly counters: Readonly<Record<string, number>>
  /** Measured here, each by itself. */
  readonly parameters: Readonly<Partial<Parameters>>
}

const ROUNDS = 7
const WARM_MS = 150
const MS = 400
const WINDOW_MS = 5
/** Causes whose counters are there and whose parameters are measured here. */
const CAUSES = ['copies', 'clears', 'doorbells', 'iommuRequests', 'iommuWaits'] as const

type SchemeName = 'direct' | 'shared-pool' | 'vhost-iotlb'

interface Opened {
  readonly machine: Machine
  close(): Promise<void>
}

interface Job {
  readonly peer: string
  readonly path: string
  readonly work: string
  readonly device: Omit<VhostUserOptions, 'memory' | 'iotlb' | 'wait'>
  readonly mode: 'map' | 'pool'
  readonly schemes: readonly Exclude<SchemeName, 'direct'>[]
  /** Bytes that are copied at once, where some are. */
  readonly bytes: number
  /** Makes what does some of the work and returns how much was done. */
  prepare(machine: Machine): () => number
}

async function open(job: Job, name: SchemeName): Promise<Opened> {
  const pool = name === 'shared-pool'
  const memory = SharedMemory.create(name, pool ? POOL_BYTES : RAM_BYTES)
  const transport = VhostUserTransport.connect(job.path, {
    ...job.device,
    memory: [{ memory, device: pool ? POOL_DEVICE : RAM }],
    iotlb: name === 'vhost-iotlb',
    wait: WAIT,
  })
  const scheme = pool
    ? poolScheme(memory)
    : name === 'direct'
      ? directScheme()
      : iotlbScheme(transport, { domain: DPDK_IOTLB })
  const { mode } = job
  const machine = await peerMachine({ transport, memory: pool ? null : memory.buffer, scheme, mode })
  return {
    machine,
    close: async () => {
      await machine.close()
      transport.close()
      memory.close()
    },
  }
}

/** Nanoseconds of one operation in a quick window, and what one counts. */
interface Measured {
  readonly ns: number
  readonly counters: Readonly<Record<string, number>>
}

async function measure(job: Job, name: SchemeName): Promise<Measured> {
  const { machine, close } = await open(job, name)
  const work = job.prepare(machine)
  for (const end = performance.now() + WARM_MS; performance.now() < end; ) work()
  const before = countersOf(machine)
  const windows: number[] = []
  let total = 0
  const begin = performance.now()
  for (let from = begin; from - begin < MS; ) {
    let done = 0
    let now = from
    while (now - from < WINDOW_MS) {
      done += work()
      now = performance.now()
    }
    windows.push(((now - from) * 1e6) / done)
    total += done
    from = now
  }
  const after = countersOf(machine)
  await close()
  const counters = Object.entries(after).map(([counter, value]) => [counter, (value - before[counter]) / total])
  // A machine is only ever slowed down; the very fastest windows had an end of another one's work.
  const ns = windows.sort((a, b) => a - b)[Math.floor(windows.length / 10)]
  return { ns, counters: Object.fromEntries(counters) }
}

function countersOf(machine: Machine): Record<string, number> {
  const { backend, queues } = machine.counters().devices.dev0
  return { ...backend, notified: Object.values(queues).reduce((sum, { notified }) => sum + notified, 0) }
}

async function check(job: Job, prices: Partial<Parameters>): Promise<void> {
  const parameters = { ...parametersOf('memslot'), vmExit: 0, ...prices }
  const names = ['direct', ...job.schemes] as const
  const rounds: Record<string, Measured[]> = Object.fromEntries(names.map((name) => [name, []]))
  for (let round = 0; round < ROUNDS; round++) for (const name of names) rounds[name].push(await measure(job, name))
  const rowOf = (backend: SchemeName): Readonly<Record<string, number>> => {
    const all = rounds[backend].map(({ counters }) => counters)
    return Object.fromEntries(Object.keys(all[0]).map((name) => [name, median(all.map((one) => one[name]))]))
  }
  const modelled = (backend: SchemeName): ReturnType<typeof modelRow> => {
    const { work: operation, mode, bytes } = job
    return modelRow({ driver: 'dev0', operation, backend, mode, bytes, batch: 1, counters: rowOf(backend) }, parameters)
  }
  const base = modelled('direct')
  for (const backend of job.schemes) {
    const row = modelled(backend)
    const causes = CAUSES.map((cause) => [cause, (row[cause] ?? 0) - (base[cause] ?? 0)] as const)
    const counted = rowOf(backend)
    const counters = Object.entries(counted).map(([name, value]) => [name, value - (rowOf('direct')[name] ?? 0)])
    const figure: ModelCheckFigure = {
      peer: job.peer,
      work: job.work,
      backend,
      direct: median(rounds.direct.map(({ ns }) => ns)),
      measured: median(rounds[backend].map(({ ns }, i) => ns - rounds.direct[i].ns)),
      ratio: median(rounds[backend].map(({ ns }, i) => ns / rounds.direct[i].ns)),
      causes: Object.fromEntries(causes),
      modelled: causes.reduce((sum, [, ns]) => sum + ns, 0),
      code: counted.maps * (bookkeeping(backend) - bookkeeping('direct')),
      counters: Object.fromEntries(counters.filter(([, value]) => value !== 0)),
      parameters: prices,
    }
    process.stdout.write(`${JSON.stringify(figure)}\n`)
  }
}

const FRAME = 64
const HEADER = 12
const BATCH = 32
const STRIDE = 2048

/** Frames go out in batches, as many as the peer takes, and come back with their addresses exchanged. */
function exchange(mode: 'map' | 'pool'): (machine: Machine) => () => number {
  return (machine) => {
    const net = machine.net('dev0')
    const { counters } = net
    const batch = new FrameBatch(BATCH)
    batch.length.fill(FRAME)
    const header = [2, 0, 0, 0, 0, 9, ...MAC, 0x88, 0xb5]
    if (mode === 'pool') {
      const all: number[] = []
      for (let buffer = net.acquire(); buffer >= 0; buffer = net.acquire()) all.push(buffer)
      for (const buffer of all) net.bufferRegion.u8.set(header, net.bufferOffset(buffer))
      for (const buffer of all) net.release(buffer)
      return () => {
        const before = counters.framesReceived
        let count = 0
        for (let buffer = 0; count < BATCH && buffer >= 0; ) {
          buffer = net.acquire()
          if (buffer >= 0) batch.buffer[count++] = buffer
        }
        batch.count = count
        const sent = net.send(batch)
        for (let i = sent; i < count; i++) net.release(batch.buffer[i])
        net.poll(256)
        return counters.framesReceived - before
      }
    }
    batch.headed = true
    const buffers = 512
    const base = machine.ram.allocate(buffers * STRIDE, 64)
    for (let i = 0; i < buffers; i++) {
      const at = machine.memory.window(guestAddress(base + i * STRIDE + 16), FRAME)
      at.region.u8.set(header, at.offset)
    }
    batch.count = BATCH
    let next = 0
    return () => {
      const before = counters.framesReceived
      for (let i = 0; i < BATCH; i++) batch.address[i] = base + ((next + i) % buffers) * STRIDE + 16
      next = (next + net.send(batch)) % buffers
      net.poll(256)
      return counters.framesReceived - before
    }
  }
}

const READ = 64 << 10

/** One read of 64 KiB at a time. */
function read(machine: Machine): () => number {
  const { queue } = machine.blk('dev0')
  const batch = new RequestBatch(1)
  batch.count = 1
  batch.type[0] = BLK_T_IN
  batch.length[0] = READ
  batch.address[0] = machine.ram.allocate(READ, 4096)
  return () => {
    let left = queue.submit(batch)
    while (left > 0) left -= queue.poll(256)
    return 1
  }
}

endWithParent()
const eventFdWakeup = await wakePrice()
{
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-bench-'))
  const image = join(dir, 'disk.raw')
  writeFileSync(image, '')
  truncateSync(image, 1 << 20)
  const { peer, path } = startStorageDaemon(image)
  const prices = { copyByte: copyPrice(READ), clearByte: clearPrice(READ), eventFdWakeup }
  const job = { peer: 'qemu-storage-daemon', path, device: BLK, mode: 'map', schemes: ['shared-pool'] } as const
  await check({ ...job, work: 'blk reads of 64 KiB, one at a time', bytes: READ, prepare: read }, prices)
  await peer.close()
  rmSync(dir, { recursive: true })
}
{
  const { peer, path } = startTestpmd({ iotlb: true })
  const bytes = HEADER + FRAME
  const prices = {
    copyByte: copyPrice(bytes),
    clearByte: clearPrice(bytes),
    eventFdWakeup,
    ...(await iotlbPrices(path)),
  }
  const job = { peer: 'testpmd', path, device: NET, bytes }
  for (const [mode, schemes] of [
    ['map', ['shared-pool', 'vhost-iotlb']],
    ['pool', ['vhost-iotlb']],
  ] as const)
    await check({ ...job, mode, schemes, work: `net 64 B, ${mode} buffers`, prepare: exchange(mode) }, prices)
  await peer.close()
}
process.exit()
