import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { qemuArm, qemuCases, qemuX86 } from '../qemu/table.ts'

/** What `guestdma-peers` runs where it is given no other module. */
export const peers: readonly PeerProgram[] = [qemuX86, qemuArm]
export const cases: readonly PeerCase[] = [...qemuCases]
