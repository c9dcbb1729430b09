// An emulator author's program: device models from guestdma in a machine whose guest brings its own drivers. Run it with
//   npx -y pnpm@12.21.0 exec node examples/native-guest/src/main.ts
import { parseArgs } from 'node:util'
import { guestAddress } from '@guestdma/memory'
import { assembleFirmware, FRAME_BYTES, WRITTEN_SECTOR } from './firmware.ts'
import { Machine } from './machine.ts'
import { RECEIVE_BUFFER, SECTOR_OUT, TRANSMIT_BUFFER } from './memory-map.ts'

const HELP = `Usage: npx -y pnpm@12.21.0 exec node examples/native-guest/src/main.ts [--json] [--help]

Runs a small emulated machine: RAM, an interrupt controller, a virtio-blk and a virtio-net device
over virtio-mmio, and a CPU whose firmware drives both with loads and stores alone. Then it checks
what became of the disk and of memory. Exit code 0 if all is well, 1 if not.

  --json   one JSON object instead of text
  --help   this text
`

interface Check {
  readonly what: string
  readonly ok: boolean
}

function main(): number {
  const { values } = parseArgs({ options: { json: { type: 'boolean' }, help: { type: 'boolean' } } })
  if (values.help === true) {
    process.stdout.write(HELP)
    return 0
  }
  const print = (line: string): void => {
    if (values.json !== true) console.log(line)
  }

  const firmware = assembleFirmware()
  const said: string[] = []
  const machine = new Machine(firmware, (line) => {
    said.push(line)
    print(`  guest │ ${line}`)
  })
  machine.disk.set(new TextEncoder().encode('DISK of the native guest'))

  print(`A machine with 1 MiB of RAM, a disk of ${machine.disk.length / 1024} KiB and a network card in loopback.`)
  print(`Its guest is ${firmware.length} bytes of firmware, and no driver of guestdma.\n`)
  const exitCode = machine.run()
  const { counters } = machine

  const bytes = (address: number, length: number): Uint8Array => machine.memory.read(guestAddress(address), length)
  const same = (a: Uint8Array, b: Uint8Array): boolean =>
    a.length === b.length && a.every((byte, i) => byte === b[i]) && a.some((byte) => byte !== 0)
  const sector = machine.disk.subarray(WRITTEN_SECTOR * 512, (WRITTEN_SECTOR + 1) * 512)
  const checks: Check[] = [
    { what: 'the firmware ended well', ok: exitCode === 0 },
    { what: `sector ${WRITTEN_SECTOR} holds what the guest wrote`, ok: same(sector, bytes(SECTOR_OUT, 512)) },
    { what: 'the disk was read twice, written once and flushed once', ok: counted(machine.blk.counters, 2, 1, 1) },
    {
      what: 'the frame is in the receive buffer, behind its header',
      ok: same(bytes(RECEIVE_BUFFER + 12, FRAME_BYTES), bytes(TRANSMIT_BUFFER + 12, FRAME_BYTES)),
    },
    {
      what: 'the network card counted one frame each way and lost none',
      ok:
        machine.net.counters.transmitted === 1 &&
        machine.net.counters.received === 1 &&
        machine.link.counters.dropped === 0,
    },
    { what: 'the devices found nothing wrong with their driver', ok: machine.faults().length === 0 },
  ]
  const ok = checks.every((check) => check.ok)

  if (values.json === true) {
    console.log(JSON.stringify({ ok, exitCode, said, checks, counters, faults: machine.faults() }, null, 2))
    return ok ? 0 : 1
  }
  print('\nWhat the emulator finds afterwards:')
  for (const { what, ok: good } of checks) print(`  ${good ? '✓' : '✗'} ${what}`)
  for (const fault of machine.faults()) print(`    ${JSON.stringify(fault)}`)
  print(
    `\n${counters.instructions} instructions, ${counters.registerAccesses} register accesses, ${counters.interrupts} interrupts, ${counters.devicePolls} turns of the loop.`,
  )
  return ok ? 0 : 1
}

function counted(
  counters: { reads: number; writes: number; flushes: number },
  reads: number,
  writes: number,
  flushes: number,
): boolean {
  return counters.reads === reads && counters.writes === writes && counters.flushes === flushes
}

try {
  process.exitCode = main()
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
}
