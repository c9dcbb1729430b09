import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { type Peer, spawnPeer } from '@guestdma/node'

/** A process that serves a device over vhost-user. */
export interface VhostUserPeer {
  readonly peer: Peer
  /** Its socket. The file goes with the process. */
  readonly path: string
}

/** Starts a qemu-storage-daemon that serves a raw image as a block device, to one front end after the other. */
export function startStorageDaemon(image: string): VhostUserPeer {
  const peer = spawnPeer({
    command: 'qemu-storage-daemon',
    args: (dir) => [
      ...['--blockdev', `driver=file,node-name=file,filename=${image}`],
      ...['--blockdev', 'driver=raw,node-name=disk,file=file'],
      ...['--export', `type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=${socket(dir)},writable=on`],
    ],
  })
  return { peer, path: socket(peer.dir) }
}

/**
 * Starts a testpmd of DPDK's that serves a net device of one pair of queues, and sends every frame back with its two
 * addresses exchanged. It drops what comes before it forwards.
 *
 * @param options.iotlb it translates addresses by asking the front end
 */
export function startTestpmd({ iotlb }: { readonly iotlb: boolean }): VhostUserPeer {
  return startMacSwap((path) => `net_vhost0,iface=${path},queues=1,iommu-support=${iotlb ? 1 : 0}`)
}

/** Starts a testpmd that sends back every frame of a device (`--vdev`), which may have a socket in the folder of the process. */
export function startMacSwap(device: (path: string) => string, args: readonly string[] = []): VhostUserPeer {
  const prefix = `guestdma-${randomBytes(4).toString('hex')}`
  const peer = spawnPeer({
    command: 'dpdk-testpmd',
    args: (dir) => [
      ...['-l', '0-1', '--no-huge', '-m', '256', '--no-pci', '--iova-mode=va', '--no-telemetry'],
      ...['--file-prefix', prefix, '--vdev', device(socket(dir))],
      ...['--', '--forward-mode=macswap', '--no-mlockall', '-a', '-i', '--total-num-mbufs=8192', ...args],
    ],
    files: [`/var/run/dpdk/${prefix}`],
  })
  return { peer, path: socket(peer.dir) }
}

const socket = (dir: string): string => join(dir, 'socket')
