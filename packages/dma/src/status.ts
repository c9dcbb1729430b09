/**
 * Results of the data path are numbers, so that nothing is allocated to say that all is well. Each status has one
 * meaning in all methods; the methods of `DmaBackend` say which of them they return.
 */

/** The call did what it was asked to do. */
export const DMA_OK = 0
/** There is no room now. The caller keeps the buffer and tries again after other requests complete. */
export const DMA_EXHAUSTED = -1
/** One mapping cannot be this long. The caller splits the buffer or gives up; the same call never succeeds. */
export const DMA_TOO_LONG = -2
/**
 * The range is not one that the backend can lend or has lent: not guest memory for `map`, outside of the mapping for a
 * sync, refused for good by the device's IOMMU for `commitMaps`. The same call never succeeds.
 */
export const DMA_UNMAPPABLE = -3
/** The mapping was taken back, but the bytes of the device failed the backend's check and were not delivered. */
export const DMA_CORRUPT = -4
/** The IOMMU, or whoever else confirms commits, did not confirm one: this commit, or an earlier one for `map`. */
export const DMA_FAILED = -5

export type DmaStatus = 0 | -1 | -2 | -3 | -4 | -5

/** Who writes the lent bytes. From the guest's point of view, as in Linux's DMA API; a bit mask. */
export const TO_DEVICE = 1
export const FROM_DEVICE = 2
export const BIDIRECTIONAL = 3

export type DmaDirection = 1 | 2 | 3

const NAMES = ['ok', 'exhausted', 'too long', 'unmappable', 'corrupt', 'failed']

/** A status in words, for messages. */
export function describeStatus(status: number): string {
  return NAMES[-status] ?? `status ${status}`
}
