import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { qemuArm, qemuCases, qemuX86 } from './qemu.ts'
import { virtioUser, virtioUserCases } from './virtio-user.ts'

/** What `guestdma-peers` runs where it is given no other module. */
export const peers: readonly PeerProgram[] = [qemuX86, qemuArm, virtioUser]
export const cases: readonly PeerCase[] = [...qemuCases, ...virtioUserCases]
