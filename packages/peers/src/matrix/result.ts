import type { CaseLabels } from './case.ts'

/** What became of one case. */
export interface CaseResult extends CaseLabels {
  /** The peer's version; empty where it is not installed. */
  readonly version: string
  readonly outcome: 'pass' | 'fail' | 'skip'
  /** Why it failed or was skipped; empty where it passed. */
  readonly reason: string
  readonly seconds: number
  /** What the case recorded, by name; missing where it recorded nothing. */
  readonly figures?: Readonly<Record<string, number | string>>
}

/** The whole matrix, as JSON holds it. */
export interface PeersReport {
  readonly schema: typeof PEERS_SCHEMA
  readonly environment: {
    readonly date: string
    readonly node: string
    readonly platform: string
    readonly cores: number
  }
  /** False where the run was ended early. */
  readonly complete: boolean
  readonly results: readonly CaseResult[]
}

export const PEERS_SCHEMA = 'guestdma-peers-1'
