import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BlkDevice, type BlockRequest, MemoryBlockStore, type QueuePosition } from '@guestdma/devices'
import { VhostUserServer } from '@guestdma/vhost-user'
import type { PeerCase } from '../matrix/case.ts'
import { expectIs, expectSame, pattern, socketPath, until } from '../work/workloads.ts'
import { checkFileSystem, emptyFileSystem, hashOf } from './file-system.ts'
import { QEMU_QUEUE_SIZE, servedDisk } from './guest-machine.ts'
import { bootFiles } from './linux-image.ts'
import { direct, type LinuxScheme, linuxSchemes, portOf, startLinux } from './linux-scheme.ts'

const MIB = 1 << 20
const DISK = 24 * MIB
const BOOTED_MS = 90_000

/** Where on the second disk the guest writes what it has to say: a serial port of QEMU's says nothing after some stops. */
const REPORT = 20 * MIB

/**
 * Reads the first disk; copies a part of it to the second, several at once; and writes into the file system that the
 * host made on the third.
 */
const WORK = 'read,copy,files,report'

/** A store that keeps requests while it is told to, so that they are in flight when the machine is stopped. */
class HeldStore extends MemoryBlockStore {
  holding = false
  readonly held: (() => void)[] = []

  override read(request: BlockRequest): void {
    this.take(() => super.read(request))
  }

  override write(request: BlockRequest): void {
    this.take(() => super.write(request))
  }

  release(): void {
    this.holding = false
    for (const answer of this.held.splice(0)) answer()
  }

  private take(answer: () => void): void {
    if (this.holding) this.held.push(answer)
    else answer()
  }
}

/** Tells for how many requests in flight its queue cannot stop yet. */
class StoppedDisk extends BlkDevice {
  waitsFor = 0

  override stopQueue(queue: BlkDevice['queues'][number]): QueuePosition | null {
    const position = super.stopQueue(queue)
    this.waitsFor = position === null ? this.inFlightOf(queue) : 0
    return position
  }
}

/** `stops`: the machine is stopped with requests in flight, and goes on, so many times. */
function run(scheme: LinuxScheme, stops: number = 0): PeerCase['run'] {
  return async ({ saw }) => {
    const dir = mkdtempSync(join(tmpdir(), 'guestdma-linux-'))
    const servers: VhostUserServer[] = []
    try {
      const kernel = bootFiles(dir)
      const source = pattern(DISK, 11)
      const target = new Uint8Array(DISK)
      const files = emptyFileSystem(dir, DISK)
      const disks = [source, target, files].map((bytes, i) => {
        const name = `disk${i}`
        const store = new HeldStore(bytes)
        const device = new StoppedDisk({
          name,
          port: portOf(scheme, name),
          store,
          queueSize: QEMU_QUEUE_SIZE,
          accessPlatform: 'offered',
        })
        servers.push(VhostUserServer.listen({ path: socketPath(), device }))
        return { device, store }
      })
      await using guest = startLinux(scheme, {
        files: kernel,
        devices: servers.map(
          ({ path }) =>
            (options) =>
              servedDisk(path, options),
        ),
        words: `work=${WORK}`,
        args: ['-monitor', 'stdio'],
      })
      saw('the machine is starting')
      // Where it is stopped, its serial port says nothing after some of the stops.
      for (const text of ['RESULT read', ...(stops > 0 ? [] : ['RESULT copy', 'RESULT mounted'])]) {
        await guest.printed(text, BOOTED_MS)
        saw(`the guest printed ${text}`)
      }
      let met = 0
      for (let i = 0; i < stops; i++) {
        // The first half while it copies to the second disk, the others while it fills the third.
        const { device, store } = disks[i < stops / 2 ? 1 : 2]
        store.holding = true
        await until('a request', () => store.held.length > 0, guest.peer)
        guest.peer.stdin.write('stop\n')
        await until('a stop that waits for requests in flight', () => device.waitsFor > 0, guest.peer)
        met += device.waitsFor
        store.release()
        guest.peer.stdin.write('cont\n')
        saw(`stopped and continued ${i + 1} times, with ${met} requests in flight`)
      }
      const faults = (): unknown[] => [
        ...disks.flatMap(({ device }) => device.faults.last()),
        ...servers.flatMap((one) => one.faults.last().map(String)),
      ]
      const lacking = (): string =>
        `the guest to switch itself off; faults: ${JSON.stringify(faults())}; it printed: ${guest.serial().slice(-600)}`
      await until(lacking, () => guest.peer.ended, undefined, BOOTED_MS)
      const report = Buffer.from(target.subarray(REPORT, REPORT + 4096))
        .toString('latin1')
        .replaceAll('\0', '')
      saw(`the guest reported ${report}`)
      const said = (word: string): string => new RegExp(`^RESULT ${word} ([0-9a-f]+)`, 'm').exec(report)?.[1] ?? ''
      expectIs('the hash of the whole disk', said('read'), hashOf(source))
      const half = 8 * MIB
      expectSame('the copied disk', target.subarray(0, half), source.subarray(0, half))
      expectIs('the hash of the file', said('file'), hashOf(source.subarray(0, half)))
      expectIs('the file system was unmounted', report.includes('RESULT unmounted'), true)
      checkFileSystem(dir, files, source.subarray(0, half))
      expectIs('faults', faults(), [])
    } finally {
      for (const server of servers) server.close()
      rmSync(dir, { recursive: true, force: true })
    }
  }
}

const [, ...others] = linuxSchemes

export const linuxCases: readonly PeerCase[] = [
  row(direct, '', run(direct)),
  row(direct, 'stopped and continued', run(direct, 20)),
  ...others.map((scheme) => row(scheme, '', run(scheme))),
]

function row({ backend }: LinuxScheme, what: string, work: PeerCase['run']): PeerCase {
  const labels = { peer: 'linux', role: 'driver', driver: 'blk', ring: 'split', transport: 'vhost-user' } as const
  return { ...labels, backend, what, deadlineMs: 180_000, run: work }
}
