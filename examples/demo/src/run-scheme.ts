import { createHash } from 'node:crypto'
import { turn } from '@guestdma/bench/program'
import type { BlockStore } from '@guestdma/devices'
import { GuestDmaError } from '@guestdma/memory'
import { ETHERNET_HEADER_SIZE, ETHERNET_MTU, SECTOR_SIZE } from '@guestdma/spec'
import { createMachine, FrameBatch, type Machine, MachineEvents, type SchemeChosen, Wire } from 'guestdma'
import { Arrivals } from './arrivals.ts'
import type { Capture } from './capture.ts'
import { type Costs, costsOf, countMappings, type MappingCount } from './costs.ts'
import { checkWhole, readSuperblock, type Superblock } from './ext4.ts'
import type { Frame } from './pcap.ts'
import { type DemoScheme, type TransportName, transportOf } from './schemes.ts'

/** What one scheme did. Plain data: it goes into the JSON file as it is. */
export interface SchemeResult {
  readonly scheme: string
  readonly transport: TransportName
  readonly chosen: readonly SchemeChosen[]
  readonly net: {
    readonly framesOut: number
    readonly framesIn: number
    readonly bytesOut: number
    readonly bytesIn: number
    readonly identical: boolean
    /** The median of repeated rounds over the first frames, and how many those were. */
    readonly nsPerPacket: number
    readonly framesTimed: number
    /** Of both devices, while the capture went through once. */
    readonly costs: Costs
  }
  readonly blk: {
    readonly id: string
    readonly blocks: number
    readonly sha256: string
    readonly identical: boolean
    readonly superblock: Superblock
    readonly written: { readonly sector: number; readonly bytes: number; readonly identical: boolean }
    readonly costs: Costs
  }
  readonly mappings: MappingCount
  readonly faults: number
}

export interface RunInput {
  readonly capture: Capture
  readonly store: BlockStore
  readonly diskName: string
  /** Of the image file, for comparison. */
  readonly sha256: string
  /** Where the scheme does not name its own. */
  readonly transport: TransportName
  /** Where to write the frames that arrive, if anywhere. */
  readonly out?: string | undefined
  /** Ends the run, which then throws the signal's reason. */
  readonly signal?: AbortSignal
  /** Told what is being done, and how many bytes of capture and disk are done. */
  onProgress?(what: string, bytes: number): void
  /** How long frames are sent again and again to be timed. Default 200. */
  readonly timingMs?: number
}

const MEMORY = 64 << 20
const READ_BYTES = 256 << 10
// ext4 leaves the first 1,024 bytes of an image to a boot loader, so writing there harms no file system.
const WRITE_SECTOR = 0
const WRITE_BYTES = 1024
// Long enough for the compiler to settle and for the clock's grain not to matter.
const TIMING_MS = 200

/** Runs capture and image through a machine whose devices all stand on one scheme's platform. */
export async function runScheme(id: string, scheme: DemoScheme, input: RunInput): Promise<SchemeResult> {
  const { capture, store } = input
  const transport = transportOf(scheme, input.transport)
  const listed = scheme.listed ? { dma: id } : {}
  const mtu = Math.max(ETHERNET_MTU, capture.longest - ETHERNET_HEADER_SIZE)
  const wire = new Wire()
  const chosen: SchemeChosen[] = []
  const events = new MachineEvents()
  let faults = 0
  events.on('scheme', (event) => chosen.push(event))
  events.on('fault', () => faults++)
  using arrivals = new Arrivals(capture.header, input.out)
  let keep = true
  await using machine = await createMachine({
    memory: [{ base: 0x8000_0000, length: MEMORY, memory: new ArrayBuffer(MEMORY) }],
    schemes: [scheme.make()],
    transport,
    events,
    devices: [
      { type: 'net', name: 'net0', ...listed, device: { mac: [2, 0, 0, 0, 0, 1], mtu, link: wire.a } },
      {
        type: 'net',
        name: 'net1',
        ...listed,
        device: { mac: [2, 0, 0, 0, 0, 2], mtu, link: wire.b },
        observer: {
          frames: (batch) => {
            batch.region.refresh()
            for (let i = 0; keep && i < batch.count; i++) {
              const begin = batch.offset[i]
              arrivals.arrived(batch.region.u8.subarray(begin, begin + batch.length[i]))
            }
          },
        },
      },
      { type: 'blk', name: 'disk0', ...listed, device: { store, id: 'guestdma-demo' } },
    ],
  })

  // Receive buffers are posted by the first poll; that is not what a packet costs.
  machine.pump()
  const costs = costsOf(machine, ['net0', 'net1'])
  let sent = 0
  for await (const frames of capture.read()) {
    await next(input)
    arrivals.expect(frames)
    sendAll(machine, frames)
    sent += frames.reduce((sum, { data }) => sum + data.length, 0)
    input.onProgress?.(`${id}: frames`, sent)
  }
  const spent = costs()
  arrivals.finish()
  input.onProgress?.(`${id}: timing`, sent)
  await next(input)
  keep = false
  const nsPerPacket = time(machine, capture.sample, input.timingMs ?? TIMING_MS)
  const disk = await runDisk(machine, id, input)
  const mappings = await countMappings(machine)
  return {
    scheme: id,
    transport,
    chosen,
    net: {
      framesOut: capture.frames,
      framesIn: arrivals.frames,
      bytesOut: capture.bytes,
      bytesIn: arrivals.bytes,
      identical: arrivals.identical && arrivals.frames === capture.frames,
      nsPerPacket,
      framesTimed: capture.sample.length,
      costs: spent,
    },
    blk: disk,
    mappings,
    faults,
  }
}

// Lets signals be seen, and ends the run after one.
async function next({ signal }: RunInput): Promise<void> {
  await turn()
  signal?.throwIfAborted()
}

// Through driver, device, wire, second device and second driver.
function sendAll(machine: Machine, frames: readonly Frame[]): void {
  const net = machine.net('net0')
  const batch = new FrameBatch(32)
  for (let next = 0; next < frames.length; ) {
    batch.count = 0
    while (batch.count < batch.capacity && next + batch.count < frames.length) {
      const buffer = net.acquire()
      if (buffer < 0) break
      const { data } = frames[next + batch.count]
      net.bufferRegion.u8.set(data, net.bufferOffset(buffer))
      batch.buffer[batch.count] = buffer
      batch.length[batch.count] = data.length
      batch.count++
    }
    const taken = net.send(batch)
    for (let i = taken; i < batch.count; i++) net.release(batch.buffer[i])
    next += taken
    if (machine.pump() === 0 && taken === 0) {
      throw new GuestDmaError(
        'DEMO_STALLED',
        net.name,
        `no frame was taken (status ${net.sendStatus}) and nothing is in flight; the pool is too small`,
      )
    }
  }
  machine.pump()
}

function time(machine: Machine, sample: readonly Frame[], milliseconds: number): number {
  const start = performance.now()
  const rounds: number[] = []
  while (performance.now() - start < milliseconds || rounds.length < 3) {
    const from = performance.now()
    sendAll(machine, sample)
    rounds.push(((performance.now() - from) * 1e6) / sample.length)
  }
  // The later half: the compiler has settled by then.
  const settled = rounds.slice(rounds.length >> 1).sort((a, b) => a - b)
  return settled[settled.length >> 1]
}

async function runDisk(machine: Machine, scheme: string, input: RunInput): Promise<SchemeResult['blk']> {
  const { capture, store, diskName, sha256 } = input
  const disk = machine.blk('disk0')
  const costs = costsOf(machine, ['disk0'])
  const id = await machine.run(disk.id())
  const hash = createHash('sha256')
  // One buffer of guest memory for all of it: a large disk makes no garbage.
  const buffer = machine.ram.allocate(READ_BYTES, SECTOR_SIZE)
  const { region, offset } = machine.memory.window(buffer, READ_BYTES)
  for (let at = 0; at < store.capacity; at += READ_BYTES) {
    await next(input)
    input.onProgress?.(`${scheme}: disk`, capture.bytes + at)
    const length = Math.min(READ_BYTES, store.capacity - at)
    await machine.run(disk.read(at / SECTOR_SIZE, buffer, length))
    region.refresh()
    hash.update(region.u8.subarray(offset, offset + length))
  }
  const digest = hash.digest('hex')
  const superblock = await readSuperblock(
    (offset, length) => machine.run(disk.readBytes(offset / SECTOR_SIZE, length)),
    diskName,
  )
  checkWhole(superblock, store.capacity, diskName)

  const text = new TextEncoder().encode(`written by the guestdma demo over ${scheme}\n`)
  const written = new Uint8Array(WRITE_BYTES).map((_, i) => text[i % text.length])
  await machine.run(disk.writeBytes(WRITE_SECTOR, written))
  await machine.run(disk.flush())
  const back = await machine.run(disk.readBytes(WRITE_SECTOR, WRITE_BYTES))
  return {
    id,
    blocks: store.capacity / SECTOR_SIZE,
    sha256: digest,
    identical: digest === sha256,
    superblock,
    written: { sector: WRITE_SECTOR, bytes: WRITE_BYTES, identical: equal(back, written) },
    costs: costs(),
  }
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i])
}
