import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LearningSwitch } from '@guestdma/devices'
import type { CaseProgress, PeerCase } from '../matrix/case.ts'
import { arm64Files } from './arm64-image.ts'
import { expectConfined, recordFigures, watchResults } from './arm64-report.ts'
import { ARM64_QUEUE_SIZE, type Arm64Scheme, arm64Schemes, type Served, serve, startArm64 } from './arm64-scheme.ts'
import type { GuestMachine } from './guest-machine.ts'
import type { BootFiles } from './initramfs.ts'
import { expectExchanged, NET_RESULTS, netDevice, netWords, partnerCases, type Side } from './two-guests.ts'

/** In the order in which `init.sh` prints them. */
const RESULTS = ['freed', ...NET_RESULTS, 'copied']

function serveNet(scheme: Arm64Scheme, side: Side, network: LearningSwitch): Served {
  const name = `net${side}`
  const link = network.ports[side]
  return serve(scheme, 0, name, (port) => netDevice(side, { name, port, link, queueSize: ARM64_QUEUE_SIZE }))
}

function start(scheme: Arm64Scheme, side: Side, one: Served, files: BootFiles, dir: string): GuestMachine {
  const own = join(dir, String(side))
  mkdirSync(own)
  return startArm64(scheme, [one], {
    files,
    dir: own,
    work: `work=probe,secret,net,copied,stay ${netWords(side)}`,
  })
}

/** Two guests on one switch, which ping each other and fetch a file from each other; the second drives in another way. */
function run(scheme: Arm64Scheme, partner: Arm64Scheme): PeerCase['run'] {
  return async (progress: CaseProgress) => {
    const dir = mkdtempSync(join(tmpdir(), 'guestdma-arm64-'))
    const network = new LearningSwitch({ ports: 2, dropWhenFull: false })
    const served: Served[] = []
    try {
      served.push(serveNet(scheme, 0, network), serveNet(partner, 1, network))
      const files = arm64Files(dir)
      await using guest = start(scheme, 0, served[0], files, dir)
      await using other = start(partner, 1, served[1], files, dir)
      progress.saw('the machines are starting')
      const [secretInReach] = await Promise.all([
        watchResults(guest, [served[0]], RESULTS, progress),
        watchResults(other, [served[1]], RESULTS, progress),
      ])
      expectExchanged([guest, other])
      const negotiated = String(served[0].device.negotiated)
      recordFigures(progress, scheme, [served[0]], { guest, negotiated, secretInReach })
      expectConfined(served)
    } finally {
      for (const { server } of served) server.close()
      rmSync(dir, { recursive: true, force: true })
    }
  }
}

export const linuxArm64NetCases: readonly PeerCase[] = partnerCases('linux-arm64', arm64Schemes, run)
