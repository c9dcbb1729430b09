import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { BlkDevice, BusWindows, MemoryBlockStore } from '@guestdma/devices'
import { type Peer, spawnPeer, type UnixListener, UnixSocket, waitReadable } from '@guestdma/node'
import { SECTOR_SIZE } from '@guestdma/spec'
import { afterEach, describe, expect, it } from 'vitest'
import { VhostUserBackEnd } from '../src/index.ts'
import { missingPeer, titled } from './support/peers.ts'

const COMMAND = 'qemu-system-x86_64'
const missing =
  missingPeer(COMMAND, 'apt-get install qemu-system-x86 seabios') ||
  (existsSync('/usr/share/seabios/bios-256k.bin') ? '' : 'SeaBIOS is not installed: apt-get install seabios')

const DEADLINE_MS = 20_000
/** Enough for a cylinder: the BIOS reads nothing of a smaller disk. */
const SECTORS = 8192

/**
 * A boot sector that asks the BIOS for sector 1, adds 1 to its first byte, writes it as sector 2, and resets the machine.
 * After the reset it is run once more.
 */
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

let peer: Peer | undefined
let listener: UnixListener | undefined
let backEnd: VhostUserBackEnd | undefined

afterEach(async () => {
  backEnd?.close()
  listener?.close()
  await peer?.close()
})

describe.skipIf(missing !== '')(titled('seabios: a disk of ours under a BIOS that nobody here wrote', missing), () => {
  it('is booted from, read, written, stopped by a reset of the machine, and booted from again', async () => {
    const bytes = new Uint8Array(SECTORS * SECTOR_SIZE)
    bytes.set(BOOT)
    bytes.set([0x55, 0xaa], 510)
    for (let i = 0; i < SECTOR_SIZE; i++) bytes[SECTOR_SIZE + i] = i & 0xff
    let writes = 0
    class CountingStore extends MemoryBlockStore {
      override write(request: Parameters<MemoryBlockStore['write']>[0]): void {
        writes++
        super.write(request)
      }
    }
    const port = new BusWindows('disk')
    const device = new BlkDevice({ name: 'disk', port, store: new CountingStore(bytes) })
    backEnd = new VhostUserBackEnd({ device, port })
    peer = spawnPeer({
      command: COMMAND,
      args: (dir) => {
        listener = UnixSocket.listen(join(dir, 's'))
        return [
          ...['-machine', 'q35,memory-backend=mem', '-accel', 'tcg', '-nodefaults', '-display', 'none', '-m', '64M'],
          ...['-object', 'memory-backend-memfd,id=mem,size=64M,share=on'],
          ...['-chardev', `socket,id=c,path=${dir}/s`],
          ...['-device', 'vhost-user-blk-pci,chardev=c,num-queues=1'],
        ]
      },
    })
    backEnd.serve((listener as UnixListener).accept(DEADLINE_MS))
    const end = performance.now() + DEADLINE_MS
    while (writes < 2) {
      if (performance.now() > end) throw new Error(`no second write: ${peer.output()}, ${backEnd.lost?.message}`)
      if (backEnd.poll(64) === 0) waitReadable(backEnd.descriptors, 5)
      await new Promise((resolve) => setImmediate(resolve))
    }
    const sector = (index: number): Uint8Array => bytes.subarray(index * SECTOR_SIZE, (index + 1) * SECTOR_SIZE)
    expect(sector(2)).toEqual(sector(1).slice().with(0, 1))
    expect(device.faults.last()).toEqual([])
    expect(backEnd.lost).toBeNull()
  })
})
