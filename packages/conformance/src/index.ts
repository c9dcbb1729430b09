/**
 * Suites for whoever implements a part of guestdma, and doubles that play its other side: a checking backend, a faulty
 * one, an exact IOMMU, the hardest bounce buffer, memory that steps, and split rings that keep the rules or break them.
 * The test runner's functions are handed in.
 *
 * @example
 * import { describe, expect, test } from 'vitest'
 * describeDmaScheme({ describe, test, expect }, () => myScheme())
 *
 * @packageDocumentation
 */
export { BouncingBackend, type BouncingOptions, BouncingSlots, bouncingScheme } from './bouncing-backend.ts'
export { reaches, readBus, writeBus } from './bus-access.ts'
export { CheckedBackend, checked } from './checked-backend.ts'
export { ExactBackend, type ExactOptions, exactScheme } from './exact-backend.ts'
export { FaultyBackend } from './faulty-backend.ts'
export { ForwardingBackend } from './forwarding-backend.ts'
export { type Barrier, exploreHandshake, type HandshakeOptions, type HandshakeReport } from './handshake/explorer.ts'
export type { History } from './handshake/programs.ts'
export { type PeerChain, type PeerElement, PeerError, type PeerSetup, type RingPeer } from './ring-peer.ts'
export type { DmaSchemeOptions } from './scheme-rig.ts'
export { describeDmaScheme } from './scheme-suite.ts'
export { HostileSplitRing, SplitRingPeer } from './split-ring-peer.ts'
export { SteppingMemory } from './stepping-memory.ts'
export type { TestFunctions } from './test-functions.ts'
export { TestMachine, type TestMachineOptions, TestPlatform } from './test-machine.ts'
export { QueueRig, type QueueRigOptions, type VirtqueueSuiteOptions } from './virtqueue-rig.ts'
export { describeVirtqueue } from './virtqueue-suite.ts'
