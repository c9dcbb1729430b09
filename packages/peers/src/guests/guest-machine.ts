import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { VirtioDevice } from '@guestdma/devices'
import { type Peer, spawnPeer } from '@guestdma/node'
import { until } from '../work/workloads.ts'

/** A machine in QEMU whose devices we serve, and in which somebody else's drivers run. */
export interface GuestMachine extends AsyncDisposable {
  readonly peer: Peer
  /** Everything that the guest printed on its serial port. */
  serial(): string
  /** Waits until the guest printed something. Throws Error that quotes what it printed last. */
  printed(text: string | RegExp, deadlineMs: number): Promise<string>
}

export interface GuestMachineOptions {
  /** QEMU's program. Default `qemu-system-x86_64`. */
  readonly command?: string
  /** What it emulates, with options. Default `q35`. */
  readonly machine?: string
  /** Bytes with a suffix of QEMU's, `128M`. */
  readonly memory: string
  /** Beside the machine and its memory. */
  readonly args: readonly string[]
}

/** Bytes of the serial port that an error quotes. */
const QUOTED = 600

/** Starts it under TCG, with memory that can be shared. */
export function startGuest({
  command = 'qemu-system-x86_64',
  machine = 'q35',
  memory,
  args,
}: GuestMachineOptions): GuestMachine {
  const peer = spawnPeer({
    command,
    args: (dir) => [
      ...[
        '-machine',
        `${machine},memory-backend=mem`,
        '-accel',
        'tcg',
        '-m',
        memory,
        '-nodefaults',
        '-display',
        'none',
      ],
      ...['-object', `memory-backend-memfd,id=mem,size=${memory},share=on`],
      ...['-serial', `file:${join(dir, 'serial')}`, '-no-reboot', ...args],
    ],
  })
  const path = join(peer.dir, 'serial')
  let last = ''
  const serial = (): string => {
    if (existsSync(path)) last = readFileSync(path, 'latin1')
    return last
  }
  return {
    peer,
    serial,
    async printed(text, deadlineMs) {
      const found = (): boolean => (typeof text === 'string' ? serial().includes(text) : text.test(serial()))
      const lacking = (): string => `the guest to print ${text}; it printed: ${serial().slice(-QUOTED)}`
      await until(lacking, () => found() || peer.ended, undefined, deadlineMs)
      if (!found()) {
        const { code, signal } = await peer.exited
        throw new Error(`waited for ${lacking()}; QEMU ended (${signal ?? code}) and printed: ${peer.output()}`)
      }
      return serial()
    },
    [Symbol.asyncDispose]: () => peer.close(),
  }
}

/**
 * What QEMU gives a served disk, whatever the device has. Linux puts as many segments into a request as SEG_MAX says, also
 * where that is more than the queue has elements, so the device must not have longer ones.
 */
export const QEMU_QUEUE_SIZE = 128

/** The arguments for a block device that is served at a path. Modern only: our models have no legacy interface. */
export function servedDisk(path: string, options = ''): string[] {
  const id = idOf(path)
  return [
    ...['-chardev', `socket,id=${id},path=${path}`],
    ...['-device', `vhost-user-blk-pci,chardev=${id},num-queues=1,disable-legacy=on${options}`],
  ]
}

/** The same for a net device, whose address QEMU tells the guest. */
export function servedNet(path: string, device: VirtioDevice, options = ''): string[] {
  const id = idOf(path)
  return [
    ...['-chardev', `socket,id=${id},path=${path}`, '-netdev', `vhost-user,id=n${id},chardev=${id}`],
    ...['-device', `virtio-net-pci,netdev=n${id},mac=${macOf(device)},disable-legacy=on,vectors=0${options}`],
  ]
}

/** A net device's address as people write it. */
export function macOf({ config }: VirtioDevice): string {
  return Array.from(config.bytes.subarray(0, 6), (byte) => byte.toString(16).padStart(2, '0')).join(':')
}

function idOf(path: string): string {
  return `c${path.replaceAll(/[^a-zA-Z0-9]/g, '')}`
}
