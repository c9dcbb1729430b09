import { GuestDmaError } from '@guestdma/memory'

/** A module of cases that cannot be run. */
export class PeersError extends GuestDmaError<keyof typeof PEERS_CODES> {}

export const PEERS_CODES = {
  PEERS_CASE_TWICE: {
    meaning: 'Two cases have the same labels.',
    advice: 'Say in `what` how they differ.',
  },
  PEERS_UNKNOWN_PEER: {
    meaning: 'A case names a peer that the module does not export.',
    advice: 'Add the peer to `peers`, or mend the name.',
  },
} as const
