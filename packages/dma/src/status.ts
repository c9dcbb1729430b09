/**
 * Hot-path results are numbers, so that nothing is allocated to say that all is well. `DMA_EXHAUSTED` is transient:
 * keep the buffer and retry after completions. `DMA_TOO_LONG` and `DMA_UNMAPPABLE` are permanent. `DMA_CORRUPT`: what
 * came back was not delivered. `DMA_FAILED`: a commit did not succeed.
 */
export const DMA_OK = 0
export const DMA_EXHAUSTED = -1
export const DMA_TOO_LONG = -2
export const DMA_UNMAPPABLE = -3
export const DMA_CORRUPT = -4
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
