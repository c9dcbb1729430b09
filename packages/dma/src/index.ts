/**
 * The DMA contract: what a backend is, how a scheme is described and chosen, and the simplest backend.
 *
 * @packageDocumentation
 */
export {
  type DmaBackend,
  type DmaCounters,
  type DmaLimits,
  type DmaRegion,
  type DmaTraits,
  newDmaCounters,
} from './backend.ts'
export { BufferPool } from './buffer-pool.ts'
export { BUFFER_ACQUIRED, BUFFER_ALIGN, BUFFER_FREE, BUFFER_LENT, Buffers, bufferStride } from './buffers.ts'
export { DirectBackend, directScheme } from './direct.ts'
export {
  type CandidateReport,
  DMA_CODES,
  DmaConflictError,
  DmaError,
  DowngradeRefusedError,
  NoUsableBackendError,
  UnknownSchemeError,
} from './errors.ts'
export { type FactKey, factKey, type PoolFact, type SwiotlbDeclaration } from './facts.ts'
export { DmaMappings } from './mappings.ts'
export { type OfferedFacts, type PlatformOffer, platformOffer, type Suitability } from './offer.ts'
export type { IommuFault, IommuPlace, IommuRequest, MachineHooks, PlatformBuilder, SharedPages } from './platform.ts'
export { type DmaProvider, type DmaScheme, platformScheme } from './scheme.ts'
export { type Candidate, DMA_FEATURES, type DmaChoice, listedIds, type Selection, select } from './select.ts'
export {
  BIDIRECTIONAL,
  DMA_CORRUPT,
  DMA_EXHAUSTED,
  DMA_FAILED,
  DMA_OK,
  DMA_TOO_LONG,
  DMA_UNMAPPABLE,
  type DmaDirection,
  type DmaStatus,
  describeStatus,
  FROM_DEVICE,
  TO_DEVICE,
} from './status.ts'
