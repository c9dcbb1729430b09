import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BlkDevice, type BlockRequest, BusWindows, MemoryBlockStore } from '@guestdma/devices'
import { IotlbPort, VhostUserServer } from '@guestdma/vhost-user'
import { type PeerCase, SkippedCase } from '../matrix/case.ts'
import { expectIs, expectSame, pattern, socketPath, until } from '../work/workloads.ts'
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
const SCRIPT = `
echo "READ $(sha256sum < /dev/vda)" | tee -a /report
for j in 0 1 2 3; do dd if=/dev/vda of=/dev/vdb bs=4k count=512 seek=$((j * 512)) skip=$((j * 512)) oflag=direct iflag=direct 2>/dev/null & done; wait
echo "COPIED" | tee -a /report
mount -t ext4 /dev/vdc /mnt && echo "MOUNTED" | tee -a /report
dd if=/dev/vda of=/mnt/copy bs=64k count=128 conv=fsync 2>/dev/null
mkdir /mnt/d; for i in $(seq 1 100); do echo "file $i" > /mnt/d/$i; done
sync
echo 3 > /proc/sys/vm/drop_caches
echo "FILE $(sha256sum < /mnt/copy)" | tee -a /report
umount /mnt && echo "UNMOUNTED" | tee -a /report
dd if=/report of=/dev/vdb bs=512 seek=${REPORT / 512} conv=sync 2>/dev/null
`

/** A store whose answers come later, as those of a real one do: requests are in flight when the machine is stopped. */
class LaterStore extends MemoryBlockStore {
  override read(request: BlockRequest): void {
    setTimeout(() => super.read(request), 1)
  }

  override write(request: BlockRequest): void {
    setTimeout(() => super.write(request), 1)
  }
}

function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** A file system with a journal, made by the host. */
function emptyFileSystem(dir: string): Uint8Array {
  const path = join(dir, 'fs')
  writeFileSync(path, new Uint8Array(DISK))
  const { status } = spawnSync('mkfs.ext4', ['-q', '-F', path], {
    env: { ...process.env, PATH: `${process.env.PATH}:/sbin:/usr/sbin` },
  })
  if (status !== 0) throw new SkippedCase('mkfs.ext4 cannot be run: apt-get install e2fsprogs')
  return new Uint8Array(readFileSync(path))
}

/** What the guest wrote, as the host's tools see it. */
function checkFileSystem(dir: string, disk: Uint8Array, copy: Uint8Array): void {
  const env = { ...process.env, PATH: `${process.env.PATH}:/sbin:/usr/sbin` }
  const path = join(dir, 'fs')
  writeFileSync(path, disk)
  const check = spawnSync('e2fsck', ['-fn', path], { env, encoding: 'utf8' })
  expectIs(`e2fsck (${check.stdout.slice(-200)})`, check.status, 0)
  spawnSync('debugfs', ['-R', `dump /copy ${path}.copy`, path], { env })
  expectSame('the file that the guest wrote', new Uint8Array(readFileSync(`${path}.copy`)), copy)
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
      const { kernel, initrd } = bootFiles(dir, SCRIPT)
      const source = pattern(DISK, 11)
      const target = new Uint8Array(DISK)
      const files = emptyFileSystem(dir)
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
          ...['-append', `console=ttyS0 quiet panic=-1 ${append}`, '-monitor', 'stdio'],
        ],
      })
      saw('the machine is starting')
      for (const text of ['READ', 'COPIED', 'MOUNTED']) {
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
      const said = (word: string): string => new RegExp(`^${word} ([0-9a-f]+)`, 'm').exec(report)?.[1] ?? ''
      expectIs('the hash of the whole disk', said('READ'), hashOf(source))
      const half = 8 * MIB
      expectSame('the copied disk', target.subarray(0, half), source.subarray(0, half))
      expectIs('the hash of the file', said('FILE'), hashOf(source.subarray(0, half)))
      expectIs('the file system was unmounted', report.includes('UNMOUNTED'), true)
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
