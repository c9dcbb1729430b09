import { linuxArm64 } from '../guests/arm64-image.ts'
import { firmwareCases, firmwares } from '../guests/firmware.ts'
import { ipxe, ipxeCases } from '../guests/ipxe.ts'
import { linuxCases } from '../guests/linux.ts'
import { linuxArm64Cases } from '../guests/linux-arm64.ts'
import { linuxArm64NetCases } from '../guests/linux-arm64-net.ts'
import { linux } from '../guests/linux-image.ts'
import { linuxNetCases } from '../guests/linux-net.ts'
import { linuxV86, linuxV86Cases } from '../guests/linux-v86.ts'
import { seabios, seabiosCases } from '../guests/seabios.ts'
import { virtioUser, virtioUserCases } from '../guests/virtio-user.ts'
import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { qemuArm, qemuCases, qemuX86 } from '../qemu/table.ts'
import { storageDaemon, storageDaemonCases } from '../vhost-user/storage-daemon.ts'
import { testpmd, testpmdCases } from '../vhost-user/testpmd.ts'

/** What `guestdma-peers` runs where it is given no other module. */
export const peers: readonly PeerProgram[] = [
  qemuX86,
  qemuArm,
  storageDaemon,
  testpmd,
  virtioUser,
  seabios,
  ...firmwares,
  ipxe,
  linux,
  linuxArm64,
  linuxV86,
]
export const cases: readonly PeerCase[] = [
  ...qemuCases,
  ...storageDaemonCases,
  ...testpmdCases,
  ...virtioUserCases,
  ...seabiosCases,
  ...firmwareCases,
  ...ipxeCases,
  ...linuxCases,
  ...linuxNetCases,
  ...linuxArm64Cases,
  ...linuxArm64NetCases,
  ...linuxV86Cases,
]
