// Whether the cost model predicts what a scheme costs over a device of another process. Its parameters are measured here
// one by one, and not fitted. A program of its own, run on the built packages by `bench model-check`. Prints a line
// of JSON for each figure.
import { type CauseName, modelRow, type Parameters, parametersOf } from '@guestdma/bench'
import { endWithParent } from '@guestdma/bench/program'
import { RequestBatch } from '@guestdma/drivers'
import { guestAddress } from '@guestdma/memory'
import { startTestpmd } from '@guestdma/peers'
import { BLK_T_IN } from '@guestdma/spec'
import { FrameBatch, type Machine } from 'guestdma'
import { bookkeeping, clearPrice, copyPrice, iotlbPrices, wakePrice } from './model-prices.ts'
import { BATCH, ETHERNET, FRAME, HEADER, pooledExchange } from './peer-frames.ts'
import { BLK, median, NET, type PeerDevice, type PeerScheme, peerMachine, withDisk } from './peer-machine.ts'

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

interface Job {
  readonly peer: string
  readonly path: string
  readonly work: string
  readonly device: PeerDevice
  readonly mode: 'map' | 'pool'
  readonly schemes: readonly Exclude<PeerScheme, 'direct'>[]
  /** Bytes that are copied at once, where some are. */
  readonly bytes: number
  /** Makes what does some of the work and returns how much was done. */
  prepare(machine: Machine): () => number
}

/** Nanoseconds of one operation in a quick window, and what one counts. */
interface Measured {
  readonly ns: number
  readonly counters: Readonly<Record<string, number>>
}

async function measure(job: Job, name: PeerScheme): Promise<Measured> {
  const { machine, close } = await peerMachine(job.path, job.device, name, job.mode)
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
  const rowOf = (backend: PeerScheme): Readonly<Record<string, number>> => {
    const all = rounds[backend].map(({ counters }) => counters)
    return Object.fromEntries(Object.keys(all[0]).map((name) => [name, median(all.map((one) => one[name]))]))
  }
  const modelled = (backend: PeerScheme): ReturnType<typeof modelRow> => {
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

const STRIDE = 2048

/** Frames go out in batches of the caller's buffers, as many as the peer takes, and come back with their addresses exchanged. */
function mappedExchange(machine: Machine): () => number {
  const net = machine.net('dev0')
  const { counters } = net
  const batch = new FrameBatch(BATCH)
  batch.length.fill(FRAME)
  batch.headed = true
  const buffers = 512
  const base = machine.ram.allocate(buffers * STRIDE, 64)
  for (let i = 0; i < buffers; i++) {
    const at = machine.memory.window(guestAddress(base + i * STRIDE + 16), FRAME)
    at.region.u8.set(ETHERNET, at.offset)
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
await withDisk(async (path) => {
  const prices = { copyByte: copyPrice(READ), clearByte: clearPrice(READ), eventFdWakeup }
  const job = { peer: 'qemu-storage-daemon', path, device: BLK, mode: 'map', schemes: ['shared-pool'] } as const
  await check({ ...job, work: 'blk reads of 64 KiB, one at a time', bytes: READ, prepare: read }, prices)
})
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
  for (const [mode, schemes, prepare] of [
    ['map', ['shared-pool', 'vhost-iotlb'], mappedExchange],
    ['pool', ['vhost-iotlb'], pooledExchange],
  ] as const)
    await check({ ...job, mode, schemes, work: `net 64 B, ${mode} buffers`, prepare }, prices)
  await peer.close()
}
process.exit()
