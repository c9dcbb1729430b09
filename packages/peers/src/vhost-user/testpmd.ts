import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { type Peer, spawnPeer } from '@guestdma/node'
import { FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MAC } from '@guestdma/spec'
import { MachineEvents, type RemoteConfig } from 'guestdma'
import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { programPeer } from '../matrix/program-peer.ts'
import { expectInside } from '../work/audit.ts'
import { echoWork, expectIs, Station } from '../work/workloads.ts'
import { type VhostBackend, vhostSite } from './site.ts'

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

/** Starts a testpmd that sends every frame back with its two addresses exchanged. */
function start(iotlb: boolean): Peer {
  const prefix = `guestdma-${randomBytes(4).toString('hex')}`
  return spawnPeer({
    command: 'dpdk-testpmd',
    args: (dir) => [
      ...['-l', '0-1', '--no-huge', '-m', '256', '--no-pci', '--iova-mode=va', '--no-telemetry'],
      ...['--file-prefix', prefix, '--vdev', `net_vhost0,iface=${dir}/s,queues=1,iommu-support=${iotlb ? 1 : 0}`],
      ...['--', '--forward-mode=macswap', '--no-mlockall', '-a', '-i', '--total-num-mbufs=8192'],
    ],
    files: [`/var/run/dpdk/${prefix}`],
  })
}

function echo(backend: VhostBackend, ring: string, more: Partial<RemoteConfig>): PeerCase['run'] {
  return async (progress) => {
    const site = vhostSite(backend, {
      name: 'net0',
      deviceId: 1,
      queues: 2,
      config: CONFIG,
      ownFeatures: FeatureSet.of(VIRTIO_NET_F_MAC),
    })
    progress.saw('testpmd is starting')
    const peer = start(backend === 'vhost-iotlb')
    try {
      const station = new Station()
      const path = join(peer.dir, 's')
      const transport = site.connect(path)
      const machine = await site.machine(transport, peer, { ...more, observer: station.observer }, new MachineEvents())
      const { features } = machine.device('net0').negotiated
      expectIs('a packed ring was agreed on', features.has(VIRTIO_F_RING_PACKED), ring === 'packed')
      await echoWork(machine, 'net0', station, progress)
      await machine.reset('net0')
      progress.saw('a reset')
      await echoWork(machine, 'net0', station, progress, { rounds: 4 })
      expectInside(site.audits)
      await machine.close()
      expectIs('guest RAM in use', machine.ram.allocated, 0)
      transport.close()
      const again = await site.machine(
        site.connect(path),
        peer,
        { ...more, observer: station.observer },
        new MachineEvents(),
      )
      progress.saw('another connection')
      await echoWork(again, 'net0', station, progress, { rounds: 4 })
      await again.close()
    } finally {
      site.close()
      await peer.close()
    }
  }
}

export const testpmdCases: readonly PeerCase[] = (['split', 'packed'] as const).flatMap((ring) =>
  (['shared-pool', 'vhost-iotlb'] as const).flatMap((backend) =>
    (['map', 'pool'] as const).map((mode): PeerCase => {
      const labels = { peer: 'testpmd', role: 'device', driver: 'net', ring, backend, transport: 'vhost-user' } as const
      // It offers packed rings always.
      const decline = ring === 'packed' ? [] : [VIRTIO_F_RING_PACKED]
      return { ...labels, what: mode === 'pool' ? 'pool buffers' : '', run: echo(backend, ring, { mode, decline }) }
    }),
  ),
)
