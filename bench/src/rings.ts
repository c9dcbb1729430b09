// What features of a ring cost: IN_ORDER, indirect tables, and the barriers of a round trip without batches. A program of
// its own, run on the built packages by `bench rings`, a process for each ring and kind of work. Prints a line of JSON for
// each figure.
import { endWithParent } from '@guestdma/bench/program'
import type { Frames } from '@guestdma/devices'
import { RequestBatch } from '@guestdma/drivers'
import { Region } from '@guestdma/memory'
import { BLK_T_OUT, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { createMachine, directScheme, FrameBatch, type Machine, MemoryBlockStore } from 'guestdma'
import { fastest } from './scale-measure.ts'

/** Nanoseconds for one operation with a feature, and without it. */
export interface RingFigure {
  readonly ring: 'split' | 'packed'
  /** `in-order`, `indirect`: frames or requests with the feature. `barriers`: a round trip of one frame, and its barriers alone. */
  readonly feature: 'in-order' | 'indirect' | 'barriers'
  readonly with: number
  readonly without: number
}

const BASE = 0x8000_0000
const RAM = 16 << 20
const BATCH = 32
const FRAME = 64
const SECTOR = 512
const HEADROOM = 16
const STRIDE = 2048
const BUDGET = 64
/** Both are measured in turns, so that a slow minute hits both. */
const TURNS = 5

const [, , ringName, feature] = process.argv as unknown as [string, string, RingFigure['ring'], RingFigure['feature']]
const format = ringName === 'packed' ? [VIRTIO_F_RING_PACKED] : []

async function netMachine(inOrder: boolean): Promise<Machine> {
  const link = { transmit: ({ count }: Frames): number => count }
  const offer = [...format, ...(inOrder ? [VIRTIO_F_IN_ORDER] : [])]
  return createMachine({
    memory: [{ base: BASE, length: RAM, memory: new ArrayBuffer(RAM) }],
    schemes: [directScheme()],
    devices: [{ type: 'net', name: 'net0', device: { mac: [2, 0, 0, 0, 0, 1], link, offer, inOrderBatches: inOrder } }],
  })
}

/** Sends batches of frames. */
function frames(machine: Machine, size: number): () => void {
  const net = machine.net('net0')
  const device = machine.netModel('net0')
  const batch = new FrameBatch(size)
  batch.count = size
  batch.headed = true
  batch.length.fill(FRAME)
  const base = machine.ram.allocate(size * STRIDE, 64)
  for (let i = 0; i < size; i++) batch.address[i] = base + i * STRIDE + HEADROOM
  return () => {
    net.send(batch)
    device.poll(BUDGET)
    net.poll(BUDGET)
  }
}

/** Writes to a disk, in chains of three descriptors. */
async function requests(indirect: boolean): Promise<() => void> {
  const store = new MemoryBlockStore(new Uint8Array(1 << 20))
  const machine = await createMachine({
    memory: [{ base: BASE, length: RAM, memory: new ArrayBuffer(RAM) }],
    schemes: [directScheme()],
    devices: [
      {
        type: 'blk',
        name: 'disk0',
        device: { store, offer: format },
        ...(indirect ? {} : { decline: [VIRTIO_F_INDIRECT_DESC] }),
      },
    ],
  })
  const { queue } = machine.blk('disk0')
  const device = machine.blkModel('disk0')
  const batch = new RequestBatch(BATCH)
  batch.count = BATCH
  batch.type.fill(BLK_T_OUT)
  batch.length.fill(SECTOR)
  const base = machine.ram.allocate(BATCH * SECTOR, SECTOR)
  for (let i = 0; i < BATCH; i++) {
    batch.address[i] = base + i * SECTOR
    batch.sector[i] = i
  }
  return () => {
    queue.submit(batch)
    device.poll(BUDGET)
    if (queue.poll(BUDGET) !== BATCH) throw new Error('not all requests completed')
  }
}

/** The barriers of one frame's way there and back: two of each side. */
function barriers(): () => void {
  const region = new Region(new ArrayBuffer(4096), 'barriers')
  return () => {
    for (let i = 0; i < 4; i++) region.storeThenLoad(0, i, region, 64)
  }
}

function inTurns(operations: readonly [number, number], one: () => void, other: () => void): [number, number] {
  const best: [number, number] = [Infinity, Infinity]
  for (let i = 0; i < TURNS; i++) {
    best[0] = Math.min(best[0], fastest(operations[0], one))
    best[1] = Math.min(best[1], fastest(operations[1], other))
  }
  return best
}

async function measure(): Promise<[number, number]> {
  if (feature === 'in-order')
    return inTurns([BATCH, BATCH], frames(await netMachine(true), BATCH), frames(await netMachine(false), BATCH))
  if (feature === 'indirect') return inTurns([BATCH, BATCH], await requests(true), await requests(false))
  const [round, alone] = inTurns([1, 1], frames(await netMachine(false), 1), barriers())
  return [round, round - alone]
}

endWithParent()
const [withIt, without] = await measure()
const figure: RingFigure = { ring: ringName, feature, with: withIt, without }
process.stdout.write(`${JSON.stringify(figure)}\n`)
process.exit()
