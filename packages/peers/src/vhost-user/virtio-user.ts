import { randomBytes } from 'node:crypto'
import { BusWindows, NetDevice } from '@guestdma/devices'
import { VIRTIO_F_IN_ORDER, VIRTIO_NET_F_MRG_RXBUF } from '@guestdma/spec'
import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { expectIs, expectSame, pattern } from '../work/workloads.ts'
import { withServed } from './served.ts'
import { testpmd } from './testpmd.ts'

export const virtioUser: PeerProgram = { ...testpmd, id: 'virtio-user', name: 'DPDK virtio-user' }

const MAC = [0x52, 0x54, 0, 0, 0, 1]
const PROBE = 60

function echo(options: string, agreed: readonly number[], not: readonly number[]): PeerCase['run'] {
  return async ({ saw }) => {
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
    const prefix = `guestdma-${randomBytes(4).toString('hex')}`
    const args = (socket: string): string[] => [
      ...['-l', '0-1', '--no-huge', '-m', '256', '--no-pci', '--iova-mode=va', '--no-telemetry'],
      ...['--file-prefix', prefix, '--vdev', `net_virtio_user0,path=${socket},queues=1,queue_size=256,${options}`],
      ...['--', '--forward-mode=macswap', '--no-mlockall', '-a', '-i', '--total-num-mbufs=8192'],
    ]
    await withServed(device, port, 'dpdk-testpmd', args, [`/var/run/dpdk/${prefix}`], async ({ until }) => {
      await until(() => device.live, 'the driver')
      for (const bit of agreed) expectIs(`that bit ${bit} was agreed`, device.negotiated.has(bit), true)
      for (const bit of not) expectIs(`that bit ${bit} was agreed`, device.negotiated.has(bit), false)
      // A frame that arrives before the program forwards is lost there.
      await until(() => {
        device.receive(frameOf(0, PROBE))
        return received.length > 0
      }, 'the first echo')
      saw('the first echo')
      // Some of those frames are still on their way.
      const echoes = (): Uint8Array[] => received.filter((bytes) => bytes[20] !== 0)
      for (const length of [60, 700, 1514]) {
        for (let round = 0; round < 10; round++) {
          received.length = 0
          const sent = Array.from({ length: 16 }, (_, i) => frameOf(1 + round * 16 + i, length))
          let next = 0
          await until(() => {
            while (next < sent.length && device.receive(sent[next])) next++
            return echoes().length >= sent.length
          }, `frames of ${length} bytes`)
          for (const [i, frame] of sent.entries()) {
            const back = frame.slice()
            back.set(frame.subarray(6, 12), 0)
            back.set(frame.subarray(0, 6), 6)
            expectSame(`the echo of frame ${i}`, echoes()[i], back)
          }
        }
      }
    })
  }
}

/** A frame to the program. Byte 20 is its number: 0 for those that are sent before the program forwards. */
function frameOf(number: number, length: number): Uint8Array<ArrayBuffer> {
  const frame = pattern(length, number)
  frame.set([...MAC, 2, 0, 0, 0, 0, 9, 0x88, 0xb5])
  frame[20] = number
  return frame
}

export const virtioUserCases: readonly PeerCase[] = (
  [
    ['', 'mrg_rxbuf=0,in_order=0', [], [VIRTIO_F_IN_ORDER, VIRTIO_NET_F_MRG_RXBUF]],
    ['mergeable buffers', 'mrg_rxbuf=1,in_order=0', [VIRTIO_NET_F_MRG_RXBUF], [VIRTIO_F_IN_ORDER]],
    ['in order', 'mrg_rxbuf=0,in_order=1', [VIRTIO_F_IN_ORDER], [VIRTIO_NET_F_MRG_RXBUF]],
  ] as const
).map(([what, options, agreed, not]): PeerCase => {
  const labels = { peer: 'virtio-user', role: 'driver', driver: 'net', ring: 'split' } as const
  return { ...labels, backend: 'direct', transport: 'vhost-user', what, run: echo(options, agreed, not) }
})
