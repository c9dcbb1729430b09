import type { AccessFault } from '../faults/access-fault.ts'

/** What an endpoint reaches: nothing, all of memory at its own addresses, or what is mapped. */
export type Reach = 'nothing' | 'all' | 'mapped'

/**
 * The translations of one port as a device in another thread has them: `DeviceWorker.translations`. Whoever decides
 * what the device reaches (an IOMMU, a host that shares pages) tells it of each change.
 *
 * Additions count at once. What is taken away may be used until {@link settle} returned true, and nobody is told before
 * that it is gone.
 */
export interface TranslationCopy {
  /** Where the device's message-signalled interrupts pass without translation, which nothing may be mapped at. */
  readonly doorbell?: DoorbellSpan | null
  /** Whose copy it is, once and for all. Throws DeviceError `DEVICE_OPTION` where it is somebody's already. */
  follow(source: TranslationSource): void
  /** Takes all mappings away and changes what is reached; `granule`: bytes that mappings are aligned to. */
  reach(reach: Reach, granule: number): void
  /** Device addresses [keys[0], keys[1]] are mapped to keys[2], with READ and WRITE as bits 0 and 1 of keys[3]. */
  mapped(keys: Float64Array): void
  /** The mappings in [keys[0], keys[1]] went. */
  unmapped(keys: Float64Array): void
  /** Whether the device can use nothing any more that was taken away. */
  readonly settled: boolean
  /** Refused accesses that were too many at once: nothing but their number came through. */
  readonly faultsLost: number
  /** Waits until {@link settled}. False: the device did not let go of it in time, and counts as lost. */
  settle(): boolean
}

/** Device addresses [base, base + length) that are a platform's doorbell. */
export interface DoorbellSpan {
  readonly base: number
  readonly length: number
}

/** Who decides what a device in another thread reaches. */
export interface TranslationSource {
  /** Tells the copy all that there is, beginning with {@link TranslationCopy.reach}: its device was started anew. */
  replay(copy: TranslationCopy): void
  /** The device was refused an access. `report`: the reason for the driver of an IOMMU; -1 where it is none of its own. */
  refused(fault: AccessFault, report: number): void
}
