// An emulator author's program: device models from guestdma in a machine whose guest brings its own drivers. Run it with
//   npx -y pnpm@12.21.0 exec node examples/native-guest/src/main.ts
import { parseArgs } from 'node:util'
import { guestAddress } from '@guestdma/memory'
import { assembleFirmware, FRAME_BYTES, WRITTEN_SECTOR } from './firmware.ts'
import { Machine } from './machine.ts'
import {
  BLK_QUEUE,
  BLK_STATUS,
  RECEIVE_BUFFER,
  RECEIVE_QUEUE,
  SECTOR_IN,
  SECTOR_OUT,
  TRANSMIT_BUFFER,
  TRANSMIT_QUEUE,
} from './memory-map.ts'

const HELP = `Usage: npx -y pnpm@12.21.0 exec node examples/native-guest/src/main.ts [--json] [--help]

Runs a small emulated machine: RAM, an interrupt controller, a virtio-blk and a virtio-net device
over virtio-mmio, and a CPU whose firmware drives both with loads and stores alone. While a request
is at the disk's store the machine is saved. A second machine is restored from that and goes on; the
first one is reset and begins again. Then it checks what became of the disks and of memory. Exit code
0 if all is well, 1 if not.

  --json   one JSON object instead of text
  --help   this text
`

const DISK_BYTES = 64 * 512

interface Check {
  readonly what: string
  readonly ok: boolean
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { json: { type: 'boolean' }, help: { type: 'boolean' } } })
  if (values.help === true) {
    process.stdout.write(HELP)
    return 0
  }
  const print = (line: string): void => {
    if (values.json !== true) console.log(line)
  }
  const said: string[] = []
  const say = (line: string): void => {
    said.push(line)
    print(`  guest │ ${line}`)
  }

  const firmware = assembleFirmware()
  const disk = new Uint8Array(DISK_BYTES)
  disk.set(new TextEncoder().encode('DISK of the native guest'))
  print(`A machine with 1 MiB of RAM, a disk of ${DISK_BYTES / 1024} KiB and a network card in loopback.`)
  print(`Its guest is ${firmware.length} bytes of firmware, and no driver of guestdma.\n`)

  print('The machine runs until a request is at the store of its disk:')
  const first = new Machine(firmware, disk, say)
  await first.run(() => first.blk.inFlight > 0)

  print('It is saved, and a second machine goes on from there:')
  const state = await first.save()
  const second = new Machine(firmware, disk.slice(), say)
  second.restore(structuredClone(state))
  await second.run()

  print('The first machine is reset, and its guest boots again:')
  first.reset()
  await first.run()

  const checks = [...check('first', first), ...check('second', second)]
  const ok = checks.every((each) => each.ok)
  const machines = [first, second].map(({ cpu, counters }) => ({ instructions: cpu.executed, ...counters }))
  if (values.json === true) {
    console.log(JSON.stringify({ ok, said, checks, machines }, null, 2))
    return ok ? 0 : 1
  }
  print('\nWhat the emulator finds afterwards:')
  for (const { what, ok: good } of checks) print(`  ${good ? '✓' : '✗'} ${what}`)
  for (const fault of [...first.faults(), ...second.faults()]) print(`    ${JSON.stringify(fault)}`)
  print('')
  machines.forEach(({ instructions, registerAccesses, polls, sleeps }, i) => {
    const did = `${instructions} instructions, ${registerAccesses} register accesses, ${polls} polls, ${sleeps} sleeps`
    print(`${i === 0 ? 'first: ' : 'second:'} ${did}`)
  })
  return ok ? 0 : 1
}

function check(name: string, machine: Machine): Check[] {
  const bytes = (address: number, length: number): Uint8Array => machine.memory.read(guestAddress(address), length)
  const same = (a: Uint8Array, b: Uint8Array): boolean =>
    a.length === b.length && a.every((byte, i) => byte === b[i]) && a.some((byte) => byte !== 0)
  const sector = machine.disk.subarray(WRITTEN_SECTOR * 512, (WRITTEN_SECTOR + 1) * 512)
  const lent = [BLK_QUEUE, RECEIVE_QUEUE, TRANSMIT_QUEUE, BLK_STATUS & ~0xfff, SECTOR_IN, RECEIVE_BUFFER]
  return [
    { what: `${name}: the firmware ended well`, ok: machine.cpu.exitCode === 0 },
    { what: `${name}: sector ${WRITTEN_SECTOR} holds what the guest wrote`, ok: same(sector, bytes(SECTOR_OUT, 512)) },
    {
      what: `${name}: the frame is in the receive buffer, behind its header`,
      ok: same(bytes(RECEIVE_BUFFER + 12, FRAME_BYTES), bytes(TRANSMIT_BUFFER + 12, FRAME_BYTES)),
    },
    {
      what: `${name}: devices wrote to the pages that the guest had lent them, and to no others`,
      ok: lent.every((page) => machine.written.has(page >>> 0)) && machine.written.size === lent.length,
    },
    { what: `${name}: the devices found nothing wrong with their driver`, ok: machine.faults().length === 0 },
  ]
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(`native-guest: ${(error as Error).message}`)
  process.exitCode = 1
}
