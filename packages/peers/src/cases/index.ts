import type { Peer, PeerCase } from '../matrix/case.ts'
export const peers: readonly Peer[] = []
export const cases: readonly PeerCase[] = []
