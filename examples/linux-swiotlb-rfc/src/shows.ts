// What each run of the program shows.
import { createHash } from 'node:crypto'
import { fileOfExt4, type KernelName, makeExt4, type Shown } from '@guestdma/example-v86-guest'
import { STATUS_DEVICE_NEEDS_RESET, STATUS_DRIVER_OK, VIRTIO_F_EVENT_IDX, VIRTIO_F_SWIOTLB } from '@guestdma/spec'
import { ConfinedGuest, type DeviceReport, type Setting } from './confined-guest.ts'

const KIB = 1024
const MIB = 1024 * KIB
/** What Linux needs at least with its disk's requests as long as they are: see `requeued`. */
const ROOMY = 4 * MIB
const BOOT_MS = 60_000
const WORK_MS = 150_000
/** A guest that does nothing for so long hangs; it boots in a few seconds. */
const SILENT_MS = 20_000
const SECRET = 'TOP-SECRET-OF-THE-GUEST-KERNEL'

/** As {@link Shown}, with the devices of this example. */
interface Confined extends Shown {
  readonly runs: readonly { readonly kernel: KernelName; readonly devices: readonly DeviceReport[] }[]
}

export interface Show {
  readonly name: string
  readonly what: string
  run(print: (line: string) => void): Promise<Confined>
}

const source = new Uint8Array(4 * MIB).map((_byte, i) => (i * 31 + (i >>> 8) * 7) & 0xff)

function load(kernel: KernelName, setting: Partial<Setting>, print: (line: string) => void): Promise<ConfinedGuest> {
  print(`Linux ${kernel} boots:`)
  const onLine = (line: string): void => print(`  guest │ ${line}`)
  return ConfinedGuest.load({
    kernel,
    offer: 'required',
    bytes: ROOMY,
    disk: makeExt4(source),
    work: [],
    onLine,
    ...setting,
  })
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** Waits until something stays as it is for so long that nothing is to be expected any more. */
async function standsStill(read: () => string): Promise<boolean> {
  const end = performance.now() + WORK_MS
  let seen = read()
  let since = performance.now()
  while (performance.now() - since < SILENT_MS) {
    if (performance.now() > end) return false
    await sleep(100)
    if (read() === seen) continue
    seen = read()
    since = performance.now()
  }
  return true
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** No address outside of a device's memory, none refused, and nothing held against Linux. Its firmware was refused. */
function confined(devices: readonly DeviceReport[]): Shown['checks'] {
  const faults = devices.flatMap((one) => one.faults.filter(({ kind }) => kind !== 'features'))
  return devices
    .map(({ name, told, outside, refused, negotiated }) => ({
      what: `${name}: ${outside} of ${told} addresses lay outside of its memory, and its port refused ${refused}`,
      ok: outside === 0 && refused === 0 && told > 0 && negotiated.includes(VIRTIO_F_SWIOTLB),
    }))
    .concat({ what: 'the devices found nothing wrong with their driver', ok: faults.length === 0 })
}

async function works(print: (line: string) => void, saved: boolean): Promise<Confined> {
  let disk = makeExt4(source)
  const hash = sha256(disk)
  const setting = { work: ['devices', 'disk', 'net'] }
  const machines = [await load('i386-swiotlb', { ...setting, disk }, print)]
  machines[0].guest.run()
  await machines[0].guest.printed('UP', BOOT_MS)
  if (saved) {
    await machines[0].guest.printed('HALF', WORK_MS)
    const state = await machines[0].save()
    await machines[0].guest.end()
    disk = disk.slice()
    machines.push(await load('i386-swiotlb', { ...setting, disk }, print))
    await machines[1].restore(state)
    machines[1].guest.run()
  }
  const { guest, link } = machines[machines.length - 1]
  await guest.printed('DONE', WORK_MS)
  await guest.end()
  const lines = machines.flatMap((machine) => machine.guest.lines)
  const runs = machines.map((machine) => ({ kernel: 'i386-swiotlb' as const, devices: machine.report() }))
  const copy = sha256(fileOfExt4(disk, 'copy'))
  const pings = lines.filter((line) => line.startsWith('PING '))
  return {
    runs,
    checks: [
      { what: 'the guest read the whole disk', ok: lines.includes(`READ ${hash}  -`) },
      { what: 'the guest found its file unchanged', ok: lines.includes(`FILE ${sha256(source)}  -`) },
      { what: 'e2fsck finds the disk clean, and the file in it is right', ok: copy === sha256(source) },
      {
        what: `${link.counters.echo} pings were answered`,
        ok: pings.length === 4 && pings.every((one) => one.includes(' 0% ')),
      },
      ...runs.flatMap(({ devices }) => confined(devices)),
    ],
  }
}

async function refused(print: (line: string) => void): Promise<Confined> {
  const machine = await load('i386', { work: ['devices'] }, print)
  const { guest } = machine
  guest.run()
  await guest.printed('DONE', BOOT_MS)
  const devices = machine.report()
  await guest.end()
  return {
    runs: [{ kernel: 'i386', devices }],
    checks: [
      {
        what: 'Linux says of both that the device refuses features, and boots to its end',
        ok: guest.lines.filter((line) => line.includes('device refuses features')).length === 2,
      },
      {
        what: 'the firmware, which looks for a disk first, was refused as well',
        ok: devices[0].faults.filter(({ kind }) => kind === 'features').length === 2,
      },
      ...devices.map(({ name, told, refused: count }) => ({
        what: `${name}: was told no address, and its port refused none`,
        ok: told === 0 && count === 0,
      })),
    ],
  }
}

async function hangs(print: (line: string) => void): Promise<Confined> {
  const offers = ['offered', 'hint'] as const
  const runs: Confined['runs'][number][] = []
  const checks: Shown['checks'][number][] = []
  for (const offer of offers) {
    const machine = await load('i386', { offer, work: ['devices'] }, print)
    const { guest, blk } = machine
    guest.run()
    // The firmware comes first and gives up after a while; Linux prints nothing before it meets the disk.
    const stuck = STATUS_DEVICE_NEEDS_RESET | STATUS_DRIVER_OK
    const silent = await standsStill(() => `${blk.status & stuck} ${blk.negotiated} ${guest.lines.length}`)
    const devices = machine.report()
    await guest.end()
    runs.push({ kernel: 'i386', devices })
    const how = offer === 'offered' ? 'bit 27 offered' : 'the capability alone'
    const [disk] = devices
    checks.push(
      { what: `${how}: the guest prints nothing for ${SILENT_MS / 1000} s`, ok: silent && !guest.lines.includes('UP') },
      {
        what: `${how}: the disk needs a reset, and Linux does not look`,
        // The firmware's driver takes no event index.
        ok: (blk.status & stuck) === stuck && blk.negotiated.has(VIRTIO_F_EVENT_IDX),
      },
      {
        what: `${how}: ${disk.outside} of ${disk.told} addresses lay outside of its memory, and it reached none`,
        ok: disk.outside > 0 && disk.refused > 0,
      },
    )
  }
  return { runs, checks }
}

async function requeued(print: (line: string) => void): Promise<Confined> {
  const bytes = 512 * KIB
  const runs: Confined['runs'][number][] = []
  const first = await load('i386-swiotlb-1', { bytes, work: ['disk'] }, print)
  first.guest.run()
  await first.guest.printed('MOUNTED', WORK_MS)
  const stuck = await standsStill(() => `${first.blk.counters.reads} ${first.blk.counters.writes}`)
  const before = first.report()[0].accesses
  await sleep(1000)
  runs.push({ kernel: 'i386-swiotlb-1', devices: first.report() })
  const copied = runs[0].devices[0].accesses - before
  await first.guest.end()
  const mended = await load('i386-swiotlb', { bytes, work: ['disk'] }, print)
  mended.guest.run()
  await mended.guest.printed('UNMOUNTED', WORK_MS)
  runs.push({ kernel: 'i386-swiotlb', devices: mended.report() })
  await mended.guest.end()
  return {
    runs,
    checks: [
      {
        what: 'with the first patch alone no request comes to its end',
        ok: stuck && !first.guest.lines.includes('UNMOUNTED'),
      },
      { what: `meanwhile the guest goes on copying into the memory: ${copied} accesses`, ok: copied > 0 },
      {
        what: 'with a bound on each mapping and request the same memory is enough',
        ok: mended.guest.lines.includes(`FILE ${sha256(source)}  -`),
      },
      ...runs.flatMap(({ devices }) => confined(devices)),
    ],
  }
}

async function starved(print: (line: string) => void): Promise<Confined> {
  // 512 KiB for data: one slot for each of the 256 receive buffers, and none for anything else.
  const bytes = 768 * KIB
  const first = await load('i386-swiotlb-1', { bytes, work: ['ping3'] }, print)
  first.guest.run()
  const line = await first.guest.printed('PING', WORK_MS)
  const { transmitted } = first.net.counters
  const runs: Confined['runs'][number][] = [{ kernel: 'i386-swiotlb-1', devices: first.report() }]
  await first.guest.end()
  const mended = await load('i386-swiotlb', { bytes, work: ['net'] }, print)
  mended.guest.run()
  await mended.guest.printed('DONE', WORK_MS)
  const pings = mended.guest.lines.filter((one) => one.startsWith('PING '))
  runs.push({ kernel: 'i386-swiotlb', devices: mended.report() })
  await mended.guest.end()
  return {
    runs,
    checks: [
      { what: 'with the first patch alone no ping is answered', ok: line.includes('100% packet loss') },
      {
        what: 'no frame was sent at all, with receive buffers to spare',
        ok: transmitted === 0 && first.link.counters.echo === 0,
      },
      {
        what: `with a part of the memory kept for what is sent ${mended.link.counters.echo} pings are answered`,
        ok: pings.length === 4 && pings.every((one) => one.includes(' 0% ')),
      },
      ...runs.flatMap(({ devices }) => confined(devices)),
    ],
  }
}

async function copies(print: (line: string) => void): Promise<Confined> {
  const runs: Confined['runs'][number][] = []
  for (const kernel of ['i386-swiotlb-1', 'i386-swiotlb'] as const) {
    const machine = await load(kernel, { secret: SECRET, work: ['secret', 'disk', 'net'] }, print)
    machine.guest.run()
    await machine.guest.printed('DONE', WORK_MS)
    runs.push({ kernel, devices: machine.report() })
    await machine.guest.end()
  }
  const [first, all] = runs.map(({ devices }) => totals(devices))
  return {
    runs,
    checks: [
      {
        what: `with the first patch alone, buffers to fill held the freed line ${first.secrets} times`,
        ok: first.secrets > 1000,
      },
      { what: `where slots are cleared they held it ${all.secrets} times`, ok: all.secrets === 0 },
      {
        what: `memcpy became ${first.accesses} accesses for ${first.bytes} bytes`,
        ok: first.accesses > 0.9 * first.bytes,
      },
      { what: `copies of 32 bits became ${all.accesses} for ${all.bytes}`, ok: all.accesses < 0.3 * all.bytes },
      ...runs.flatMap(({ devices }) => confined(devices)),
    ],
  }
}

/** Over both devices of a run. */
export function totals(devices: readonly DeviceReport[]): Pick<DeviceReport, 'secrets' | 'accesses' | 'bytes'> {
  const sum = (key: 'secrets' | 'accesses' | 'bytes'): number => devices.reduce((all, one) => all + one[key], 0)
  return { secrets: sum('secrets'), accesses: sum('accesses'), bytes: sum('bytes') }
}

export const shows: readonly Show[] = [
  {
    name: 'works',
    what: 'the guest half of the RFC: disk, ext4 and pings, and no address outside',
    run: (print) => works(print, false),
  },
  {
    name: 'saved',
    what: 'the same, saved in the middle of requests; another machine goes on',
    run: (print) => works(print, true),
  },
  { name: 'refused', what: 'a guest without it, where bit 27 is required', run: refused },
  {
    name: 'hangs',
    what: 'a guest without it, where the device is confined and requires nothing',
    run: hangs,
  },
  { name: 'requeued', what: 'requests that can never fit the memory', run: requeued },
  { name: 'starved', what: 'receive buffers that take all of the memory', run: starved },
  {
    name: 'copies',
    what: 'what is copied into the memory for a device to overwrite, and how wide',
    run: copies,
  },
]
