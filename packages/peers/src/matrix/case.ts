/** What a case is: which peer in which role, under which of our drivers or models, over what. */
export interface CaseLabels {
  /** The id of a {@link PeerProgram}. */
  readonly peer: string
  /** What the peer is: `device`, and our driver drives it; or `driver`, and it drives our model. */
  readonly role: 'device' | 'driver'
  readonly driver: string
  readonly ring: 'split' | 'packed'
  /** The DMA scheme, or what the driver does of its own where it is not ours. */
  readonly backend: string
  readonly transport: string
  /** What is special about it, in a few words; empty where nothing is. */
  readonly what: string
}

export interface PeerCase extends CaseLabels {
  /** The longest that the case may take, in milliseconds. Default 60,000. */
  readonly deadlineMs?: number
  /**
   * Runs in a process of its own: starts the peer, works with it, and ends it. What it throws fails the case.
   *
   * @throws SkippedCase where this machine cannot run it
   */
  run(progress: CaseProgress): Promise<void>
}

export interface CaseProgress {
  /** Notes what was seen. Where the case hangs, the last note is told. */
  saw(what: string): void
  /** Records what was measured or found, under a name; the JSON of a run holds it. A later value replaces it. */
  figure(name: string, value: number | string): void
}

/** A case that cannot be run here, for a reason that is not ours. */
export class SkippedCase extends Error {}

/** The program of somebody else. */
export interface PeerProgram {
  readonly id: string
  /** As people know it. */
  readonly name: string
  /** The Debian packages that bring it. */
  readonly packages: readonly string[]
  /** The command that brings it, where packages alone do not. */
  readonly command?: string
  /** Its version, or null where it is not installed. */
  version(): Promise<string | null>
}

/** What a module of cases exports. */
export interface CaseModule {
  readonly peers: readonly PeerProgram[]
  readonly cases: readonly PeerCase[]
}

/** One line that names a case: unique in a module. */
export function caseId({ peer, role, driver, ring, backend, transport, what }: CaseLabels): string {
  return [peer, role, driver, ring, backend, transport, what].filter((part) => part !== '').join(' ')
}
