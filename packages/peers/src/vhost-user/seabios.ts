import { existsSync } from 'node:fs'
import { BlkDevice, BusWindows, MemoryBlockStore } from '@guestdma/devices'
import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { programPeer } from '../matrix/program-peer.ts'
import { expectSame, pattern } from '../work/workloads.ts'
import { withServed } from './served.ts'

const BIOS = '/usr/share/seabios/bios-256k.bin'
const qemu = programPeer('seabios', 'SeaBIOS in QEMU', 'qemu-system-x86_64', ['qemu-system-x86', 'seabios'])

export const seabios: PeerProgram = {
  ...qemu,
  version: async () => (existsSync(BIOS) ? qemu.version() : null),
}

const SECTOR = 512
/** Enough for a cylinder: the BIOS reads nothing of a smaller disk. */
const SECTORS = 8192

/** Reads sector 1, adds 1 to its first byte, writes it as sector 2, and resets the machine: then it is run once more. */
const BOOT = [
  ...[0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0], // xor ax,ax; mov ds,ax; mov es,ax
  ...[0xbc, 0x00, 0x7c], // mov sp,0x7c00
  ...[0xbb, 0x00, 0x80], // mov bx,0x8000
  ...[0xb8, 0x01, 0x02, 0xb9, 0x02, 0x00, 0xb6, 0x00, 0xcd, 0x13], // read 1 sector, CHS 0/0/2
  ...[0xfe, 0x06, 0x00, 0x80], // inc byte [0x8000]
  ...[0xb8, 0x01, 0x03, 0xb9, 0x03, 0x00, 0xb6, 0x00, 0xcd, 0x13], // write 1 sector, CHS 0/0/3
  ...[0xb0, 0xfe, 0xe6, 0x64], // mov al,0xfe; out 0x64,al
  ...[0xf4, 0xeb, 0xfd], // hlt; jmp
]

export const seabiosCase: PeerCase = {
  peer: 'seabios',
  role: 'driver',
  driver: 'blk',
  ring: 'split',
  backend: 'direct',
  transport: 'vhost-user',
  what: 'booted twice',
  async run({ saw }) {
    const bytes = new Uint8Array(SECTORS * SECTOR)
    bytes.set(BOOT)
    bytes.set([0x55, 0xaa], SECTOR - 2)
    bytes.set(pattern(SECTOR, 3), SECTOR)
    let writes = 0
    class CountingStore extends MemoryBlockStore {
      override write(request: Parameters<MemoryBlockStore['write']>[0]): void {
        writes++
        super.write(request)
      }
    }
    const port = new BusWindows('disk')
    const device = new BlkDevice({ name: 'disk', port, store: new CountingStore(bytes) })
    const args = (socket: string): string[] => [
      ...['-machine', 'q35,memory-backend=mem', '-accel', 'tcg', '-nodefaults', '-display', 'none', '-m', '64M'],
      ...['-object', 'memory-backend-memfd,id=mem,size=64M,share=on'],
      ...['-chardev', `socket,id=c,path=${socket}`, '-device', 'vhost-user-blk-pci,chardev=c,num-queues=1'],
    ]
    await withServed(device, port, 'qemu-system-x86_64', args, [], async ({ until }) => {
      await until(() => writes >= 1, 'the first boot')
      saw('the machine booted from the disk once')
      await until(() => writes >= 2, 'the boot after a reset')
    })
    const expected = bytes.slice(SECTOR, 2 * SECTOR)
    expected[0]++
    expectSame('what the boot sector wrote', bytes.slice(2 * SECTOR, 3 * SECTOR), expected)
  },
}
