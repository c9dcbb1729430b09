import { Frames } from '@guestdma/devices'
import { type DmaScheme, directScheme } from '@guestdma/dma'
import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { createMachine, FrameBatch, type Machine, sharedPoolScheme, virtioIommuScheme } from 'guestdma'
import { bytesInUse, fastest, type Grown } from './scale-measure.ts'

const RAM = 0x8000_0000
const FRAME = 64
const BATCH = 32
/** Batches that one device sends before the next one does. */
const BURST = 32
const STRIDE = 2048
// A frame begins 16 bytes into its buffer, right after its virtio header.
const HEADROOM = 16
const BUDGET = 256
const MAC = [2, 0, 0, 0, 0, 1]

const QUEUE_SIZES = [16, 128, 1024, 8192, 32768]
const COUNTS = [1, 10, 100, 1000]
/** Entries of the queues of each of many devices: a batch, and what was sent before. */
const SMALL_QUEUE = 64

/** Receive buffers may take half of a pool, and requests and rings need room too. */
const POOL_PER_ENTRY = 3 * STRIDE

function schemeOf(backend: string, entries: number): DmaScheme {
  if (backend === 'direct') return directScheme()
  if (backend === 'virtio-iommu') return virtioIommuScheme()
  return sharedPoolScheme({ per: 'machine', size: (1 << 20) + entries * POOL_PER_ENTRY })
}

interface Setting {
  readonly count: number
  readonly queueSize: number
  readonly packed?: boolean
}

async function machineOf(backend: string, { count, queueSize, packed = false }: Setting): Promise<Machine> {
  const scheme = schemeOf(backend, count * queueSize)
  // Buffers of both directions, and the pool.
  const length = (16 << 20) + 3 * count * queueSize * POOL_PER_ENTRY
  const link = { transmit: ({ count: frames }: Frames): number => frames }
  const offer = packed ? [VIRTIO_F_RING_PACKED] : []
  return createMachine({
    memory: [{ base: RAM, length, memory: new ArrayBuffer(length) }],
    schemes: [scheme],
    devices: Array.from({ length: count }, (_, i) => ({
      type: 'net',
      name: `net${i}`,
      dma: scheme.id,
      queueSize,
      device: { mac: MAC, link, offer, queueSize },
    })),
  })
}

/** Sends frames from memory of the caller's through one device, and returns what each batch does. */
function sender(machine: Machine, name: string, size: number): () => void {
  const net = machine.net(name)
  const device = machine.netModel(name)
  const batch = new FrameBatch(size)
  batch.count = size
  batch.length.fill(FRAME)
  batch.headed = true
  const base = machine.ram.allocate(size * STRIDE, 64)
  for (let i = 0; i < size; i++) batch.address[i] = base + i * STRIDE + HEADROOM
  return () => {
    const sent = net.send(batch)
    device.poll(BUDGET)
    net.poll(BUDGET)
    if (sent !== size) throw new Error(`${name} took ${sent} of ${size} frames`)
  }
}

/** Nanoseconds for one frame of 64 bytes, for driver and device together, in batches of 32 or as the queue has room. */
export async function* queueSizes(backend: string): AsyncGenerator<Grown> {
  for (const size of QUEUE_SIZES) {
    for (const packed of [false, true]) {
      const machine = await machineOf(backend, { count: 1, queueSize: size, packed })
      const frames = Math.min(BATCH, size)
      const ring = packed ? 'packed' : 'split'
      const figure = { what: 'queue-size', size, unit: 'ns' } as const
      yield { ...figure, detail: `transmit ${ring}`, value: fastest(frames, sender(machine, 'net0', frames)) }
      const net = machine.net('net0')
      const device = machine.netModel('net0')
      const arrived = Frames.of(...new Array<Uint8Array>(frames).fill(new Uint8Array(FRAME).fill(0x5a)))
      machine.pump()
      if (net.counters.unposted > 0) throw new Error(`${net.counters.unposted} receive buffers found no room`)
      const receive = (): void => {
        const taken = device.receiveEach(arrived, 0, frames)
        device.poll(BUDGET)
        net.poll(BUDGET)
        if (taken !== frames) throw new Error(`the driver was given ${taken} of ${frames} frames`)
      }
      yield { ...figure, detail: `receive ${ring}`, value: fastest(frames, receive) }
      await machine.close()
    }
  }
}

/**
 * More and more devices on one pool, or endpoints behind one IOMMU, in nanoseconds for a frame of 64 bytes. `transmit`:
 * one device after the other sends 32 of them. `burst`: each sends 1,024 before the next one does, so that its tables are
 * in the caches. `idle`: what each device adds to a turn of the machine in which there is nothing to do. And
 * in bytes, what each takes of the pool, and of memory of the process beside that of the guest.
 */
export async function* devices(what: 'devices' | 'domains', backend: string): AsyncGenerator<Grown> {
  // What the process itself takes for the first machine is not of its devices.
  await (await machineOf(backend, { count: 1, queueSize: SMALL_QUEUE })).close()
  for (const count of COUNTS) {
    const before = bytesInUse()
    const machine = await machineOf(backend, { count, queueSize: SMALL_QUEUE })
    const ns = { what, size: count, unit: 'ns' } as const
    const bytes = { what, size: count, unit: 'bytes' } as const
    machine.pump()
    const ram = machine.memory.ranges.reduce((sum, { length }) => sum + length, 0)
    yield { ...bytes, detail: 'memory', value: (bytesInUse() - before - ram) / count }
    if (backend === 'shared-pool') yield { ...bytes, detail: 'pool', value: poolBytes(machine) / count }
    yield { ...ns, detail: 'idle', value: fastest(count, () => machine.pump()) }
    const senders = Array.from({ length: count }, (_, i) => sender(machine, `net${i}`, BATCH))
    const inTurn = (times: number) => (): void => {
      for (const send of senders) for (let i = 0; i < times; i++) send()
    }
    yield { ...ns, detail: 'transmit', value: fastest(count * BATCH, inTurn(1)) }
    yield { ...ns, detail: 'burst', value: fastest(count * BATCH * BURST, inTurn(BURST)) }
    await machine.close()
  }
}

function poolBytes(machine: Machine): number {
  const all = Object.values(machine.counters().devices).map(({ backend }) => backend)
  // Slots are counted for the whole pool, allocations by each device.
  return all[0].slotsInUse * STRIDE + all.reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0)
}
