import { crc32 } from 'node:zlib'
import { BlkDevice, type BlkDeviceOptions, BusWindows, MemoryBlockStore } from '@guestdma/devices'
import { VhostUserServer } from '@guestdma/vhost-user'
import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { expectIs, expectSame, pattern, socketPath, until } from '../work/workloads.ts'
import { FatImage } from './fat-image.ts'
import { type GuestMachineOptions, servedDisk, startGuest } from './guest-machine.ts'
import { packageVersion } from './package-version.ts'
import { expectRefused, SWIOTLB_REQUIRED } from './refusal.ts'

/** A firmware that copies a file on the first disk that it finds. */
interface Firmware {
  readonly peer: PeerProgram
  readonly machine: GuestMachineOptions
  /** Files on the disk that tell it so. */
  readonly files: Readonly<Record<string, string | Uint8Array>>
}

function program(id: string, name: string, package_: string, qemu: string): PeerProgram {
  return { id, name, packages: [package_, qemu, 'mtools'], version: async () => packageVersion(package_) }
}

/** EDK2's shell runs this where it finds nothing else to boot. */
const STARTUP = { 'startup.nsh': ['fs0:', 'cp -q source.bin copy.bin', 'reset -s', ''].join('\r\n') }

/** U-Boot's own format of a script: a header with two checksums, the length of the text, and a zero. */
function bootScript(text: string): Uint8Array {
  const data = Buffer.alloc(8 + text.length)
  data.writeUInt32BE(text.length, 0)
  data.write(text, 8, 'latin1')
  const header = Buffer.alloc(64)
  header.writeUInt32BE(0x2705_1956, 0)
  header.writeUInt32BE(data.length, 12)
  header.writeUInt32BE(crc32(data), 24)
  // Linux, arm64, a script, not compressed: U-Boot looks at the third alone.
  header.set([5, 22, 6, 0], 28)
  header.writeUInt32BE(crc32(header), 4)
  return Buffer.concat([header, data])
}

const LOAD_AT = '0x44000000'
const SCRIPT = [
  `fatload virtio 0 ${LOAD_AT} source.bin`,
  `fatwrite virtio 0 ${LOAD_AT} copy.bin \${filesize}`,
  'poweroff',
  '',
].join('\n')

const arm64 = { command: 'qemu-system-aarch64', machine: 'virt', memory: '256M' } as const

const all: readonly Firmware[] = [
  {
    peer: program('ovmf', 'EDK2 for PCs', 'ovmf', 'qemu-system-x86'),
    machine: { memory: '128M', args: ['-bios', '/usr/share/ovmf/OVMF.fd'] },
    files: STARTUP,
  },
  {
    peer: program('aavmf', 'EDK2 for arm64', 'qemu-efi-aarch64', 'qemu-system-arm'),
    machine: { ...arm64, args: ['-cpu', 'cortex-a57', '-bios', '/usr/share/qemu-efi-aarch64/QEMU_EFI.fd'] },
    files: STARTUP,
  },
  {
    peer: program('u-boot', 'U-Boot for arm64', 'u-boot-qemu', 'qemu-system-arm'),
    machine: { ...arm64, args: ['-cpu', 'cortex-a57', '-bios', '/usr/lib/u-boot/qemu_arm64/u-boot.bin'] },
    files: { 'boot.scr': bootScript(SCRIPT) },
  },
]

const BOOTED_MS = 90_000

/** Starts the firmware with one disk, which is served, and calls `work`. */
async function withDisk(
  { machine, files }: Firmware,
  options: Partial<BlkDeviceOptions>,
  work: (site: {
    readonly image: FatImage
    readonly port: BusWindows
    readonly device: BlkDevice
    readonly server: VhostUserServer
    readonly guest: ReturnType<typeof startGuest>
  }) => Promise<void>,
): Promise<void> {
  const image = new FatImage({ ...files, 'source.bin': SOURCE })
  const store = new MemoryBlockStore(image.bytes)
  const port = new BusWindows('disk')
  const device = new BlkDevice({ name: 'disk', port, store, ...options })
  using server = VhostUserServer.listen({ path: socketPath(), device })
  await using guest = startGuest({ ...machine, args: [...machine.args, ...servedDisk(server.path, ',bootindex=0')] })
  await work({ image, port, device, server, guest })
}

const SOURCE = pattern(3_000_000, 5)

function copies(firmware: Firmware): PeerCase['run'] {
  return ({ saw }) =>
    withDisk(firmware, {}, async ({ image, device, server, guest }) => {
      saw('the firmware is starting')
      const lacking = (): string => `the machine to switch itself off; ${JSON.stringify(device.counters)}`
      await until(lacking, () => guest.peer.ended, undefined, BOOTED_MS)
      expectSame('the copy', image.file('copy.bin'), SOURCE)
      expectIs('faults', [...device.faults.last(), ...server.faults.last().map(String)], [])
    })
}

function refused(firmware: Firmware): PeerCase['run'] {
  return ({ saw }) =>
    withDisk(firmware, SWIOTLB_REQUIRED, async ({ port, device, server, guest }) => {
      saw('the firmware is starting')
      await expectRefused(server, device, port, guest.peer, BOOTED_MS)
      expectIs('requests that were served', device.counters.reads + device.counters.writes, 0)
    })
}

export const firmwares: readonly PeerProgram[] = all.map(({ peer }) => peer)
export const firmwareCases: readonly PeerCase[] = all.flatMap((firmware) =>
  [
    { what: 'copies a file', run: copies(firmware) },
    { what: 'refused where bit 27 is required', run: refused(firmware) },
  ].map(({ what, run }) => ({
    peer: firmware.peer.id,
    role: 'driver' as const,
    driver: 'blk',
    ring: 'split' as const,
    backend: 'direct',
    transport: 'vhost-user',
    what,
    deadlineMs: 120_000,
    run,
  })),
)
