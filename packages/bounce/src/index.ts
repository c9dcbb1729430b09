/**
 * Bounce buffering: slots over a region that the device can see.
 *
 * @packageDocumentation
 */
export { BounceBackend, type BounceBackendOptions, type BounceCounters, type ClearPolicy } from './bounce-backend.ts'
export { BouncePool, type BouncePoolOptions, type BounceUser, MAX_RUN, SLOT_BYTES } from './bounce-pool.ts'
export { BOUNCE_CODES, BounceError } from './errors.ts'
export { meansSwiotlb, type OnDeviceOptions, onDeviceScheme } from './on-device.ts'
export { bouncePoolFact, type SharedPoolOptions, sharedPoolScheme } from './shared-pool.ts'
export { SlotMap } from './slot-map.ts'
