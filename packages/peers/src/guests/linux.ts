import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BlkDevice, type BlockRequest, BusWindows, MemoryBlockStore, type QueuePosition } from '@guestdma/devices'
import { IotlbPort, VhostUserServer } from '@guestdma/vhost-user'
import type { PeerCase } from '../matrix/case.ts'
import { expectIs, expectSame, pattern, socketPath, until } from '../work/workloads.ts'
import { checkFileSystem, emptyFileSystem, hashOf } from './file-system.ts'
import { servedDisk, startGuest } from './guest-machine.ts'
import { bootFiles } from './linux-image.ts'

/** How the guest reaches the device. */
interface Setting {
  readonly backend: string
  readonly what?: string
  /** For the kernel. */
  readonly append?: string
  /** Of each device. */
  readonly device?: string
  /** Of the machine. */
  readonly machine?: readonly string[]
  /** The front end translates addresses. */
  readonly translated?: boolean
  /** The machine is stopped with requests in flight, and goes on, so many times. */
  readonly stops?: number
}

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

function run({
  append = '',
  device: options = '',
  machine = [],
  translated = false,
  stops = 0,
}: Setting): PeerCase['run'] {
  return async ({ saw }) => {
    const dir = mkdtempSync(join(tmpdir(), 'guestdma-linux-'))
    const servers: VhostUserServer[] = []
    try {
      const { kernel, initrd } = bootFiles(dir)
      const source = pattern(DISK, 11)
      const target = new Uint8Array(DISK)
      const files = emptyFileSystem(dir, DISK)
      const disks = [source, target, files].map((bytes, i) => {
        const name = `disk${i}`
        const port = translated ? new IotlbPort(name) : new BusWindows(name)
        const store = new HeldStore(bytes)
        const device = new StoppedDisk({ name, port, store, accessPlatform: 'offered' })
        servers.push(VhostUserServer.listen({ path: socketPath(), device }))
        return { device, store }
      })
      await using guest = startGuest({
        memory: '256M',
        args: [
          ...machine,
          ...servers.flatMap(({ path }, i) => servedDisk(path, options.replaceAll('N', String(i)))),
          ...['-kernel', kernel, '-initrd', initrd],
          ...['-append', `console=ttyS0 quiet panic=-1 work=${WORK} ${append}`, '-monitor', 'stdio'],
        ],
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
      const lacking = (): string => `the guest to switch itself off; it printed: ${guest.serial().slice(-600)}`
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
      const faults = [
        ...disks.flatMap(({ device }) => device.faults.last()),
        ...servers.flatMap((one) => one.faults.last().map(String)),
      ]
      expectIs('faults', faults, [])
    } finally {
      for (const server of servers) server.close()
      rmSync(dir, { recursive: true, force: true })
    }
  }
}

const settings: readonly Setting[] = [
  { backend: 'direct' },
  { backend: 'direct', what: 'stopped and continued', stops: 20 },
  { backend: 'swiotlb', append: 'swiotlb=force', device: ',iommu_platform=on' },
  {
    backend: 'intel-iommu',
    append: 'intel_iommu=on iommu.passthrough=0 iommu.strict=1',
    machine: [
      ...['-device', 'intel-iommu,device-iotlb=on'],
      ...[0, 1, 2].flatMap((i) => ['-device', `pcie-root-port,id=port${i},chassis=${i},slot=${i}`]),
    ],
    device: ',iommu_platform=on,ats=on,bus=portN',
    translated: true,
  },
]

export const linuxCases: readonly PeerCase[] = settings.map((setting) => ({
  peer: 'linux',
  role: 'driver',
  driver: 'blk',
  ring: 'split',
  backend: setting.backend,
  transport: 'vhost-user',
  what: setting.what ?? '',
  deadlineMs: 180_000,
  run: run(setting),
}))
