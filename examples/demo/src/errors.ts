import { GuestDmaError } from '@guestdma/memory'

/** Where an input file is wrong: the byte offset in the file, what stands there, and what to do about it. */
export interface InputFault {
  readonly offset: number
  readonly found: number | string
  readonly advice: string
}

/**
 * A capture or an image that the demo cannot use. `part` is the file's name, `details` an {@link InputFault}.
 * Codes start with `PCAP_` or `EXT4_`.
 */
export class DemoInputError extends GuestDmaError {
  constructor(code: string, file: string, field: string, fault: InputFault) {
    super(code, file, `at byte ${fault.offset}: ${field} is ${fault.found}; ${fault.advice}`, { ...fault })
  }
}
