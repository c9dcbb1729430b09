/** What the codes of a package mean: what happened, and what to do about it. `docs/errors.md` is written from these. */
export type ErrorTable = Readonly<Record<string, { readonly meaning: string; readonly advice: string }>>

/** What brought an error about, as plain data. All but `name` and `message` are only there for a {@link GuestDmaError}. */
export interface CauseRecord {
  readonly name: string
  readonly message: string
  readonly code?: string
  readonly part?: string
  readonly details?: Readonly<Record<string, unknown>>
  readonly cause?: CauseRecord
}

/** What an error says of itself, as plain data: it survives `structuredClone` and JSON. */
export interface ErrorRecord {
  readonly code: string
  readonly part: string
  readonly message: string
  readonly details: Readonly<Record<string, unknown>>
  readonly cause?: CauseRecord
}

/** A chain of causes may be a circle; no honest one is longer than this. */
const CAUSES_KEPT = 8

/**
 * The base of every error that guestdma throws. Callers test `code`, which is stable; the class and the message are for
 * people. `part` names the range, queue, device or driver at fault; `details` holds the offending numbers; `cause` is
 * the error that this one came from. A subclass fixes `Code`, so that it takes only the codes of its package's table.
 */
export class GuestDmaError<Code extends string = string> extends Error {
  readonly code: string
  readonly part: string
  readonly details: Readonly<Record<string, unknown>>

  constructor(
    code: Code,
    part: string,
    message: string,
    details: Readonly<Record<string, unknown>> = {},
    options?: ErrorOptions,
  ) {
    // An own `cause` that is undefined would print as if there had been one.
    super(`${part}: ${message}`, options?.cause === undefined ? undefined : options)
    this.name = new.target.name
    this.code = code
    this.part = part
    this.details = details
  }

  /** The error as plain data, for logs and for crossing threads. At most eight causes are kept, the nearest ones. */
  toRecord(): ErrorRecord {
    const { code, part, message, details } = this
    return { code, part, message, details, ...causeOf(this, CAUSES_KEPT) }
  }
}

/** A range, window or address that cannot be what the caller says. */
export class MemoryError extends GuestDmaError<keyof typeof MEMORY_CODES> {}

export const MEMORY_CODES = {
  MEMORY_ADDRESS: {
    meaning: 'An address is not an integer from 0 to 2^53 - 1.',
    advice: 'Pass a safe integer; convert a bigint only after a check that it fits.',
  },
  MEMORY_ALIGN: {
    meaning: 'An alignment is no power of two up to 2^30, or a range does not begin where it must.',
    advice: 'Take the alignment that the message names.',
  },
  MEMORY_DETACHED: {
    meaning: 'The buffer behind guest memory was detached: closed, or transferred to somebody else.',
    advice: 'Close machines and drivers before the memory that they use.',
  },
  MEMORY_EMPTY: {
    meaning: 'Guest memory was made of no ranges.',
    advice: 'Give at least one range.',
  },
  MEMORY_ENDIAN: {
    meaning: 'The host is big-endian, which typed arrays over guest memory cannot serve.',
    advice: 'Run on a little-endian host.',
  },
  MEMORY_EXHAUSTED: {
    meaning: 'No free span is long enough for the length and the alignment that were asked for.',
    advice: 'Give the guest more RAM, ask for less, or release what is not in use.',
  },
  MEMORY_FREE: {
    meaning: 'A span was released that was not handed out, or was released before.',
    advice: 'Release each span once, by the address that the allocator returned.',
  },
  MEMORY_LENGTH: {
    meaning: 'A length is negative, zero where a span must not be empty, or not an integer.',
    advice: 'Pass a length in bytes, as an integer within the bounds that the message names.',
  },
  MEMORY_OUTSIDE: {
    meaning: 'A span is not wholly within one range of guest memory.',
    advice: 'Check the address and the length; a span may not run from one range into another.',
  },
  MEMORY_OVERLAP: {
    meaning: 'Two ranges of guest memory share addresses.',
    advice: 'Move or shorten one of the two ranges.',
  },
  MEMORY_RESIZABLE: {
    meaning: 'The buffer behind a region can be resized, which would move views under running queues.',
    advice: 'Use a buffer of fixed length, or a WebAssembly memory.',
  },
  MEMORY_SOURCE: {
    meaning: 'What was given as memory is neither a buffer nor a WebAssembly memory.',
    advice: 'Pass an ArrayBuffer, a SharedArrayBuffer or a WebAssembly.Memory.',
  },
} as const

function causeOf(error: Error, left: number): { cause?: CauseRecord } {
  const { cause } = error
  if (cause === undefined || left === 0) return {}
  if (!(cause instanceof Error)) return { cause: { name: typeof cause, message: String(cause) } }
  const { name, message } = cause
  const own = cause instanceof GuestDmaError ? { code: cause.code, part: cause.part, details: cause.details } : {}
  return { cause: { name, message, ...own, ...causeOf(cause, left - 1) } }
}

/** `0x…`, for messages. */
export function hex(value: number): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`
}
