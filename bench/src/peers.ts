// How fast devices of other processes are driven, beside the bare ring on the same kind of connection. A program of its
// own, run on the built packages by `bench peers`. Prints a line of JSON for each figure.
import { endWithParent } from '@guestdma/bench/program'
import { RequestBatch } from '@guestdma/drivers'
import { guestAddress } from '@guestdma/memory'
import { startTestpmd } from '@guestdma/peers'
import {
  BLK_T_IN,
  FeatureSet,
  STATUS_ACKNOWLEDGE,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FEATURES_OK,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import type { VhostUserTransport } from '@guestdma/vhost-user'
import { BARE_BYTES, BareRing } from './bare-ring.ts'
import { BATCH, ETHERNET, FRAME, HEADER, pooledExchange } from './peer-frames.ts'
import {
  BLK,
  type Connection,
  connect,
  median,
  NET,
  type PeerDevice,
  POOL_DEVICE,
  peerMachine,
  withDisk,
} from './peer-machine.ts'

/** Requests or frames per second: of the driver, of the bare ring, and the median of their ratios round by round. */
export interface PeerFigure {
  readonly peer: string
  readonly work: string
  readonly backend: string
  readonly bare: number
  readonly driver: number
  readonly ratio: number
}

const ROUNDS = 7
const WARM_MS = 150
const MS = 400

/** One way to do the work: does some of it, and returns how much. */
type Work = () => number | Promise<number>

async function rate(work: Work): Promise<number> {
  for (const end = performance.now() + WARM_MS; performance.now() < end; ) await work()
  const begin = performance.now()
  let done = 0
  while (performance.now() - begin < MS) done += await work()
  return (done * 1000) / (performance.now() - begin)
}

/** Opens a way to work and closes it again; both ways take turns, so that a machine that slows down slows both. */
type Way = () => Promise<{ readonly work: Work; close(): Promise<void> | void }>

async function compare(peer: string, work: string, backend: string, bare: Way, driver: Way): Promise<void> {
  const rates: [number[], number[]] = [[], []]
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, way] of [bare, driver].entries()) {
      const opened = await way()
      rates[i].push(await rate(opened.work))
      await opened.close()
    }
  }
  const ratio = median(rates[1].map((value, i) => value / rates[0][i]))
  const figure: PeerFigure = { peer, work, backend, bare: median(rates[0]), driver: median(rates[1]), ratio }
  process.stdout.write(`${JSON.stringify(figure)}\n`)
}

/** A connection for the bare ring: features and status by hand. */
function connectBare(path: string, device: PeerDevice): Connection {
  const connection = connect(path, device, { bytes: BARE_BYTES, at: POOL_DEVICE, iotlb: false })
  const { transport } = connection
  const known = STATUS_ACKNOWLEDGE | STATUS_DRIVER
  transport.writeStatus(0)
  transport.writeStatus(known)
  transport.writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1))
  transport.writeStatus(known | STATUS_FEATURES_OK)
  const close = (): void => {
    transport.writeStatus(0)
    connection.close()
  }
  return { ...connection, close }
}

function start(transport: VhostUserTransport, rings: readonly BareRing[]): void {
  for (const [i, { size, areas }] of rings.entries())
    transport.enableQueue(i, size, areas as Parameters<VhostUserTransport['enableQueue']>[2])
  transport.writeStatus(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK)
}

const SECTOR = 512

/** Reads of one sector each: by promises, as most users ask for them, and by the synchronous core below. */
async function blk(path: string, depth: number): Promise<void> {
  const bare: Way = async () => {
    const { memory, transport, close } = connectBare(path, BLK)
    const ring = new BareRing(memory.buffer, 0, POOL_DEVICE)
    for (let i = 0; i < depth; i++) {
      const cell = ring.free + i * 1024
      ring.describe(3 * i, POOL_DEVICE + cell, 16, 1, 3 * i + 1)
      ring.describe(3 * i + 1, POOL_DEVICE + cell + 512, SECTOR, 3, 3 * i + 2)
      ring.describe(3 * i + 2, POOL_DEVICE + cell + 16, 1, 2, 0)
    }
    start(transport, [ring])
    const work = (): number => {
      ring.offer(depth, 3, depth)
      if (ring.wantsDoorbell) transport.notify(0, 0)
      while (ring.done !== ring.offered);
      return depth
    }
    return { work, close }
  }
  const driver =
    (synchronous: boolean): Way =>
    async () => {
      const { machine, close } = await peerMachine(path, BLK, 'shared-pool', 'map')
      const disk = machine.blk('dev0')
      const buffers = Array.from({ length: depth }, () => guestAddress(machine.ram.allocate(SECTOR, SECTOR)))
      const promises = async (): Promise<number> => {
        let left = depth
        for (const buffer of buffers) void disk.read(0, buffer, SECTOR).then(() => left--)
        while (left > 0) {
          if (disk.poll(256) > 0) await undefined
        }
        return depth
      }
      const batch = new RequestBatch(depth)
      batch.count = depth
      batch.type.fill(BLK_T_IN)
      batch.length.fill(SECTOR)
      batch.address.set(buffers)
      const core = (): number => {
        let left = disk.queue.submit(batch)
        while (left > 0) left -= disk.queue.poll(256)
        return depth
      }
      return { work: synchronous ? core : promises, close }
    }
  const work = `blk 512 B reads, depth ${depth}`
  await compare('qemu-storage-daemon', `${work}, promises`, 'shared-pool', bare, driver(false))
  await compare('qemu-storage-daemon', `${work}, synchronous core`, 'shared-pool', bare, driver(true))
}

const [RECEIVE, TRANSMIT] = [0, 1]

async function net(iotlb: boolean): Promise<void> {
  const { peer, path } = startTestpmd({ iotlb })
  const bare: Way = async () => {
    const { memory, transport, close } = connectBare(path, NET)
    const rings = [0, BARE_BYTES / 2].map((at) => new BareRing(memory.buffer, at, POOL_DEVICE))
    const bytes = new Uint8Array(memory.buffer)
    for (const [side, ring] of rings.entries()) {
      const stride = side === RECEIVE ? 1536 : 128
      for (let i = 0; i < ring.size; i++) {
        const at = ring.free + i * stride
        if (side === TRANSMIT) bytes.set(ETHERNET, at + HEADER)
        ring.describe(i, POOL_DEVICE + at, side === RECEIVE ? stride : HEADER + FRAME, side === RECEIVE ? 2 : 0, 0)
      }
    }
    start(transport, rings)
    const [receive, transmit] = rings
    receive.offer(receive.size, 1, receive.size)
    transport.notify(RECEIVE, 0)
    let taken = 0
    const work = (): number => {
      transmit.offer(BATCH, 1, transmit.size)
      if (transmit.wantsDoorbell) transport.notify(TRANSMIT, 0)
      while (((transmit.offered - transmit.done) & 0xffff) > 2 * BATCH);
      const came = (receive.done - taken) & 0xffff
      taken = (taken + came) & 0xffff
      if (came > 0) receive.offer(came, 1, receive.size)
      if (came > 0 && receive.wantsDoorbell) transport.notify(RECEIVE, 0)
      return came
    }
    return { work, close }
  }
  const backend = iotlb ? 'vhost-iotlb' : 'shared-pool'
  const driver: Way = async () => {
    const { machine, close } = await peerMachine(path, NET, backend, 'pool')
    return { work: pooledExchange(machine), close }
  }
  await compare('testpmd', 'net 64 B, macswap', `${backend}, pool buffers`, bare, driver)
  await peer.close()
}

endWithParent()
for (const depth of [1, 32]) await withDisk((path) => blk(path, depth))
await net(false)
await net(true)
process.exit()
