import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Peer, spawnPeer } from '@guestdma/node'
import { expectIs, pattern, until } from '../work/workloads.ts'
import { arm64Files } from './arm64-image.ts'
import { ended, resultOf } from './arm64-report.ts'
import {
  ARM64_QUEUE_SIZE,
  type Arm64Device,
  type Arm64Scheme,
  arm64Schemes,
  bootArm64,
  poolOf,
  servedBlk,
} from './arm64-scheme.ts'
import { hashOf } from './file-system.ts'

/** How fast a guest reads two disks with the same bytes by one scheme, in turns. */
export interface GuestSpeed {
  readonly scheme: string
  readonly work: string
  /** Bytes per second of the disk that a `BlkDevice` of another process serves over vhost-user: the median. */
  readonly served: number
  /** The same of QEMU's own virtio-blk. */
  readonly own: number
  /** The first of these two divided by the second. */
  readonly ratio: number
  /** The least and the most of the ratios of single rounds. */
  readonly least: number
  readonly most: number
}

/** As `init.sh` names them. */
const WORKS = { random: '4 KiB at random', sequential: '1 MiB in order' } as const
const DISK = 32 << 20
/** QEMU's own disk, behind its IOMMU, tells of faults where its ring lies in several pages. */
const PCI_QUEUE_SIZE = 256
const BOOT_MS = 120_000
/** For all rounds of a guest. */
const ROUNDS_MS = 240_000

/** The schemes in their order, each in a guest of its own. Yields its figures when it is done. */
export async function* measureGuests(): AsyncGenerator<GuestSpeed> {
  for (const scheme of arm64Schemes) yield* await measure(scheme)
}

async function measure(scheme: Arm64Scheme): Promise<GuestSpeed[]> {
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-speed-'))
  try {
    const file = join(dir, 'disk.raw')
    const bytes = pattern(DISK, 11)
    const queueSize = scheme.translated ? PCI_QUEUE_SIZE : ARM64_QUEUE_SIZE
    writeFileSync(file, bytes)
    await using server = serveDisk(scheme, [join(dir, 'socket'), file, String(queueSize)])
    await until('the disk to be served', () => existsSync(join(dir, 'socket')), server)
    await using guest = bootArm64(scheme, [servedBlk(join(dir, 'socket'), queueSize), ownBlk(file, queueSize)], {
      files: arm64Files(dir),
      dir,
      work: 'work=speed',
    })
    await guest.printed(/^RESULT vdb \S+\s/m, BOOT_MS)
    for (const disk of ['vda', 'vdb']) expectIs(`the hash of ${disk}`, resultOf(guest, disk), hashOf(bytes))
    await guest.printed(/^RESULT rounds \d+\s/m, ROUNDS_MS)
    const rounds = Number(resultOf(guest, 'rounds'))
    await ended(guest)
    return (['random', 'sequential'] as const).map((order) => compare(scheme, order, guest.serial(), rounds))
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** QEMU's own device over the same bytes. */
function ownBlk(file: string, queueSize: number): Arm64Device {
  return ({ suffix, options }) => [
    ...['-drive', `if=none,id=own,file=${file},format=raw`],
    ...['-device', `virtio-blk-${suffix},drive=own,num-queues=1,queue-size=${queueSize},${options}`],
  ]
}

/** A process of its own: nothing else has to wait for its event loop. */
function serveDisk({ pools, translated }: Arm64Scheme, words: readonly string[]): Peer {
  // Run from the sources what is started is a source as well, and compiled it is compiled.
  const suffix = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const program = fileURLToPath(new URL(`../disk-server.${suffix}`, import.meta.url))
  const { base, length } = poolOf(0)
  const reach = translated ? 'translated' : pools ? `${base}-${length}` : 'all'
  return spawnPeer({
    command: process.execPath,
    args: [...process.execArgv, program, ...words, reach],
  })
}

function compare({ backend }: Arm64Scheme, order: keyof typeof WORKS, serial: string, count: number): GuestSpeed {
  const [served, own] = ['vda', 'vdb'].map((disk) => {
    const rounds = [...serial.matchAll(new RegExp(`^RESULT ${order}-${disk}-\\d+ (\\d+) (\\d+)`, 'gm'))]
    expectIs(`rounds of ${disk}`, rounds.length, count)
    return rounds.map(([, bytes, microseconds]) => (Number(bytes) * 1e6) / Number(microseconds))
  })
  const ratios = served.map((rate, i) => rate / own[i])
  return {
    scheme: backend,
    work: WORKS[order],
    served: median(served),
    own: median(own),
    ratio: median(served) / median(own),
    least: Math.min(...ratios),
    most: Math.max(...ratios),
  }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]
}
