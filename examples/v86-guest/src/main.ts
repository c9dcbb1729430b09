// Linux in v86 drives device models of guestdma, in one process. Run it with
//   npx -y pnpm@12.21.0 exec node examples/v86-guest/src/main.ts
import { createHash } from 'node:crypto'
import { parseArgs } from 'node:util'
import { BlkDevice, everything, MemoryBlockStore, NetDevice } from '@guestdma/devices'
import { fileOfExt4, makeExt4 } from './ext4-image.ts'
import { guestFiles } from './guest-files.ts'
import { type GuestFiles, type LinuxGuest, linuxGuest } from './linux.ts'
import { memoryOf, PciHost } from './pci-host.ts'
import { PingResponder } from './ping-responder.ts'

const HELP = `Usage: npx -y pnpm@12.21.0 exec node examples/v86-guest/src/main.ts [--json] [--help]

Boots Linux in v86, an emulator of PCs in JavaScript. Its disk and its network card are device models
of guestdma on v86's PCI bus. Linux reads the disk, writes into an ext4 there, and pings its host. In
the middle of the disk's work the machine is saved; a second machine goes on from there. Then the host
checks the file system. Exit code 0 if all is well, 1 if not.

  --kernel FILE   a bzImage for i386, in place of the one that scripts/guest-kernel.mjs builds
  --json          one JSON object instead of text
  --help          this text
`

const SOURCE_BYTES = 4 << 20
const BOOT_MS = 60_000
const WORK_MS = 120_000

/** One v86 with its devices. */
class Machine {
  readonly disk: Uint8Array<ArrayBuffer>
  readonly guest: LinuxGuest
  readonly host: PciHost
  readonly blk: BlkDevice
  readonly net: NetDevice
  readonly link = new PingResponder()

  constructor(guest: LinuxGuest, disk: Uint8Array<ArrayBuffer>) {
    const memory = memoryOf(guest.cpu)
    this.guest = guest
    this.disk = disk
    this.blk = new BlkDevice({ name: 'disk', port: everything(memory), store: new MemoryBlockStore(disk) })
    this.net = new NetDevice({ name: 'net', port: everything(memory), link: this.link, mac: [2, 0, 0, 0, 5, 2] })
    this.host = new PciHost(guest.cpu)
    this.host.add(this.blk, 13)
    this.host.add(this.net, 14)
  }
}

async function main(): Promise<number> {
  const options = { kernel: { type: 'string' }, json: { type: 'boolean' }, help: { type: 'boolean' } } as const
  const { values } = parseArgs({ options })
  if (values.help === true) {
    process.stdout.write(HELP)
    return 0
  }
  const print = (text: string): void => {
    if (values.json !== true) console.log(text)
  }
  const files: GuestFiles = await guestFiles('i386', values.kernel)
  const said: string[] = []
  const boot = (): Promise<LinuxGuest> =>
    linuxGuest(files, ['devices', 'disk', 'net'], (line) => {
      said.push(line)
      print(`  guest │ ${line}`)
    })

  const source = new Uint8Array(SOURCE_BYTES).map((_byte, i) => (i * 31 + (i >>> 8) * 7) & 0xff)
  const image = makeExt4(source)
  print('Linux boots; its disk and its network card are functions on the PCI bus of v86:')
  const first = new Machine(await boot(), image.slice())
  first.guest.run()
  await first.guest.printed('UP', BOOT_MS)
  await first.guest.printed('HALF', WORK_MS)

  print('The machine is saved where it is, and a second one goes on from there:')
  // The guest stands still first; then its devices have time to complete what they took.
  const v86 = await first.guest.stopAndSave()
  const functions = await first.host.save()
  const second = new Machine(await boot(), first.disk.slice())
  await first.guest.end()
  await second.guest.restore(v86)
  second.host.restore(structuredClone(functions))
  second.guest.run()
  await second.guest.printed('DONE', WORK_MS)
  await second.guest.end()

  const faults = [first, second].flatMap(({ blk, net }) => [...blk.faults.last(), ...net.faults.last()])
  const pings = said.filter((line) => line.startsWith('PING '))
  const copy = fileOfExt4(second.disk, 'copy')
  const checks = [
    { what: 'the guest read the whole disk', ok: said.includes(`READ ${sha256(image)}  -`) },
    {
      what: 'the guest found its file unchanged after the caches were dropped',
      ok: said.includes(`FILE ${sha256(source)}  -`),
    },
    { what: 'the guest unmounted the file system', ok: said.includes('UNMOUNTED') },
    { what: 'e2fsck finds it clean, and the file in it is right', ok: sha256(copy) === sha256(source) },
    { what: 'all pings were answered', ok: pings.length === 4 && pings.every((line) => / 0% packet loss/.test(line)) },
    { what: 'the devices found nothing wrong with their driver', ok: faults.length === 0 },
  ]
  const ok = checks.every((check) => check.ok)
  const { reads, writes } = second.blk.counters
  const counters = { readsAfter: reads, writesAfter: writes, ...second.link.counters }
  if (values.json === true) {
    console.log(JSON.stringify({ ok, checks, counters, said, faults }, null, 2))
    return ok ? 0 : 1
  }
  print('\nWhat the host finds afterwards:')
  for (const { what, ok: good } of checks) print(`  ${good ? '✓' : '✗'} ${what}`)
  for (const fault of faults) print(`    ${JSON.stringify(fault)}`)
  print(`\nThe second machine served ${reads} reads, ${writes} writes and ${second.link.counters.echo} pings.`)
  return ok ? 0 : 1
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(`v86-guest: ${(error as Error).message}`)
  process.exitCode = 1
}
// What keeps running in a v86 that was not ended is of no interest any more.
process.exit()
