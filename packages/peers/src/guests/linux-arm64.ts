import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BlkDevice } from '@guestdma/devices'
import type { PeerCase } from '../matrix/case.ts'
import { expectIs, pattern } from '../work/workloads.ts'
import { arm64Files } from './arm64-image.ts'
import { ended, expectConfined, recordFigures, resultOf, watchResults } from './arm64-report.ts'
import { ARM64_QUEUE_SIZE, type Arm64Scheme, arm64Schemes, type Served, serve, startArm64 } from './arm64-scheme.ts'
import { CountingStore } from './counting-store.ts'
import { checkFileSystem, emptyFileSystem, hashOf } from './file-system.ts'

const MIB = 1 << 20
const DISK = 24 * MIB
/** What the guest copies into a file system. */
const COPY = 8 * MIB

/** Three disks: one to read, one that the guest formats, and one that the host formatted. */
function run(scheme: Arm64Scheme): PeerCase['run'] {
  return async (progress) => {
    const dir = mkdtempSync(join(tmpdir(), 'guestdma-arm64-'))
    const served: Served[] = []
    try {
      const [source, made, files] = [pattern(DISK, 11), new Uint8Array(DISK), emptyFileSystem(dir, DISK)]
      for (const [i, bytes] of [source, made, files].entries()) {
        const [name, store, queueSize] = [`disk${i}`, new CountingStore(bytes), ARM64_QUEUE_SIZE]
        served.push(
          serve(scheme, i, name, (port) => new BlkDevice({ name, port, store, queueSize, accessPlatform: 'offered' })),
        )
      }
      await using guest = startArm64(scheme, served, {
        files: arm64Files(dir),
        dir,
        work: 'work=probe,secret,read,files,mkfs,copied',
      })
      progress.saw('the machine is starting')
      const names = ['freed', 'read', 'file', 'fsck', 'copied']
      const secretInReach = await watchResults(guest, served, names, progress)
      const negotiated = String(served[0].device.negotiated)
      await ended(guest)
      expectIs('the hash of the whole disk', resultOf(guest, 'read'), hashOf(source))
      const copy = source.subarray(0, COPY)
      const hashes = [...guest.serial().matchAll(/^RESULT file (\S+)/gm)].map(([, hash]) => hash)
      expectIs('the hashes of the files', hashes, [hashOf(copy), hashOf(copy)])
      expectIs("the guest's e2fsck", resultOf(guest, 'fsck'), '0')
      checkFileSystem(dir, files, copy)
      checkFileSystem(dir, made, copy)
      recordFigures(progress, scheme, served, { guest, negotiated, secretInReach })
      expectConfined(served)
    } finally {
      for (const { server } of served) server.close()
      rmSync(dir, { recursive: true, force: true })
    }
  }
}

export const linuxArm64Cases: readonly PeerCase[] = arm64Schemes.map((scheme) => ({
  peer: 'linux-arm64',
  role: 'driver',
  driver: 'blk',
  ring: 'split',
  backend: scheme.backend,
  transport: 'vhost-user',
  what: '',
  deadlineMs: 180_000,
  run: run(scheme),
}))
