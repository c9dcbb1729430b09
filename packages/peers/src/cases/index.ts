import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { qemuArm, qemuCases, qemuX86 } from '../qemu/table.ts'
import { seabios, seabiosCase } from '../vhost-user/seabios.ts'
import { storageDaemon, storageDaemonCases } from '../vhost-user/storage-daemon.ts'
import { testpmd, testpmdCases } from '../vhost-user/testpmd.ts'
import { virtioUser, virtioUserCases } from '../vhost-user/virtio-user.ts'

/** What `guestdma-peers` runs where it is given no other module. */
export const peers: readonly PeerProgram[] = [qemuX86, qemuArm, storageDaemon, testpmd, seabios, virtioUser]
export const cases: readonly PeerCase[] = [
  ...qemuCases,
  ...storageDaemonCases,
  ...testpmdCases,
  seabiosCase,
  ...virtioUserCases,
]
