// A scheme author's program: registers the scheme of fixed-slots.ts beside the built-in ones, works with it, and tests
// it. Run it with
//   npx -y pnpm@12.21.0 exec node examples/first-scheme/src/main.ts
import { parseArgs } from 'node:util'
import { describeDmaScheme, readBus, writeBus } from '@guestdma/conformance'
import type { AccessFault } from '@guestdma/devices'
import { describeStatus } from '@guestdma/dma'
import { hex } from '@guestdma/memory'
import {
  createMachine,
  directScheme,
  type Machine,
  MachineEvents,
  MemoryBlockStore,
  type SchemeChosen,
  sharedPoolScheme,
  Wire,
} from 'guestdma'
import { fixedSlotsScheme, SLOT_BYTES } from './fixed-slots.ts'
import { runSuite, type SuiteResult } from './run-suite.ts'

const HELP = `Usage: npx -y pnpm@12.21.0 exec node examples/first-scheme/src/main.ts [--json] [--help]

Puts a DMA scheme of one file to work beside the built-in ones: network frames between a device on
the new scheme and one on 'direct', a disk, and a device that reaches outside its window. Then it
runs the conformance suite over the scheme. Exit code 0 if all is well, 1 if not.

  --json   one JSON object instead of text
  --help   this text
`

interface Check {
  readonly what: string
  readonly ok: boolean
}

interface Work {
  readonly chosen: readonly SchemeChosen[]
  readonly faults: readonly string[]
  readonly counters: ReturnType<Machine['counters']>
  readonly checks: readonly Check[]
}

const RAM_BYTES = 16 << 20
const FRAMES = 300
const DISK_BYTES = 64 << 10
// One is enough where all is well.
const MAX_TRIES = 8

// Counters of every backend, and what to call them: bytes from the third on.
const COLUMNS = [
  ['maps', 'maps'],
  ['unmaps', 'unmaps'],
  ['bytesCopiedToDevice', 'copied in'],
  ['bytesCopiedFromDevice', 'copied out'],
  ['bytesCleared', 'cleared'],
  ['allocatedBytes', 'rings'],
] as const

/** A machine on two platforms: `net0` and `disk0` stand on ours, `net1` on the one without confinement. */
async function work(): Promise<Work> {
  const chosen: SchemeChosen[] = []
  const faults: string[] = []
  let leaks = 0
  const events = new MachineEvents()
  events.on('scheme', (event) => chosen.push(event))
  events.on('leak', () => leaks++)
  events.on('fault', ({ device, fault }) => {
    if ('kind' in fault) faults.push(`${device} broke a rule: ${JSON.stringify(fault)}`)
    else
      faults.push(
        `${device} was refused a ${fault.access === 1 ? 'read' : 'write'} at ${place(fault.address)}: ${fault.reason}`,
      )
  })
  const arrived: Record<'net0' | 'net1', Uint8Array[]> = { net0: [], net1: [] }
  const store = new MemoryBlockStore(new Uint8Array(4 * DISK_BYTES))
  const wire = new Wire()
  await using machine = await createMachine({
    memory: [{ base: 0x8000_0000, length: RAM_BYTES, memory: new ArrayBuffer(RAM_BYTES) }],
    // In order of preference. A device whose `platform` is not said stands on the first.
    schemes: [fixedSlotsScheme(), sharedPoolScheme(), directScheme()],
    events,
    devices: [
      {
        type: 'net',
        name: 'net0',
        device: { mac: [2, 0, 0, 0, 0, 0], link: wire.a },
        observer: {
          frames: (batch) => {
            for (let i = 0; i < batch.count; i++) arrived.net0.push(batch.copy(i))
          },
        },
      },
      {
        type: 'net',
        name: 'net1',
        platform: 'direct',
        device: { mac: [2, 0, 0, 0, 0, 1], link: wire.b },
        observer: {
          frames: (batch) => {
            for (let i = 0; i < batch.count; i++) arrived.net1.push(batch.copy(i))
          },
        },
      },
      { type: 'blk', name: 'disk0', device: { store, id: 'first-scheme' } },
    ],
  })
  const checks: Check[] = []
  const check = (what: string, ok: boolean): void => void checks.push({ what, ok })

  const scheme = (name: string): string | undefined => chosen.find(({ device }) => device === name)?.scheme
  check("net0 and disk0 use 'fixed-slots'", scheme('net0') === 'fixed-slots' && scheme('disk0') === 'fixed-slots')
  check("net1, whose platform has no slots, uses 'direct'", scheme('net1') === 'direct')

  const frames = Array.from({ length: FRAMES }, (_, i) => payload(60 + ((i * 97) % 1455), i))
  send(machine, 'net0', frames)
  check(`${FRAMES} frames from net0 to net1 arrived unchanged`, same(arrived.net1, frames))
  send(machine, 'net1', frames)
  check(`${FRAMES} frames from net1 to net0 arrived unchanged`, same(arrived.net0, frames))

  // Longer than a slot: it travels as several.
  const disk = machine.blk('disk0')
  const data = payload(DISK_BYTES, 1)
  await machine.run(disk.writeBytes(8, data))
  await machine.run(disk.flush())
  check(`${DISK_BYTES >> 10} KiB are on the disk`, same([store.bytes.subarray(8 * 512, 8 * 512 + DISK_BYTES)], [data]))
  check('and are read back', same([await machine.run(disk.readBytes(8, DISK_BYTES))], [data]))
  check('no device faulted so far', faults.length === 0)

  reachOut(machine, check)
  check('and both accesses of net0 were reported as faults', faults.length === 2)
  const counters = machine.counters()
  await machine.close()
  check('after the reset no mapping is left', leaks === 0)
  return { chosen, faults, counters, checks }
}

// What a compromised device would try: memory that nobody lent to it. Its port is all that a device has to reach with.
function reachOut(machine: Machine, check: (what: string, ok: boolean) => void): void {
  const secret = new TextEncoder().encode('key of the guest')
  const at = machine.ram.allocate(secret.length)
  machine.memory.write(at, secret)
  const { port: confined } = machine.device('net0')
  const { port: direct } = machine.device('net1')
  check('net0 cannot read guest RAM', readBus(confined, at, secret.length) === null)
  check('net0 cannot write to it', writeBus(confined, at, new Uint8Array(secret.length)) === 0)
  check('the guest still has its key', same([machine.memory.read(at, secret.length)], [secret]))
  check("net1 on 'direct' can read the key", same([readBus(direct, at, secret.length) ?? new Uint8Array(0)], [secret]))
  machine.ram.release(at)
}

function send(machine: Machine, name: string, frames: readonly Uint8Array[]): void {
  const net = machine.net(name)
  for (const frame of frames) {
    // No room: the slots come back as the device sends what is in them, unless the scheme loses some.
    for (let tries = 0; !net.sendCopy(frame); tries++) {
      if (tries === MAX_TRIES) throw new Error(`${name} takes no more frames: ${describeStatus(net.sendStatus)}`)
      machine.pump()
    }
  }
  machine.pump()
}

function place(address: AccessFault['address']): string {
  return typeof address === 'number' ? hex(address) : `${hex(address.high)}:${hex(address.low)}`
}

function payload(length: number, seed: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(length).map((_, i) => (i * 31 + seed * 17 + (i >>> 8)) & 0xff)
}

function same(a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean {
  return a.length === b.length && a.every((bytes, i) => Buffer.compare(bytes, b[i]) === 0)
}

function show({ chosen, faults, counters, checks }: Work): void {
  console.log(
    `Three schemes, the first of them in one file: slots of ${SLOT_BYTES >> 10} KiB in a window of guest RAM.`,
  )
  console.log('\nnegotiated')
  for (const { device, scheme, why, ladder } of chosen) {
    console.log(`  ${device.padEnd(7)}${scheme.padEnd(13)}${why}`)
    for (const report of ladder) {
      if (report.id !== scheme) console.log(`         ${`not ${report.id}`.padEnd(17)}${report.outcome ?? report.why}`)
    }
  }
  console.log('\ndone')
  showChecks(checks)
  console.log('\nfaults')
  for (const fault of faults) console.log(`  ${fault}`)
  console.log('\ncounted')
  console.log(`         ${COLUMNS.map(([, title]) => title.padStart(12)).join('')}`)
  for (const [name, { backend }] of Object.entries(counters.devices)) {
    console.log(`  ${name.padEnd(7)}${COLUMNS.map(([key]) => backend[key].toLocaleString('en').padStart(12)).join('')}`)
  }
}

function showSuite({ tests, passed, comparisons }: SuiteResult): void {
  console.log('\nconformance')
  for (const group of new Set(tests.map((test) => test.group))) {
    const members = tests.filter((test) => test.group === group)
    const good = members.filter(({ failure }) => failure === null).length
    console.log(`  ${mark(good === members.length)}  ${group.padEnd(14)} ${good} of ${members.length} tests`)
  }
  for (const { name, failure } of tests) if (failure !== null) console.log(`\n${name}\n${failure}`)
  console.log(`\n${passed} of ${tests.length} tests passed, ${comparisons.toLocaleString('en')} comparisons`)
}

function showChecks(checks: readonly Check[]): void {
  for (const { what, ok } of checks) console.log(`  ${mark(ok)}  ${what}`)
}

function mark(ok: boolean): string {
  return ok ? 'ok' : 'FAILED'
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } })
  if (values.help === true) {
    process.stdout.write(HELP)
    return 0
  }
  const json = values.json === true
  const done = await work()
  if (!json) show(done)
  const suite = await runSuite((functions) => describeDmaScheme(functions, () => fixedSlotsScheme()))
  if (json) console.log(JSON.stringify({ ...done, conformance: suite }, null, 2))
  else showSuite(suite)
  return done.checks.every(({ ok }) => ok) && suite.passed === suite.tests.length ? 0 : 1
}

try {
  process.exitCode = await main()
} catch (error) {
  process.stderr.write(`first-scheme: ${(error as Error).message}\n`)
  process.exitCode = 1
}
