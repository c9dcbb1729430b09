import type { PeerCase, PeerProgram } from '../matrix/case.ts'
export const peers: readonly PeerProgram[] = []
export const cases: readonly PeerCase[] = []
