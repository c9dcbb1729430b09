import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BlkDevice, type BlockRequest, BusWindows, MemoryBlockStore } from '@guestdma/devices'
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
  /** The machine is stopped and goes on while the guest works, so many times. */
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

/** A store whose answers come later, as those of a real one do: requests are in flight when the machine is stopped. */
class LaterStore extends MemoryBlockStore {
  override read(request: BlockRequest): void {
    setTimeout(() => super.read(request), 1)
  }

  override write(request: BlockRequest): void {
    setTimeout(() => super.write(request), 1)
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
      const devices = [source, target, files].map((bytes, i) => {
        const name = `disk${i}`
        const port = translated ? new IotlbPort(name) : new BusWindows(name)
        const store = stops > 0 ? new LaterStore(bytes) : new MemoryBlockStore(bytes)
        const device = new BlkDevice({ name, port, store, accessPlatform: 'offered' })
        servers.push(VhostUserServer.listen({ path: socketPath(), device }))
        return device
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
      for (const text of ['RESULT read', 'RESULT copy', 'RESULT mounted']) {
        await guest.printed(text, BOOTED_MS)
        saw(`the guest printed ${text}`)
      }
      for (let i = 0; i < stops && !guest.peer.ended; i++) {
        guest.peer.stdin.write('stop\n')
        await new Promise((resolve) => setTimeout(resolve, 30))
        guest.peer.stdin.write('cont\n')
        await new Promise((resolve) => setTimeout(resolve, 100))
        saw(`stopped and continued ${i + 1} times`)
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
        ...devices.flatMap(({ faults }) => faults.last()),
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
