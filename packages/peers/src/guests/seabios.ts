import { readFileSync } from 'node:fs'
import { BlkDevice, BusWindows, MemoryBlockStore } from '@guestdma/devices'
import { VhostUserServer } from '@guestdma/vhost-user'
import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { expectIs, expectSame, pattern, socketPath } from '../work/workloads.ts'
import { servedDisk, startGuest } from './guest-machine.ts'

const BIOS = '/usr/share/seabios/bios-256k.bin'
const VERSION = /(\d+\.\d+\.\d+)-debian/

/** The firmware of QEMU's PCs. */
export const seabios: PeerProgram = {
  id: 'seabios',
  name: 'SeaBIOS',
  packages: ['seabios', 'qemu-system-x86', 'qemu-system-common'],
  async version() {
    try {
      return VERSION.exec(readFileSync(BIOS, 'latin1'))?.[1] ?? 'unknown'
    } catch {
      return null
    }
  },
}

const SECTOR = 512
const SECTORS = 8192
const ROUNDS = 64

/**
 * A boot sector that lets the BIOS copy sector 1 to each of sectors 2 to 65, adds one to its first byte before each
 * write, and then prints `!` on the serial port.
 */
const BOOT = [
  ...[0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0], // xor ax, ax; mov ds, es and ss, ax
  ...[0xbc, 0x00, 0x7c, 0x88, 0x16, 0x00, 0x7e], // mov sp, 0x7c00; mov [0x7e00], dl
  ...[0xbe, 0x80, 0x7c, 0xb4, 0x42, 0xcd, 0x13], // mov si, packet; mov ah, 0x42; int 0x13: read
  ...[0x72, 0x24], // jc end
  ...[0xb9, ROUNDS, 0x00], // mov cx, rounds
  ...[0xfe, 0x06, 0x00, 0x80], // next: inc byte [0x8000]
  ...[0xff, 0x06, 0x88, 0x7c], // inc word [packet + 8]
  ...[0x8a, 0x16, 0x00, 0x7e, 0x51], // mov dl, [0x7e00]; push cx
  ...[0xb8, 0x00, 0x43, 0xcd, 0x13, 0x59], // mov ax, 0x4300; int 0x13: write; pop cx
  ...[0x72, 0x09], // jc end
  ...[0xe2, 0xe9], // loop next
  ...[0xba, 0xf8, 0x03, 0xb0, 0x21, 0xee], // mov dx, 0x3f8; mov al, '!'; out dx, al
  ...[0xfa, 0xf4, 0xeb, 0xfd], // end: cli; hlt; jmp
]
/** The disk address packet, at 0x7c80: one sector at 0:0x8000, from sector 1 on. */
const PACKET = [0x10, 0, 1, 0, 0x00, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]

const boots: PeerCase['run'] = async ({ saw }) => {
  const disk = pattern(SECTORS * SECTOR, 3)
  disk.fill(0, 0, SECTOR)
  disk.set(BOOT)
  disk.set(PACKET, 0x80)
  disk.set([0x55, 0xaa], SECTOR - 2)
  const expected = disk.slice()
  for (let i = 1; i <= ROUNDS; i++) {
    const copy = disk.slice(SECTOR, 2 * SECTOR)
    copy[0] = (copy[0] + i) & 0xff
    expected.set(copy, (1 + i) * SECTOR)
  }
  const store = new MemoryBlockStore(disk)
  const device = new BlkDevice({ name: 'disk', port: new BusWindows('disk'), store })
  using server = VhostUserServer.listen({ path: socketPath(), device })
  await using guest = startGuest({ memory: '64M', args: servedDisk(server.path, ',bootindex=0') })
  saw('QEMU is starting')
  await guest.printed('!', 40_000)
  expectSame('the disk', disk, expected)
  expectIs('faults', [...device.faults.last(), ...server.faults.last().map(String)], [])
}

export const seabiosCases: readonly PeerCase[] = [
  {
    peer: 'seabios',
    role: 'driver',
    driver: 'blk',
    ring: 'split',
    backend: 'direct',
    transport: 'vhost-user',
    what: 'boots, reads and writes',
    run: boots,
  },
]
