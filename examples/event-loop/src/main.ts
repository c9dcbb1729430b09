// A machine inside an event loop that sleeps: it is pumped when something is due, and at no other time. Run it with
//   npx -y pnpm@12.21.0 exec node examples/event-loop/src/main.ts
import { parseArgs } from 'node:util'
import type { ReceivedFrames } from '@guestdma/drivers'
import { GuestDmaError } from '@guestdma/memory'
import { createMachine, type Machine, MachineEvents, Wire } from 'guestdma'
import { LateStore } from './late-store.ts'

const HELP = `Usage: npx -y pnpm@12.21.0 exec node examples/event-loop/src/main.ts [options]

Two network devices on a wire and a disk whose store answers late, in one machine. Nothing polls: the
machine says that it is due, and is pumped once for it. In the middle a network device and the disk
are rebooted, and what was under way is done again. Exit code 0 if everything arrived.

  --transport  how the drivers reach their devices (default mmio)
  --json       one JSON object instead of text
  --help       this text
`

const FRAMES = 2000
const SECTORS = 400
const REBOOT_AFTER = 500
/** Frames under way at a time. */
const WINDOW = 50

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { transport: { type: 'string', default: 'mmio' }, json: { type: 'boolean' }, help: { type: 'boolean' } },
  })
  if (values.help === true) {
    process.stdout.write(HELP)
    return
  }
  const { transport } = values
  if (transport !== 'mmio' && transport !== 'pci') {
    process.exitCode = 1
    console.error(`--transport is mmio or pci, not '${transport}'; see --help`)
    return
  }

  // The loop. A lost wake-up would leave Node with nothing to do: it would end here, with exit code 13.
  let turns = 0
  let machine: Machine | null = null
  const turn = (): void => {
    turns++
    machine?.pump()
  }
  const events = new MachineEvents()
  const wire = new Wire()
  const echo = new Echo(() => machine as Machine)
  const ping = new Ping(() => machine as Machine)
  events.on('drain', ({ device }) => (device === 'left' ? ping.go() : echo.go()))
  machine = await createMachine({
    events,
    transport,
    onWork: () => setImmediate(turn),
    memory: [{ base: 0x8000_0000, length: 32 << 20, memory: new ArrayBuffer(32 << 20) }],
    devices: [
      {
        type: 'net',
        name: 'left',
        device: { mac: Uint8Array.of(2, 0, 0, 0, 0, 1), link: wire.a },
        observer: { frames: (batch) => ping.received(batch) },
      },
      {
        type: 'net',
        name: 'right',
        device: { mac: Uint8Array.of(2, 0, 0, 0, 0, 2), link: wire.b },
        observer: { frames: (batch) => echo.received(batch) },
      },
      { type: 'blk', name: 'disk0', device: { store: new LateStore(new Uint8Array(SECTORS * 512)) } },
    ],
  })
  const frames = ping.start()
  const disk = fillAndCheck(machine)
  await ping.reached(REBOOT_AFTER)
  // With frames under way, which are lost.
  ping.go()
  ping.rebooting = true
  await Promise.all([machine.reset('left'), machine.reset('disk0')])
  ping.again()
  await Promise.all([frames, disk])
  await machine.close()

  const result = { transport, turns, frames: ping.count, repeated: ping.repeated, sectors: SECTORS }
  if (values.json === true) console.log(JSON.stringify(result))
  else {
    console.log(`${result.frames} frames there and back (${result.repeated} sent again), ${SECTORS} sectors checked`)
    console.log(`the machine was pumped ${turns} times, each time because it was due`)
  }
}

/** Sends numbered frames and waits for each to come back. */
class Ping {
  count = 0
  repeated = 0
  rebooting = false
  private readonly machine: () => Machine
  private readonly back = new Uint8Array(FRAMES)
  private next = 0
  private waiters: { readonly count: number; resolve(): void }[] = []

  constructor(machine: () => Machine) {
    this.machine = machine
  }

  start(): Promise<void> {
    this.go()
    return this.reached(FRAMES)
  }

  reached(count: number): Promise<void> {
    if (this.count >= count) return Promise.resolve()
    return new Promise((resolve) => void this.waiters.push({ count, resolve }))
  }

  /** Sends what is not back yet, from the first frame on: what was under way is gone. */
  again(): void {
    this.rebooting = false
    this.repeated += this.next - this.count
    this.next = 0
    this.go()
  }

  /** Sends as long as there is room; `drain`, or what comes back, goes on. */
  go(): void {
    if (this.rebooting) return
    const net = this.machine().net('left')
    for (; this.next < FRAMES && this.next < this.count + WINDOW; this.next++) {
      if (this.back[this.next] === 1) continue
      const frame = new Uint8Array(64)
      new DataView(frame.buffer).setUint32(14, this.next)
      if (!net.sendCopy(frame)) return
    }
  }

  received(batch: ReceivedFrames): void {
    for (let i = 0; i < batch.count; i++) {
      const frame = batch.copy(i)
      const number = new DataView(frame.buffer).getUint32(14)
      if (this.back[number] === 1) continue
      this.back[number] = 1
      this.count++
    }
    const reached = this.waiters.filter(({ count }) => this.count >= count)
    this.waiters = this.waiters.filter(({ count }) => this.count < count)
    for (const { resolve } of reached) resolve()
    // Not from within the pump, which would never come to rest.
    queueMicrotask(() => this.go())
  }
}

/** Sends every frame back to where it came from. */
class Echo {
  private readonly machine: () => Machine
  private readonly waiting: Uint8Array[] = []

  constructor(machine: () => Machine) {
    this.machine = machine
  }

  go(): void {
    const net = this.machine().net('right')
    while (this.waiting.length > 0 && net.sendCopy(this.waiting[0])) this.waiting.shift()
  }

  received(batch: ReceivedFrames): void {
    for (let i = 0; i < batch.count; i++) this.waiting.push(batch.copy(i))
    this.go()
  }
}

/** Writes every sector and reads it back. A request that a reboot ended is made again. */
async function fillAndCheck(machine: Machine): Promise<void> {
  const pattern = (sector: number): Uint8Array => new Uint8Array(512).fill(sector)
  await Promise.all(
    Array.from({ length: SECTORS }, async (_, sector) => {
      await persistently(() => machine.blk('disk0').writeBytes(sector, pattern(sector)))
      const read = await persistently(() => machine.blk('disk0').readBytes(sector, 512))
      if (read.some((byte) => byte !== (sector & 0xff))) throw new Error(`sector ${sector} is not what was written`)
    }),
  )
}

async function persistently<T>(request: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await request()
    } catch (error) {
      const rebooting = error instanceof GuestDmaError && ['DRIVER_CLOSED', 'MACHINE_CLOSED'].includes(error.code)
      if (!rebooting) throw error
      // The device is on its way up again.
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
  }
}

try {
  await main()
} catch (error) {
  process.stderr.write(`event-loop: ${(error as Error).message}\n`)
  process.exitCode = 1
}
