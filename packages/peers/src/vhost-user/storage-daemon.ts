import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Peer, spawnPeer } from '@guestdma/node'
import { type Machine, MachineEvents } from 'guestdma'
import type { CaseProgress, PeerCase, PeerProgram } from '../matrix/case.ts'
import { programPeer } from '../matrix/program-peer.ts'
import { expectInside } from '../work/audit.ts'
import { diskWork, expectIs, expectSame, pattern, wholeDisk } from '../work/workloads.ts'
import { type VhostSite, vhostSite } from './site.ts'

export const storageDaemon: PeerProgram = programPeer(
  'qemu-storage-daemon',
  'QEMU storage daemon',
  'qemu-storage-daemon',
  ['qemu-system-common'],
)

const DISK = 2 << 20
const BLK = { name: 'disk', deviceId: 2, queues: 1 } as const

/** A daemon, its disk, and the guest's side. */
interface DaemonSite {
  readonly site: VhostSite
  readonly path: string
  readonly disk: string
  start(): Peer
}

async function withDaemon(progress: CaseProgress, body: (at: DaemonSite) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-peers-'))
  const [path, disk] = [join(dir, 'socket'), join(dir, 'disk.raw')]
  writeFileSync(disk, pattern(DISK, 5))
  const site = vhostSite('shared-pool', BLK)
  const peers: Peer[] = []
  const start = (): Peer => {
    progress.saw('the daemon is starting')
    const peer = spawnPeer({
      command: 'qemu-storage-daemon',
      args: [
        ...['--blockdev', `driver=file,node-name=file,filename=${disk}`],
        ...['--blockdev', 'driver=raw,node-name=disk,file=file'],
        ...['--export', `type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=${path},writable=on`],
      ],
    })
    peers.push(peer)
    return peer
  }
  try {
    await body({ site, path, disk, start })
  } finally {
    site.close()
    for (const peer of peers) await peer.close()
    rmSync(dir, { recursive: true, force: true })
  }
}

const work =
  (queueSize?: number): PeerCase['run'] =>
  (progress) =>
    withDaemon(progress, async ({ site, path, disk, start }) => {
      const peer = start()
      const more = queueSize === undefined ? {} : { queueSize }
      const machine = await site.machine(site.connect(path), peer, more, new MachineEvents())
      let model = await diskWork(machine, 'disk', pattern(DISK, 5), progress)
      await machine.reset('disk')
      model = await diskWork(machine, 'disk', model, progress, { rounds: 6, seed: 2 })
      expectInside(site.audits)
      await machine.close()
      expectSame('the file', readFileSync(disk), model)
    })

/** Writes that are cut off by the daemon's death are submitted again over another connection, by the caller. */
const reconnect: PeerCase['run'] = (progress) =>
  withDaemon(progress, async ({ site, path, disk, start }) => {
    const first = start()
    const machine = await site.machine(site.connect(path), first, {}, new MachineEvents())
    const model = pattern(DISK, 5)
    await wholeDisk(machine, 'disk', model)
    const part = 64 << 10
    const written = pattern(DISK, 77)
    const write = (over: Machine, i: number): Promise<void> =>
      over.blk('disk').writeBytes((i * part) / 512, written.subarray(i * part, (i + 1) * part))
    process.kill(first.pid, 'SIGSTOP')
    const outcomes = Promise.allSettled(Array.from({ length: DISK / part }, (_, i) => write(machine, i)))
    machine.pump()
    process.kill(first.pid, 'SIGKILL')
    await first.exited
    progress.saw('the daemon was killed')
    const failed = (await machine.run(outcomes)).flatMap((one, i) => (one.status === 'rejected' ? [i] : []))
    expectIs('that requests failed', failed.length > 0, true)
    await machine.close().catch(() => {})
    expectIs('guest RAM in use', machine.ram.allocated, 0)
    const second = start()
    const again = await site.machine(site.connect(path), second, {}, new MachineEvents())
    progress.saw('connected again')
    await again.run(Promise.all(failed.map((i) => write(again, i))))
    await again.run(again.blk('disk').flush())
    await wholeDisk(again, 'disk', written)
    await again.close()
    expectSame('the file', readFileSync(disk), written)
  })

export const storageDaemonCases: readonly PeerCase[] = [
  ['', work()],
  ['queue of 4', work(4)],
  ['queue of 256', work(256)],
  ['killed, and connected again', reconnect],
].map(
  ([what, run]): PeerCase => ({
    peer: 'qemu-storage-daemon',
    role: 'device',
    driver: 'blk',
    ring: 'split',
    backend: 'shared-pool',
    transport: 'vhost-user',
    what: what as string,
    run: run as PeerCase['run'],
  }),
)
