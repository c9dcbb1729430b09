import { GuestDmaError } from '@guestdma/memory'

/** Misuse of a backend, or set-up that cannot be had. Codes start with `DMA_`. */
export class DmaError extends GuestDmaError {}

/** Why one provider was or was not taken. */
export interface CandidateReport {
  readonly id: string
  readonly fit: 'required' | 'usable' | 'unusable'
  readonly why: string
  /** What happened when it was tried, where it was. */
  readonly outcome?: string
}

/**
 * No registered scheme can be used with this device on this platform. `details.candidates` lists each with its reason;
 * `advice` says what would help.
 */
export class NoUsableBackendError extends DmaError {
  constructor(device: string, candidates: readonly CandidateReport[], advice = '') {
    const list = candidates.map((c) => `${c.id}: ${c.outcome ?? c.why}`).join('; ')
    super('DMA_NO_USABLE_BACKEND', device, `no DMA scheme can be used (${list || 'none is registered'})${advice}`, {
      candidates,
    })
  }
}

/** Only a backend that confines less than the platform allows is left, and the caller did not list it. */
export class DowngradeRefusedError extends DmaError {
  constructor(device: string, refused: string, stronger: string, candidates: readonly CandidateReport[]) {
    super(
      'DMA_DOWNGRADE_REFUSED',
      device,
      `only '${refused}' is left, which confines less than '${stronger}', which this platform allows; list '${refused}' explicitly to accept that ` +
        `(${candidates.map((c) => `${c.id}: ${c.outcome ?? c.why}`).join('; ')})`,
      { refused, stronger, candidates },
    )
  }
}

/** Two schemes each claim to be required. */
export class DmaConflictError extends DmaError {
  constructor(device: string, ids: readonly string[]) {
    super(
      'DMA_CONFLICT',
      device,
      `${ids.map((id) => `'${id}'`).join(' and ')} are both required; the platform must declare one of them`,
      { ids },
    )
  }
}

/** The caller named a scheme that is not registered. */
export class UnknownSchemeError extends DmaError {
  constructor(device: string, id: string, known: readonly string[]) {
    super('DMA_UNKNOWN_SCHEME', device, `unknown scheme '${id}'; known: ${known.join(', ') || 'none'}`, { id, known })
  }
}
