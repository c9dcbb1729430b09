import { GuestDmaError } from '@guestdma/memory'

/** A bounce pool that cannot be made as its options say. */
export class BounceError extends GuestDmaError<keyof typeof BOUNCE_CODES> {}

export const BOUNCE_CODES = {
  BOUNCE_POOL_ALIGN: {
    meaning: 'The window or the device address of a pool is not aligned for slots.',
    advice: 'Align both to the multiple that the message names.',
  },
  BOUNCE_POOL_SIZE: {
    meaning: 'A pool is too small to hold one slot.',
    advice: 'Make the pool larger.',
  },
  BOUNCE_RESERVE: {
    meaning: 'The reserve of slots for rings is outside what the pool can keep.',
    advice: 'Pass a number of slots within the bounds that the message names.',
  },
} as const
