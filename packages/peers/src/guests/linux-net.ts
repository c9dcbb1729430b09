import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LearningSwitch, type NetDevice } from '@guestdma/devices'
import { VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { VhostUserServer } from '@guestdma/vhost-user'
import type { PeerCase } from '../matrix/case.ts'
import { expectIs, socketPath } from '../work/workloads.ts'
import { watchResults } from './arm64-report.ts'
import { type GuestMachine, servedNet } from './guest-machine.ts'
import type { BootFiles } from './initramfs.ts'
import { bootFiles } from './linux-image.ts'
import { type LinuxScheme, linuxSchemes, portOf, startLinux } from './linux-scheme.ts'
import { expectExchanged, NET_RESULTS, netDevice, netWords, partnerCases, type Side } from './two-guests.ts'

interface Served {
  readonly device: NetDevice
  readonly server: VhostUserServer
}

function serve(scheme: LinuxScheme, side: Side, network: LearningSwitch): Served {
  const name = `net${side}`
  const device = netDevice(side, { name, port: portOf(scheme, name), link: network.ports[side] })
  return { device, server: VhostUserServer.listen({ path: socketPath(), device }) }
}

function start(scheme: LinuxScheme, side: Side, { device, server }: Served, files: BootFiles): GuestMachine {
  const card = (options: string): string[] => servedNet(server.path, device, options)
  return startLinux(scheme, { files, devices: [card], words: `work=net,stay ${netWords(side)}` })
}

/** Two guests on one switch, which ping each other and fetch a file from each other; the second drives in another way. */
function run(scheme: LinuxScheme, partner: LinuxScheme): PeerCase['run'] {
  return async (progress) => {
    const dir = mkdtempSync(join(tmpdir(), 'guestdma-linux-'))
    const network = new LearningSwitch({ ports: 2, dropWhenFull: false })
    const served: Served[] = []
    try {
      served.push(serve(scheme, 0, network), serve(partner, 1, network))
      const files = bootFiles(dir)
      await using guest = start(scheme, 0, served[0], files)
      await using other = start(partner, 1, served[1], files)
      progress.saw('the machines are starting')
      await Promise.all([guest, other].map((one) => watchResults(one, [], NET_RESULTS, progress)))
      expectExchanged([guest, other])
      const translates = served.map(({ device }) => device.negotiated.has(VIRTIO_F_ACCESS_PLATFORM))
      expectIs('whose addresses are translated', translates, [scheme.translated, partner.translated])
      const faults = served.flatMap(({ device, server }) => [
        ...device.faults.last(),
        ...server.faults.last().map(String),
      ])
      expectIs('faults', faults, [])
    } finally {
      for (const { server } of served) server.close()
      rmSync(dir, { recursive: true, force: true })
    }
  }
}

export const linuxNetCases: readonly PeerCase[] = partnerCases('linux', linuxSchemes, run)
