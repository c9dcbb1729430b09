import { GuestDmaError } from '@guestdma/memory'

/** A module of cases that cannot be run. */
export class PeersError extends GuestDmaError<keyof typeof PEERS_CODES> {}

export const PEERS_CODES = {
  PEERS_CASE_TWICE: {
    meaning: 'Two cases have the same labels.',
    advice: 'Say in `what` how they differ.',
  },
  PEERS_CASES: {
    meaning: 'A module does not export the lists of peers and cases.',
    advice: 'Export `peers` and `cases` from it.',
  },
  PEERS_FILE: {
    meaning: 'A module of cases cannot be loaded.',
    advice: 'Check the path, and run the file by itself to see what it throws.',
  },
  PEERS_UNKNOWN_PEER: {
    meaning: 'A case names a peer that the module does not export.',
    advice: 'Add the peer to `peers`, or mend the name.',
  },
  PEERS_USAGE: {
    meaning: 'The command line cannot be followed.',
    advice: 'See --help, and --list for the words that cases have.',
  },
} as const
