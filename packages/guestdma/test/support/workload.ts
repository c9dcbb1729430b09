import { sharedPoolScheme } from '@guestdma/bounce'
import { directScheme } from '@guestdma/dma'
import { FrameBatch } from '@guestdma/drivers'
import { GuestMemory, guestAddress } from '@guestdma/memory'
import { createMachine, MemoryBlockStore, Wire } from 'guestdma'
import { TRANSPORTS, type TransportName } from './machines.ts'

export interface WorkloadOptions {
  readonly seed: number
  readonly steps: number
  readonly transport: TransportName
  readonly platform: 'direct' | 'shared-pool'
  readonly mode: 'map' | 'pool'
  /** Slots of 2 KiB of each device's pool. */
  readonly slots?: number
  readonly queueSize?: number
}

/** What a workload left behind; two runs with one seed are equal in all of it, whatever scheme and transport. */
export interface WorkloadResult {
  readonly received: readonly [left: string[], right: string[]]
  readonly reads: readonly string[]
  readonly disk: string
  readonly faults: number
  readonly live: number
}

const DISK = 256 * 512

/** A small, fast generator of numbers in [0, 2^32) (mulberry32). */
export function random(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return (t ^ (t >>> 14)) >>> 0
  }
}

// FNV-1a over the bytes and the length.
function digest(bytes: Uint8Array): string {
  let hash = 0x811c9dc5
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193)
  return `${bytes.length}:${(hash >>> 0).toString(16)}`
}

/**
 * Two net devices on a wire and a disk, driven by one seed: frames of all sizes both ways, reads and writes of all
 * lengths, resets in between.
 */
export async function workload({
  seed,
  steps,
  transport,
  platform,
  mode,
  slots = 1024,
  queueSize = 32,
}: WorkloadOptions): Promise<WorkloadResult> {
  const next = random(seed)
  const below = (limit: number): number => next() % limit
  const bytes = (length: number): Uint8Array<ArrayBuffer> => {
    const fill = random(next())
    const data = new Uint8Array(length)
    for (let i = 0; i < length; i++) data[i] = fill()
    return data
  }
  const received: [string[], string[]] = [[], []]
  const wire = new Wire()
  const store = new MemoryBlockStore(new Uint8Array(DISK))
  const memory = new GuestMemory([{ base: 0x5000_0000, length: 16 << 20, memory: new ArrayBuffer(16 << 20) }])
  const net = (name: string, i: 0 | 1) => ({
    type: 'net' as const,
    name,
    platform,
    mode,
    queueSize,
    device: { mac: [2, 0, 0, 0, 0, i], link: i === 0 ? wire.a : wire.b },
    observer: {
      frames: (batch: { count: number; copy(i: number): Uint8Array }) => {
        for (let f = 0; f < batch.count; f++) received[i].push(digest(batch.copy(f)))
      },
    },
  })
  const made = await createMachine({
    memory,
    transport,
    schemes: [sharedPoolScheme({ size: slots * 2048 }), directScheme()],
    devices: [
      net('left', 0),
      net('right', 1),
      { type: 'blk', name: 'disk', platform, mode, queueSize, device: { store } },
    ],
  })
  made.pump()
  const reads: string[] = []
  const area = made.ram.allocate(64 << 10, 64)
  const single = new FrameBatch(1)

  const send = (name: string): void => {
    const frame = bytes(1 + below(below(2) === 0 ? 1514 : 128))
    const offset = below(64)
    const inPlace = below(2) === 0
    for (;;) {
      const driver = made.net(name)
      if (inPlace && mode === 'map') {
        // A frame at the caller's own address, at any alignment.
        memory.write(guestAddress(area + offset), frame)
        single.address[0] = area + offset
        single.length[0] = frame.length
        single.count = 1
        if (driver.send(single) === 1) {
          made.pump()
          return
        }
      } else if (driver.sendCopy(frame)) return
      if (made.pump() === 0) throw new Error(`${name} is stuck (status ${driver.sendStatus})`)
    }
  }
  const transfer = async (): Promise<void> => {
    const sectors = 1 + below(48)
    const sector = below(DISK / 512 - sectors)
    const address = guestAddress(area + (8 << 10) + below(512))
    if (below(2) === 0) {
      memory.write(address, bytes(sectors * 512))
      await made.run(made.blk('disk').write(sector, address, sectors * 512))
    } else {
      memory.write(address, new Uint8Array(sectors * 512).fill(0xee))
      await made.run(made.blk('disk').read(sector, address, sectors * 512))
      reads.push(digest(memory.read(address, sectors * 512)))
    }
  }

  for (let step = 0; step < steps; step++) {
    const what = below(64)
    if (what === 0) {
      made.pump()
      await made.reset(['left', 'right', 'disk'][below(3)])
      made.pump()
    } else if (what < 16) await transfer()
    else for (let burst = 1 + below(40); burst > 0; burst--) send(what < 40 ? 'left' : 'right')
    if (below(3) === 0) made.pump()
  }
  made.pump()
  made.ram.release(area)
  const faults =
    ['left', 'right', 'disk'].reduce((sum, name) => sum + made.device(name).model.faults.count, 0) +
    Object.values(made.counters().devices).reduce((sum, { faults }) => sum + faults, 0)
  await made.close()
  return { received, reads, disk: digest(store.bytes), faults, live: made.ram.live }
}

const SCHEMES: readonly Omit<WorkloadOptions, 'seed' | 'steps' | 'transport'>[] = [
  { platform: 'direct', mode: 'map' },
  { platform: 'direct', mode: 'pool' },
  { platform: 'shared-pool', mode: 'map' },
  { platform: 'shared-pool', mode: 'pool' },
  // As small as goes: back-pressure all the time.
  { platform: 'shared-pool', mode: 'map', slots: 24, queueSize: 16 },
  { platform: 'direct', mode: 'map', queueSize: 4 },
]

export const VARIANTS: readonly Omit<WorkloadOptions, 'seed' | 'steps'>[] = TRANSPORTS.flatMap((transport) =>
  SCHEMES.map((scheme) => ({ transport, ...scheme })),
)
