import { createHash } from 'node:crypto'
import type { BlockStore } from '@guestdma/devices'
import { GuestDmaError } from '@guestdma/memory'
import { ETHERNET_HEADER_SIZE, ETHERNET_MTU, NET_MTU_MAX, SECTOR_SIZE } from '@guestdma/spec'
import { createMachine, FrameBatch, type Machine, MachineEvents, type SchemeChosen, Wire } from 'guestdma'
import { type Costs, costsOf, countMappings, type MappingCount } from './costs.ts'
import { checkWhole, readSuperblock, type Superblock } from './ext4.ts'
import type { Capture } from './pcap.ts'
import type { Progress } from './progress.ts'
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
    readonly nsPerPacket: number
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
  readonly captureName: string
  readonly store: BlockStore
  readonly diskName: string
  /** Of the image file, for comparison. */
  readonly sha256: string
  /** Where the scheme does not name its own. */
  readonly transport: TransportName
  readonly progress: Progress
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
export async function runScheme(
  id: string,
  scheme: DemoScheme,
  input: RunInput,
): Promise<{ result: SchemeResult; received: Uint8Array<ArrayBuffer>[] }> {
  const { capture, captureName, store, progress } = input
  const transport = transportOf(scheme, input.transport)
  const listed = scheme.listed ? { dma: id } : {}
  const longest = capture.frames.reduce((most, { data }) => Math.max(most, data.length), 0)
  const mtu = Math.max(ETHERNET_MTU, longest - ETHERNET_HEADER_SIZE)
  if (mtu > NET_MTU_MAX) {
    throw new GuestDmaError(
      'DEMO_FRAME',
      captureName,
      `a frame of ${longest} bytes is above the largest MTU of ${NET_MTU_MAX}`,
      { length: longest },
    )
  }
  const wire = new Wire()
  const chosen: SchemeChosen[] = []
  const events = new MachineEvents()
  let faults = 0
  events.on('scheme', (event) => chosen.push(event))
  events.on('fault', () => faults++)
  const received: Uint8Array<ArrayBuffer>[] = []
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
            for (let i = 0; keep && i < batch.count; i++) received.push(batch.copy(i))
          },
        },
      },
      { type: 'blk', name: 'disk0', ...listed, device: { store, id: 'guestdma-demo' } },
    ],
  })

  progress.show(`${id}: frames`)
  // Receive buffers are posted by the first poll; that is not what a packet costs.
  machine.pump()
  const costs = costsOf(machine, ['net0', 'net1'])
  sendAll(machine, capture)
  const spent = costs()
  const frames = capture.frames.length
  const identical = received.length === frames && received.every((bytes, i) => equal(bytes, capture.frames[i].data))
  progress.show(`${id}: timing`)
  keep = false
  const nsPerPacket = time(machine, capture, input.timingMs ?? TIMING_MS)
  const disk = await runDisk(machine, id, input)
  const mappings = await countMappings(machine)
  const result: SchemeResult = {
    scheme: id,
    transport,
    chosen,
    net: {
      framesOut: frames,
      framesIn: received.length,
      bytesOut: capture.frames.reduce((sum, { data }) => sum + data.length, 0),
      bytesIn: received.reduce((sum, { length }) => sum + length, 0),
      identical,
      nsPerPacket,
      costs: spent,
    },
    blk: disk,
    mappings,
    faults,
  }
  return { result, received }
}

// Through driver, device, wire, second device and second driver.
function sendAll(machine: Machine, { frames }: Capture): void {
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

function time(machine: Machine, capture: Capture, milliseconds: number): number {
  const start = performance.now()
  const rounds: number[] = []
  while (performance.now() - start < milliseconds || rounds.length < 3) {
    const from = performance.now()
    sendAll(machine, capture)
    rounds.push(((performance.now() - from) * 1e6) / capture.frames.length)
  }
  // The later half: the compiler has settled by then.
  const settled = rounds.slice(rounds.length >> 1).sort((a, b) => a - b)
  return settled[settled.length >> 1]
}

async function runDisk(
  machine: Machine,
  scheme: string,
  { store, diskName, sha256, progress }: RunInput,
): Promise<SchemeResult['blk']> {
  const disk = machine.blk('disk0')
  const costs = costsOf(machine, ['disk0'])
  const id = await machine.run(disk.id())
  const hash = createHash('sha256')
  for (let at = 0; at < store.capacity; at += READ_BYTES) {
    progress.show(`${scheme}: ${Math.floor((100 * at) / store.capacity)} % of the disk`)
    hash.update(await machine.run(disk.readBytes(at / SECTOR_SIZE, Math.min(READ_BYTES, store.capacity - at))))
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
