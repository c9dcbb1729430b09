/**
 * Suites for whoever implements a part of guestdma, and doubles that play its other side: a checking backend, a faulty
 * one, an exact IOMMU, the hardest bounce buffer, one that seals what it carries, memory that steps, rings of both
 * formats that keep the rules or break them, and audits of what a device is told. The test runner's functions are handed in.
 *
 * @packageDocumentation
 */
export { AddressAudit, type AuditFinding, type AuditOptions, type AuditSpan } from './audit/address-audit.ts'
export { AuditedTransport } from './audit/audited-transport.ts'
export { DeviceAudit } from './audit/device-audit.ts'
export type {
  DeviceMemoryLookup,
  PublishedPart,
  PublishedRing,
  PublishedVisitor,
} from './audit/published-ring.ts'
export { BouncingBackend, type BouncingOptions, BouncingSlots, bouncingScheme } from './doubles/bouncing-backend.ts'
export { reaches, readBus, writeBus } from './doubles/bus-access.ts'
export { CheckedBackend, checked } from './doubles/checked-backend.ts'
export { CHECK_CODES, CheckError } from './doubles/errors.ts'
export { ExactBackend, type ExactOptions, exactScheme } from './doubles/exact-backend.ts'
export { FaultyBackend } from './doubles/faulty-backend.ts'
export { ForwardingBackend, withBackend } from './doubles/forwarding-backend.ts'
export { HostilePackedRing } from './doubles/hostile-packed-ring.ts'
export { PackedRingPeer } from './doubles/packed-ring-peer.ts'
export { type PeerChain, type PeerElement, PeerError, type PeerSetup, type RingPeer } from './doubles/ring-peer.ts'
export { SealingBackend, type SealingOptions, sealingCodec, sealingScheme } from './doubles/sealing-backend.ts'
export { HostileSplitRing, SplitRingPeer } from './doubles/split-ring-peer.ts'
export { SteppingMemory } from './doubles/stepping-memory.ts'
export { TestMachine, type TestMachineOptions, TestPlatform } from './doubles/test-machine.ts'
export { type Barrier, exploreHandshake, type HandshakeOptions, type HandshakeReport } from './handshake/explorer.ts'
export type { History } from './handshake/programs.ts'
export { QueueRig, type QueueRigOptions, type VirtqueueSuiteOptions } from './queues/rig.ts'
export { describeVirtqueue } from './queues/suite.ts'
export { describeRingFormat, type RingFormatHalves } from './rings/suite.ts'
export type { TestFunctions } from './runner/test-functions.ts'
export type { DmaSchemeOptions } from './schemes/rig.ts'
export { describeDmaScheme } from './schemes/suite.ts'
