/**
 * A matrix of cases in which real virtio devices and drivers meet guestdma's, each in a process of its own.
 *
 * @packageDocumentation
 */
export { type GuestSpeed, measureGuests } from './guests/arm64-speed.ts'
export {
  type CaseLabels,
  type CaseModule,
  type CaseProgress,
  caseId,
  type PeerCase,
  type PeerProgram,
  SkippedCase,
} from './matrix/case.ts'
export { PEERS_CODES, PeersError } from './matrix/errors.ts'
export { countsOf, formatMatrix, matrixPage } from './matrix/page.ts'
export { programPeer } from './matrix/program-peer.ts'
export { type CaseResult, PEERS_SCHEMA, type PeersReport } from './matrix/result.ts'
export { type CaseMessage, type MatrixOptions, runMatrix } from './matrix/runner.ts'
export { startStorageDaemon, startTestpmd, type VhostUserPeer } from './vhost-user/start.ts'
