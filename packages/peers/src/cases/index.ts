import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { linuxCases } from './linux.ts'
import { linux } from './linux-image.ts'
import { qemuArm, qemuCases, qemuX86 } from './qemu.ts'
import { seabios, seabiosCases } from './seabios.ts'
import { virtioUser, virtioUserCases } from './virtio-user.ts'

/** What `guestdma-peers` runs where it is given no other module. */
export const peers: readonly PeerProgram[] = [qemuX86, qemuArm, virtioUser, seabios, linux]
export const cases: readonly PeerCase[] = [...qemuCases, ...virtioUserCases, ...seabiosCases, ...linuxCases]
