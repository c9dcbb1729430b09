import type { DmaBackend } from '@guestdma/dma'
import type { DeviceSession, VirtioDriver } from '@guestdma/drivers'
import type { GuestMemory, SpanAllocator } from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'
import type { VirtioTransport } from '@guestdma/transport'
import type { InjectionToken } from 'tsyringe'
import type { DriverOptions } from '../config/driver-kinds.ts'

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
export const DRIVER_OPTIONS: InjectionToken<DriverOptions> = token('DriverOptions')

/** Resolved in a device's container: the driver over that device's backend, one per container. */
export const DRIVER: InjectionToken<VirtioDriver> = token('Driver')
