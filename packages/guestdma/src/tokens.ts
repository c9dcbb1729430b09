import type { DmaBackend } from '@guestdma/dma'
import type { BlkDriver, BlkDriverOptions, DeviceSession, NetDriver, NetDriverOptions } from '@guestdma/drivers'
import type { GuestMemory, SpanAllocator } from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'
import type { VirtioTransport } from '@guestdma/transport'
import type { InjectionToken } from 'tsyringe'

// Global symbols: two copies of this package in one program agree on them.
const token = <T>(name: string): InjectionToken<T> => Symbol.for(`guestdma.${name}`) as InjectionToken<T>

/** In a machine's container. */
export const GUEST_MEMORY: InjectionToken<GuestMemory> = token('GuestMemory')
export const GUEST_RAM: InjectionToken<SpanAllocator> = token('GuestRam')

/** In a device's container, as values, from FEATURES_OK on. */
export const DMA_BACKEND: InjectionToken<DmaBackend> = token('DmaBackend')
export const AGREED_FEATURES: InjectionToken<FeatureSet> = token('AgreedFeatures')
export const TRANSPORT: InjectionToken<VirtioTransport> = token('Transport')
export const SESSION: InjectionToken<DeviceSession> = token('Session')
export const NET_OPTIONS: InjectionToken<NetDriverOptions> = token('NetOptions')
export const BLK_OPTIONS: InjectionToken<BlkDriverOptions> = token('BlkOptions')

/** Resolved in a device's container: the driver over that device's backend, one per container. */
export const NET_DRIVER: InjectionToken<NetDriver> = token('NetDriver')
export const BLK_DRIVER: InjectionToken<BlkDriver> = token('BlkDriver')
