/** What an error says of itself, as plain data: it survives `structuredClone` and JSON. */
export interface ErrorRecord {
  readonly code: string
  readonly part: string
  readonly message: string
  readonly details: Readonly<Record<string, unknown>>
}

/**
 * The base of every error that guestdma throws. Callers test `code`, which is stable; the class and the message are for
 * people. `part` names the range, queue, device or driver at fault; `details` holds the offending numbers.
 */
export class GuestDmaError extends Error {
  readonly code: string
  readonly part: string
  readonly details: Readonly<Record<string, unknown>>

  constructor(code: string, part: string, message: string, details: Readonly<Record<string, unknown>> = {}) {
    super(`${part}: ${message}`)
    this.name = new.target.name
    this.code = code
    this.part = part
    this.details = details
  }

  /** The error as plain data, for logs and for crossing threads. */
  toRecord(): ErrorRecord {
    return { code: this.code, part: this.part, message: this.message, details: this.details }
  }
}

/** A memory range, window or buffer that cannot be what the caller says. Codes start with `MEMORY_`. */
export class MemoryError extends GuestDmaError {}

/** `0x…`, for messages. */
export function hex(value: number): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`
}
