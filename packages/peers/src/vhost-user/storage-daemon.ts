import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Machine, RemoteConfig } from 'guestdma'
import type { CaseProgress, PeerCase, PeerProgram } from '../matrix/case.ts'
import { programPeer } from '../matrix/program-peer.ts'
import { expectInside } from '../work/audit.ts'
import { diskWork, expectIs, expectSame, pattern, wholeDisk } from '../work/workloads.ts'
import { type WrongAddress, wrongAddressScheme } from '../work/wrong-address.ts'
import { closeLost, codeOf } from './lost.ts'
import { type VhostSetting, type VhostSite, vhostSite } from './site.ts'
import { startStorageDaemon, type VhostUserPeer } from './start.ts'

export const storageDaemon: PeerProgram = programPeer(
  'qemu-storage-daemon',
  'QEMU storage daemon',
  'qemu-storage-daemon',
  ['qemu-system-common'],
)

const DISK = 2 << 20
const SECTOR = 512

/** A disk, daemons that serve it, and guests that drive it. */
interface DaemonSite {
  readonly disk: string
  start(): VhostUserPeer
  /** A machine over a new connection, and a pool of its own. */
  drive(daemon: VhostUserPeer, more?: Partial<RemoteConfig>, setting?: VhostSetting): Promise<[Machine, VhostSite]>
}

async function withDaemon(progress: CaseProgress, body: (at: DaemonSite) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-peers-'))
  const disk = join(dir, 'disk.raw')
  writeFileSync(disk, pattern(DISK, 5))
  const sites: VhostSite[] = []
  const daemons: VhostUserPeer[] = []
  try {
    await body({
      disk,
      start() {
        progress.saw('the daemon is starting')
        const daemon = startStorageDaemon(disk)
        daemons.push(daemon)
        return daemon
      },
      async drive({ peer, path }, more, setting) {
        const site = vhostSite('shared-pool', { name: 'disk', deviceId: 2, queues: 1 }, setting)
        sites.push(site)
        const machine = await site.machine(site.connect(path), peer, more)
        progress.saw('connected')
        return [machine, site]
      },
    })
  } finally {
    for (const site of sites) site.close()
    for (const { peer } of daemons) await peer.close()
    rmSync(dir, { recursive: true, force: true })
  }
}

const work =
  (queueSize?: number): PeerCase['run'] =>
  (progress) =>
    withDaemon(progress, async ({ disk, start, drive }) => {
      const [machine, { audits }] = await drive(start(), queueSize === undefined ? {} : { queueSize })
      if (queueSize !== undefined) expectIs('the queue', machine.blk('disk').session.queues[0].size, queueSize)
      let model = await diskWork(machine, 'disk', pattern(DISK, 5), progress)
      await machine.reset('disk')
      model = await diskWork(machine, 'disk', model, progress, { rounds: 6, seed: 2 })
      expectInside(audits)
      await machine.close()
      expectSame('the file', readFileSync(disk), model)
    })

/** How a daemon fails that has requests. It is stopped when they are submitted. */
interface Failure {
  readonly what: string
  /** What it gets then. */
  readonly signal?: 'SIGKILL' | 'SIGCONT'
  /** One of the requests is to write where the daemon was given nothing. */
  readonly outside?: boolean
  /** Why the driver gives it up. */
  readonly why: string
  /** How long it may take. */
  readonly deadlineMs?: number
  /** The daemon may still reach what it was given, so that memory stays out of use. */
  readonly quarantined: boolean
}

/** Guest RAM, of which the daemon is given nothing. */
const OUTSIDE = 0x8000_0000
const ANSWER_MS = 2000

/** Each request ends with a typed error. What was in flight is submitted again, by the caller, over another connection. */
const failing =
  ({ signal, outside = false, why, deadlineMs, quarantined }: Failure): PeerCase['run'] =>
  (progress) =>
    withDaemon(progress, async ({ disk, start, drive }) => {
      const daemon = start()
      const { peer } = daemon
      const backends: WrongAddress[] = []
      const setting: VhostSetting = {
        ...(deadlineMs === undefined ? {} : { deadlineMs }),
        scheme: (scheme) => wrongAddressScheme(scheme, SECTOR, (made) => backends.push(made)),
      }
      const [machine] = await drive(daemon, {}, setting)
      await wholeDisk(machine, 'disk', pattern(DISK, 5))
      const part = 64 << 10
      const written = pattern(DISK, 77)
      const write = (over: Machine, i: number): Promise<void> =>
        over.blk('disk').writeBytes((i * part) / SECTOR, written.subarray(i * part, (i + 1) * part))
      process.kill(peer.pid, 'SIGSTOP')
      if (outside) backends[0].next = OUTSIDE
      const stray = outside ? [machine.blk('disk').readBytes(0, SECTOR)] : []
      const writes = Array.from({ length: DISK / part }, (_, i) => write(machine, i))
      const outcomes = Promise.all([Promise.allSettled(writes), Promise.allSettled(stray)])
      machine.pump()
      if (signal !== undefined) process.kill(peer.pid, signal)
      if (signal === 'SIGKILL') await peer.exited
      progress.saw('the daemon fails')
      const { broken } = await machine.run(outcomes).then(() => machine.blk('disk'))
      const [ended, strayed] = await outcomes
      const failed = ended.flatMap((one, i) => (one.status === 'rejected' ? [i] : []))
      const codes = [...ended, ...strayed].flatMap((one) => (one.status === 'rejected' ? [codeOf(one.reason)] : []))
      expectIs('how requests ended', [...new Set(codes)], ['DRIVER_DEVICE_BROKEN'])
      expectIs('that requests in flight failed', failed.length > 0, true)
      expectIs('requests outside that failed', codes.length - failed.length, outside ? 1 : 0)
      expectIs('why', codeOf(broken?.cause) ?? `no answer for ${broken?.details.requestDeadlineMs} ms`, why)
      if (outside) expectIs('that the daemon tells of it', peer.output().includes('invalid address'), true)
      await closeLost(machine, quarantined)
      if (!quarantined) expectIs('bytes of the pool in use', backends[0].counters.allocatedBytes, 0)
      expectIs('that the process goes on', !peer.ended, quarantined)
      if (!peer.ended) process.kill(peer.pid, 'SIGCONT')
      const [again] = await drive(peer.ended ? start() : daemon)
      await again.run(Promise.all(failed.map((i) => write(again, i))))
      await again.run(again.blk('disk').flush())
      await wholeDisk(again, 'disk', written)
      await again.close()
      expectSame('the file', readFileSync(disk), written)
    })

const failures: readonly Failure[] = [
  { what: 'killed, and connected again', signal: 'SIGKILL', why: 'TRANSPORT_LOST', quarantined: false },
  {
    what: 'an address outside, and connected again',
    signal: 'SIGCONT',
    outside: true,
    why: 'TRANSPORT_LOST',
    quarantined: true,
  },
  {
    what: 'hangs, and connected again',
    why: `no answer for ${ANSWER_MS} ms`,
    deadlineMs: ANSWER_MS,
    quarantined: true,
  },
]

const labels = {
  peer: 'qemu-storage-daemon',
  role: 'device',
  driver: 'blk',
  ring: 'split',
  backend: 'shared-pool',
  transport: 'vhost-user',
} as const

export const storageDaemonCases: readonly PeerCase[] = [
  { ...labels, what: '', run: work() },
  ...[4, 256].map((size) => ({ ...labels, what: `queue of ${size}`, run: work(size) })),
  ...failures.map((failure) => ({ ...labels, what: failure.what, run: failing(failure) })),
]
