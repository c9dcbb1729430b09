import { GuestDmaError } from '@guestdma/memory'

/** Misuse of a backend, or set-up that cannot be had. */
export class DmaError extends GuestDmaError<keyof typeof DMA_CODES> {}

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
 * `advice` says what would help, and `cause` is why the strongest that was tried could not be set up.
 */
export class NoUsableBackendError extends DmaError {
  constructor(device: string, candidates: readonly CandidateReport[], advice = '', options?: ErrorOptions) {
    const list = candidates.map((c) => `${c.id}: ${c.outcome ?? c.why}`).join('; ')
    super(
      'DMA_NO_USABLE_BACKEND',
      device,
      `no DMA scheme can be used (${list || 'none is registered'})${advice}`,
      { candidates },
      options,
    )
  }
}

/** Only a backend that confines less than the platform allows is left, and the caller did not list it. */
export class DowngradeRefusedError extends DmaError {
  constructor(
    device: string,
    refused: string,
    stronger: string,
    candidates: readonly CandidateReport[],
    options?: ErrorOptions,
  ) {
    super(
      'DMA_DOWNGRADE_REFUSED',
      device,
      `only '${refused}' is left, which confines less than '${stronger}', which this platform allows; list '${refused}' explicitly to accept that ` +
        `(${candidates.map((c) => `${c.id}: ${c.outcome ?? c.why}`).join('; ')})`,
      { refused, stronger, candidates },
      options,
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

export const DMA_CODES = {
  DMA_ALLOC: {
    meaning: 'A backend could not allocate a region, for want of guest RAM, slots or I/O virtual addresses.',
    advice: 'Give the guest or the pool more memory, or use smaller queues and fewer buffers.',
  },
  DMA_BUFFER_RELEASE: {
    meaning: 'A buffer of a pool was released that is not held.',
    advice: 'Release each buffer once, by the index that the pool handed out.',
  },
  DMA_BUFFER_SIZE: {
    meaning: 'A pool of buffers was asked for with no buffers, or with buffers of no bytes.',
    advice: 'Ask for at least one buffer of at least one byte.',
  },
  DMA_BUS_OFFSET: {
    meaning: 'A bus offset is out of range, or is not a multiple that keeps rings aligned.',
    advice: 'Take the bounds and the multiple that the message names.',
  },
  DMA_CONFLICT: {
    meaning: 'Two schemes each say that this platform requires them.',
    advice: 'Declare one of the two in the facts of the platform.',
  },
  DMA_DOWNGRADE_REFUSED: {
    meaning: 'Only a scheme is left that confines the device less than the platform allows.',
    advice: 'List that scheme explicitly to accept it, or mend what kept the stronger one out.',
  },
  DMA_EMPTY_CHOICE: {
    meaning: 'The list of schemes to choose from is empty.',
    advice: "List at least one scheme, or pass 'auto'.",
  },
  DMA_FREE: {
    meaning: 'A region was freed that is not allocated here, or was freed before.',
    advice: 'Free each region once, at the backend that allocated it.',
  },
  DMA_STILL_REACHABLE: {
    meaning: 'Nobody confirmed that memory was taken back from the device, so that the device may still reach it.',
    advice: 'Leave its memory out of use, and reset the device.',
  },
  DMA_GAP: {
    meaning: 'An IOMMU domain needs gaps between mappings, which buffers with bounced edges cannot have.',
    advice: 'Let payload share granules on this domain.',
  },
  DMA_LAZY: {
    meaning: 'The bounds of lazy invalidation are no usable numbers.',
    advice: 'Pass an integer of entries from 1 on, and milliseconds from 0 on.',
  },
  DMA_NOT_MAPPED: {
    meaning: 'A row or slot was unmapped or synchronised that is not mapped.',
    advice: 'Unmap each mapping once, and synchronise it only while it is mapped.',
  },
  DMA_NO_BACKEND: {
    meaning: 'A platform that makes no backends was asked for one.',
    advice: 'List a scheme that makes one beside the platform scheme.',
  },
  DMA_NO_USABLE_BACKEND: {
    meaning: 'No registered scheme can be used with this device on this platform.',
    advice:
      'Read the reason of each candidate in details.candidates, and change the platform or register another scheme.',
  },
  DMA_POOL_TRANSFORMED: {
    meaning: 'A pool of shared buffers was asked for over a backend that transforms payload.',
    advice: 'Map buffers one by one with this backend.',
  },
  DMA_UNKNOWN_SCHEME: {
    meaning: 'A scheme was named that is not registered.',
    advice: 'Check the spelling against details.known, or register the scheme.',
  },
} as const
