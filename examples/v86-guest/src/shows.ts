// What this example shows: a guest that is saved in the middle of its work, and goes on elsewhere.
import { createHash } from 'node:crypto'
import { BlkDevice, everything, MemoryBlockStore, NetDevice } from '@guestdma/devices'
import { fileOfExt4, makeExt4 } from './ext4-image.ts'
import { guestFiles } from './guest-files.ts'
import { type LinuxGuest, linuxGuest } from './linux.ts'
import { memoryOf, PciHost } from './pci-host.ts'
import { PingResponder } from './ping-responder.ts'
import type { Shown } from './show.ts'

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

/** Boots the kernel, or the one that scripts/guest-kernel.mjs builds, and prints as it goes. */
async function savedInTheMiddle(print: (line: string) => void, kernel?: string): Promise<Shown> {
  const files = guestFiles('i386', kernel)
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
  const { reads, writes } = second.blk.counters
  print(`The second machine served ${reads} reads, ${writes} writes and ${second.link.counters.echo} pings.`)
  return { checks, runs: [] }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

export const shows = [
  { name: 'saved', what: 'a guest that is saved in the middle of its work', run: savedInTheMiddle },
] as const
