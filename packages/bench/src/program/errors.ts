import { GuestDmaError } from '@guestdma/memory'

/** A command line that cannot be followed. A program that meets it ends with exit code {@link EXIT_USAGE}. */
export class UsageError extends GuestDmaError {}

/** The exit code of a program whose command line is wrong. */
export const EXIT_USAGE = 2
