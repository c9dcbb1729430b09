import type { Peer } from '@guestdma/node'
import { FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MAC } from '@guestdma/spec'
import type { Machine, RemoteConfig } from 'guestdma'
import type { CaseProgress, PeerCase, PeerProgram } from '../matrix/case.ts'
import { programPeer } from '../matrix/program-peer.ts'
import { expectInside } from '../work/audit.ts'
import { echoWork, expectIs, expectSame, pattern, Station, until } from '../work/workloads.ts'
import { LentPages } from './lent-pages.ts'
import { closeLost, codeOf } from './lost.ts'
import { type VhostBackend, type VhostSetting, type VhostSite, vhostSite } from './site.ts'
import { startTestpmd } from './start.ts'

export const testpmd: PeerProgram = programPeer(
  'testpmd',
  'DPDK testpmd',
  'dpdk-testpmd',
  ['dpdk-dev'],
  [...'-v --no-huge -m 64 --no-pci --in-memory --no-telemetry -- --help'.split(' ')],
)

const MAC = [0x52, 0x54, 0, 0, 0, 1]
/** MAC, status, pairs of queues, and an MTU of 1,500. */
const CONFIG = Uint8Array.from([...MAC, 1, 0, 1, 0, 0xdc, 0x05])
/** Frames that are sent at once. */
const FRAMES = 32

/** What is special about a case. */
interface Setting extends VhostSetting {
  readonly backend: VhostBackend
  readonly ring: 'split' | 'packed'
  readonly mode: 'map' | 'pool'
}

/** A testpmd that echoes, and guests that drive it. */
interface TestpmdSite {
  readonly peer: Peer
  readonly site: VhostSite
  readonly station: Station
  /** A machine over a new connection. */
  drive(): Promise<Machine>
}

async function withTestpmd(
  { backend, ring, mode, ...setting }: Setting,
  progress: CaseProgress,
  body: (at: TestpmdSite) => Promise<void>,
): Promise<void> {
  const device = { name: 'net0', deviceId: 1, queues: 2, config: CONFIG, ownFeatures: FeatureSet.of(VIRTIO_NET_F_MAC) }
  const site = vhostSite(backend, device, setting)
  progress.saw('testpmd is starting')
  const { peer, path } = startTestpmd({ iotlb: backend === 'vhost-iotlb' })
  const station = new Station()
  // It offers packed rings always.
  const decline = ring === 'packed' ? [] : [VIRTIO_F_RING_PACKED]
  const more: Partial<RemoteConfig> = { mode, decline, observer: station.observer }
  try {
    await body({
      peer,
      site,
      station,
      async drive() {
        const machine = await site.machine(site.connect(path), peer, more)
        const { features } = machine.device('net0').negotiated
        expectIs('a packed ring was agreed on', features.has(VIRTIO_F_RING_PACKED), ring === 'packed')
        progress.saw('connected')
        return machine
      },
    })
  } finally {
    site.close()
    await peer.close()
  }
}

const echo =
  (setting: Setting): PeerCase['run'] =>
  (progress) =>
    withTestpmd(setting, progress, async ({ site, station, drive }) => {
      const machine = await drive()
      await echoWork(machine, 'net0', station, progress)
      await machine.reset('net0')
      progress.saw('a reset')
      await echoWork(machine, 'net0', station, progress, { rounds: 4 })
      expectInside(site.audits)
      await machine.close()
      expectIs('guest RAM in use', machine.ram.allocated, 0)
      const again = await drive()
      await echoWork(again, 'net0', station, progress, { rounds: 4 })
      await again.close()
    })

function sendFrames(machine: Machine): void {
  const net = machine.net('net0')
  const frame = pattern(60, 3)
  frame.set([2, 0, 0, 0, 0, 9, ...MAC, 0x88, 0xb5])
  for (let i = 0; i < FRAMES; i++) if (!net.sendCopy(frame)) throw new Error('net0 took no frame')
}

/** Pumps until something is so. */
const pumped = (machine: Machine, what: string, done: () => boolean): Promise<void> =>
  until(what, () => {
    machine.pump()
    return done()
  })

/**
 * The pages of all receive buffers are taken back while testpmd has frames for them: its next question for a translation
 * is refused, it writes nothing there, and goes on with what it still has. Lent again, they are written again.
 */
const takenBack =
  (setting: Setting): PeerCase['run'] =>
  (progress) => {
    const domains: LentPages[] = []
    const iotlb: VhostSetting['iotlb'] = { onDomain: (domain) => domains.push(new LentPages(domain)) }
    return withTestpmd({ ...setting, iotlb }, progress, async ({ station, drive }) => {
      const machine = await drive()
      await echoWork(machine, 'net0', station, progress, { rounds: 4 })
      const [pages] = domains
      const receive = pages.receiveBuffers()
      const secret = pattern(receive.length, 99)
      machine.memory.write(receive.guest, secret)
      pages.takeBack(receive)
      progress.saw('pages were taken back')
      const { counters } = machine.net('net0')
      const { framesSent } = counters
      const { refused } = pages
      station.frames.length = 0
      sendFrames(machine)
      await pumped(machine, 'a translation to be refused', () => pages.refused > refused)
      sendFrames(machine)
      await pumped(machine, 'all frames to be taken', () => counters.framesSent === framesSent + 2 * FRAMES)
      expectIs('frames that came back', station.frames.length, 0)
      expectSame('what was taken back', machine.memory.read(receive.guest, receive.length), secret)
      pages.lendAgain(receive)
      progress.saw('pages were lent again')
      await echoWork(machine, 'net0', station, progress, { rounds: 4 })
      await machine.close()
      expectIs('guest RAM in use', machine.ram.allocated, 0)
    })
  }

/** It is killed while frames and receive buffers are lent to it: the driver says so, and all memory goes back. */
const killed =
  (setting: Setting): PeerCase['run'] =>
  (progress) =>
    withTestpmd(setting, progress, async ({ peer, station, drive }) => {
      const machine = await drive()
      await echoWork(machine, 'net0', station, progress, { rounds: 4 })
      // Where it does not run, none can be mapped: each mapping waits for its answer.
      sendFrames(machine)
      process.kill(peer.pid, 'SIGKILL')
      await peer.exited
      progress.saw('testpmd was killed')
      const net = machine.net('net0')
      await pumped(machine, 'the driver to notice', () => net.broken !== null)
      // What notices first: the connection, or a buffer that cannot be taken back.
      const why = codeOf(net.broken?.cause) ?? ''
      expectIs(`that ${why} is the reason`, ['TRANSPORT_LOST', 'VIRTQUEUE_COMMIT'].includes(why), true)
      await closeLost(machine, false)
    })

const ways = (['split', 'packed'] as const).flatMap((ring) =>
  (['shared-pool', 'vhost-iotlb'] as const).flatMap((backend) =>
    (['map', 'pool'] as const).map((mode): Setting => ({ ring, backend, mode })),
  ),
)
const translated = (mode: Setting['mode']): Setting => ({ ring: 'split', backend: 'vhost-iotlb', mode })

export const testpmdCases: readonly PeerCase[] = [
  ...ways.map((way) => row(way, way.mode === 'pool' ? 'pool buffers' : '', echo(way))),
  row(translated('map'), 'taken back later', echo({ ...translated('map'), iotlb: { mode: 'lazy' } })),
  row(translated('pool'), 'receive buffers that are taken back', takenBack(translated('pool'))),
  row(translated('map'), 'killed', killed(translated('map'))),
]

function row({ ring, backend }: Setting, what: string, run: PeerCase['run']): PeerCase {
  return { peer: 'testpmd', role: 'device', driver: 'net', ring, backend, transport: 'vhost-user', what, run }
}
