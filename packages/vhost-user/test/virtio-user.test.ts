import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { BusWindows, NetDevice } from '@guestdma/devices'
import { type Peer, spawnPeer, type UnixListener, UnixSocket, waitReadable } from '@guestdma/node'
import { VIRTIO_F_IN_ORDER, VIRTIO_NET_F_MRG_RXBUF } from '@guestdma/spec'
import { afterEach, describe, expect, it } from 'vitest'
import { VhostUserBackEnd } from '../src/index.ts'
import { missingPeer, titled } from './support/peers.ts'

const COMMAND = 'dpdk-testpmd'
const missing = missingPeer(COMMAND, 'apt-get install dpdk-dev')

const DEADLINE_MS = 20_000
const MAC = [0x52, 0x54, 0, 0, 0, 1]

let peer: Peer | undefined
let listener: UnixListener | undefined
let backEnd: VhostUserBackEnd | undefined

afterEach(async () => {
  backEnd?.close()
  listener?.close()
  await peer?.close()
})

/** Starts a testpmd whose driver sends every frame back with its two addresses exchanged. */
function startTestpmd(options: string): void {
  const prefix = `guestdma-${randomBytes(4).toString('hex')}`
  peer = spawnPeer({
    command: COMMAND,
    args: (dir) => {
      listener = UnixSocket.listen(join(dir, 's'))
      return [
        ...['-l', '0-1', '--no-huge', '-m', '256', '--no-pci', '--iova-mode=va', '--no-telemetry'],
        ...['--file-prefix', prefix, '--vdev', `net_virtio_user0,path=${dir}/s,queues=1,queue_size=256,${options}`],
        ...['--', '--forward-mode=macswap', '--no-mlockall', '-a', '-i', '--total-num-mbufs=8192'],
      ]
    },
    files: [`/var/run/dpdk/${prefix}`],
  })
}

/** A frame to testpmd, with bytes that show which one it is: never 0, but for number 0. */
function frame(index: number, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length).fill(index)
  bytes.set([...MAC, 2, 0, 0, 0, 0, 9, 0x88, 0xb5])
  return bytes
}

/** What comes back of it. */
function echoOf(sent: Uint8Array): Uint8Array {
  const bytes = sent.slice()
  bytes.set(sent.subarray(6, 12), 0)
  bytes.set(sent.subarray(0, 6), 6)
  return bytes
}

async function until(done: () => boolean): Promise<void> {
  const served = backEnd as VhostUserBackEnd
  for (const end = performance.now() + DEADLINE_MS; !done(); ) {
    if (performance.now() > end) throw new Error(`nothing more came: ${peer?.output()}, ${served.lost?.message}`)
    if (served.poll(64) === 0) waitReadable(served.descriptors, 2)
    await new Promise((resolve) => setImmediate(resolve))
  }
}

describe.skipIf(missing !== '')(titled("virtio-user: a network device of ours under DPDK's driver", missing), () => {
  it.each([
    ['one buffer for each frame', 'mrg_rxbuf=0,in_order=0', [], [VIRTIO_F_IN_ORDER, VIRTIO_NET_F_MRG_RXBUF]],
    ['mergeable buffers', 'mrg_rxbuf=1,in_order=0', [VIRTIO_NET_F_MRG_RXBUF], [VIRTIO_F_IN_ORDER]],
    ['in order', 'mrg_rxbuf=0,in_order=1', [VIRTIO_F_IN_ORDER], [VIRTIO_NET_F_MRG_RXBUF]],
  ])('frames come back: %s', async (_, options, agreed, not) => {
    const received: Uint8Array[] = []
    const port = new BusWindows('net')
    const device = new NetDevice({
      name: 'net',
      port,
      mac: MAC,
      mergeable: true,
      offer: [VIRTIO_F_IN_ORDER],
      link: { transmit: (frame) => void received.push(frame.slice()) },
    })
    backEnd = new VhostUserBackEnd({ device, port })
    startTestpmd(options)
    backEnd.serve((listener as UnixListener).accept(DEADLINE_MS))
    await until(() => device.live)
    expect([...agreed, ...not].filter((feature) => device.negotiated.has(feature))).toEqual(agreed)
    // A frame that arrives before the other program forwards is lost there.
    await until(() => {
      device.receive(frame(0, 60))
      return received.length > 0
    })
    // Some of those frames are still on their way.
    const echoes = (): Uint8Array[] => received.filter((bytes) => bytes[20] !== 0)
    for (const length of [60, 700, 1514]) {
      for (let round = 0; round < 10; round++) {
        received.length = 0
        const sent = Array.from({ length: 16 }, (_, i) => frame(round * 16 + i + 1, length))
        let next = 0
        await until(() => {
          while (next < sent.length && device.receive(sent[next])) next++
          return echoes().length >= sent.length
        })
        const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
        expect(echoes().map(hex)).toEqual(sent.map(echoOf).map(hex))
      }
    }
    expect(device.faults.last()).toEqual([])
    expect(backEnd.lost).toBeNull()
  })
})
