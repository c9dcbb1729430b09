import { BusWindows, eachFrame, NetDevice } from '@guestdma/devices'
import {
  type FeatureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_NET_F_MRG_RXBUF,
} from '@guestdma/spec'
import { VhostUserServer } from '@guestdma/vhost-user'
import type { CaseProgress, PeerCase, PeerProgram } from '../matrix/case.ts'
import { programPeer } from '../matrix/program-peer.ts'
import { startMacSwap } from '../vhost-user/start.ts'
import { expectIs, expectSame, pattern, socketPath, until } from '../work/workloads.ts'

export const virtioUser: PeerProgram = programPeer(
  'virtio-user',
  "DPDK's virtio-user",
  'dpdk-testpmd',
  ['dpdk-dev'],
  ['-v', '--no-huge', '-m', '64', '--no-pci', '--no-telemetry', '--', '--help'],
)

const MAC = [0x52, 0x54, 0, 0, 0, 1]
const STATION = [2, 0, 0, 0, 0, 9]
const TYPE = [0x88, 0xb5]
/** How many frames are on their way at most: fewer than the rings have places. */
const WINDOW = 32
/** Bytes of a frame that only asks whether the other program forwards already. */
const HELLO = 99

interface Setting {
  readonly what: string
  readonly ring?: 'packed'
  /** Of the driver: `in_order=1`, say. */
  readonly options: string
  /** Of testpmd itself. */
  readonly args?: readonly string[]
  readonly agreed: readonly number[]
  /** What the device does not offer. */
  readonly withhold?: readonly number[]
  readonly lengths: readonly number[]
}

function frameOf(length: number, seed: number): Uint8Array<ArrayBuffer> {
  const frame = pattern(length, seed)
  frame.set([...MAC, ...STATION, ...TYPE, seed & 0xff])
  return frame
}

function echoOf(frame: Uint8Array): Uint8Array {
  const echo = frame.slice()
  echo.set(STATION, 0)
  echo.set(MAC, 6)
  return echo
}

async function exchange(
  device: NetDevice,
  received: Uint8Array[],
  hellos: () => number,
  lengths: readonly number[],
  { saw }: CaseProgress,
): Promise<void> {
  // What comes before the other program forwards is lost there.
  const hello = frameOf(HELLO, 0)
  const before = hellos()
  await until('the first frame to come back', () => {
    device.receive(hello)
    device.wake()
    return hellos() > before
  })
  for (const length of lengths) {
    saw(`frames of ${length} bytes`)
    received.length = 0
    const sent = Array.from({ length: 256 }, (_, i) => frameOf(length, i))
    let next = 0
    const lacking = (): string => `${received.length} of ${next} frames came back; ${JSON.stringify(device.counters)}`
    await until(lacking, () => {
      while (next < sent.length && next - received.length < WINDOW && device.receive(sent[next])) next++
      device.wake()
      return received.length >= sent.length
    })
    expectIs('frames that came back', received.length, sent.length)
    for (const [i, frame] of sent.entries()) expectSame(`frame ${i}`, received[i], echoOf(frame))
  }
}

function expectAgreed(negotiated: FeatureSet, agreed: readonly number[]): void {
  const named = [VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_NET_F_MRG_RXBUF]
  const found = named.filter((bit) => negotiated.has(bit) && bit !== VIRTIO_F_EVENT_IDX)
  expectIs('the features that were agreed on', found, agreed)
}

function run(setting: Setting): PeerCase['run'] {
  return async (progress) => {
    const received: Uint8Array[] = []
    let hellos = 0
    const device = new NetDevice({
      name: 'net',
      port: new BusWindows('net'),
      mac: MAC,
      offer: [VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED],
      ...(setting.withhold === undefined ? {} : { withhold: setting.withhold }),
      link: {
        // A hello may come back late.
        transmit: eachFrame((frame) => void (frame.length === HELLO ? hellos++ : received.push(frame.slice()))),
      },
    })
    using server = VhostUserServer.listen({ path: socketPath(), device })
    const driver = `net_virtio_user0,path=${server.path},queues=1,queue_size=256,${setting.options}`
    await using testpmd = startMacSwap(() => driver, setting.args).peer
    await until('the driver to begin', () => device.live, testpmd)
    progress.saw(`the driver chose ${device.negotiated}`)
    expectAgreed(device.negotiated, setting.agreed)
    expectIs('a packed ring', device.negotiated.has(VIRTIO_F_RING_PACKED), setting.ring === 'packed')
    await exchange(device, received, () => hellos, setting.lengths, progress)
    progress.saw('the port is stopped and started')
    for (const command of ['stop', 'port stop all', 'port start all', 'start']) testpmd.stdin.write(`${command}\n`)
    const again = /Stopping ports[\s\S]*> start\s+testpmd>/
    await until('the port to start again', () => again.test(testpmd.output()), testpmd)
    received.length = 0
    await exchange(device, received, () => hellos, setting.lengths, progress)
    expectIs('faults', [...device.faults.last(), ...server.faults.last().map(String)], [])
  }
}

const settings: readonly Setting[] = [
  { what: '', options: 'mrg_rxbuf=0,in_order=0', agreed: [VIRTIO_F_INDIRECT_DESC], lengths: [60, 700, 1514] },
  {
    what: 'mergeable buffers',
    options: 'mrg_rxbuf=1,in_order=0',
    agreed: [VIRTIO_F_INDIRECT_DESC, VIRTIO_NET_F_MRG_RXBUF],
    lengths: [60, 1514],
  },
  {
    what: 'in order',
    options: 'mrg_rxbuf=0,in_order=1',
    agreed: [VIRTIO_F_INDIRECT_DESC, VIRTIO_F_IN_ORDER],
    lengths: [60, 1514],
  },
  {
    what: 'frames in several segments',
    options: 'mrg_rxbuf=1,in_order=1',
    args: ['--mbuf-size=640', '--enable-scatter', '--tx-offloads=0x8000'],
    agreed: [VIRTIO_F_INDIRECT_DESC, VIRTIO_F_IN_ORDER, VIRTIO_NET_F_MRG_RXBUF],
    lengths: [60, 700, 1514],
  },
]

// DPDK 22.11 marks the header in an indirect table of a packed ring as device-writable, which no device may take: tables
// are not offered where it would use one.
const packed = settings.map((setting): Setting => {
  const options = `${setting.options},packed_vq=1`
  if (setting.args === undefined) return { ...setting, ring: 'packed', options }
  const agreed = setting.agreed.filter((bit) => bit !== VIRTIO_F_INDIRECT_DESC)
  return { ...setting, ring: 'packed', options, withhold: [VIRTIO_F_INDIRECT_DESC], agreed }
})

export const virtioUserCases: readonly PeerCase[] = [...settings, ...packed].map((setting) => ({
  peer: 'virtio-user',
  role: 'driver',
  driver: 'net',
  ring: setting.ring ?? 'split',
  backend: 'direct',
  transport: 'vhost-user',
  what: setting.what,
  run: run(setting),
}))
