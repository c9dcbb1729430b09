import type { Subject } from './result.ts'

/** One variant of a scenario, ready to run. */
export interface Prepared {
  /** Runs one batch to its end and returns how many operations that were. Called many times; must allocate nothing. */
  round(): number
  /** Totals so far, by name; differences are divided by operations. */
  counters(): Readonly<Record<string, number>>
  /**
   * Calls `run`, which runs rounds, and returns the share of its time that was the driver's turn (0 to 1). For scenarios
   * that know whose turn it is.
   */
  driverShare?(run: () => void): number
  close(): Promise<void>
}

/** What a scenario is asked to prepare. */
export interface Variant extends Subject {
  readonly lastLevelCacheBytes: number
  /** Guest base of RAM: above 2^32 unless a run asks for something else, where careless code allocates heap numbers. */
  readonly base: number
  /** Load several classes of backends first, as a program does that uses several schemes. */
  readonly crowded: boolean
  /** Nothing is timed: what counts may take time. */
  readonly counting: boolean
}

/** A kind of work, in all its variants. */
export interface Scenario {
  readonly driver: string
  readonly operation: string
  readonly modes: readonly string[]
  readonly rings: readonly Subject['ring'][]
  readonly bytes: readonly number[]
  readonly batches: readonly number[]
  /** In which modes buffers can be cold. */
  readonly cold: readonly string[]
  /** Leaves out what no machine can do, such as a batch for which a driver has too few buffers. Default: nothing. */
  possible(subject: Subject): boolean
  prepare(variant: Variant): Promise<Prepared>
}

/** A scenario as it is written down. What is left out has one value: mode `map`, a split ring, batches of 1, warm buffers. */
export type ScenarioOptions = Pick<Scenario, 'driver' | 'operation' | 'bytes' | 'prepare'> &
  Partial<Omit<Scenario, 'driver' | 'operation' | 'bytes' | 'prepare'>>

/** Checks a scenario and gives it back whole. Throws `RangeError` on an empty list. */
export function defineScenario(options: ScenarioOptions): Scenario {
  const scenario: Scenario = {
    modes: ['map'],
    rings: ['split'],
    batches: [1],
    cold: [],
    possible: () => true,
    ...options,
  }
  for (const list of ['modes', 'rings', 'bytes', 'batches'] as const) {
    if (scenario[list].length === 0)
      throw new RangeError(`scenario ${scenario.driver} ${scenario.operation}: ${list} is empty`)
  }
  return scenario
}

/** All variants of a scenario over one backend. */
export function variantsOf(scenario: Scenario, backend: string): Subject[] {
  const { driver, operation, modes, rings, bytes, batches, cold } = scenario
  const all = modes.flatMap((mode) =>
    (cold.includes(mode) ? (['warm', 'cold'] as const) : (['warm'] as const)).flatMap((buffers) =>
      rings.flatMap((ring) =>
        bytes.flatMap((size) =>
          batches.map((batch): Subject => ({ driver, operation, backend, mode, ring, bytes: size, batch, buffers })),
        ),
      ),
    ),
  )
  return all.filter((subject) => scenario.possible(subject))
}

/** What a file exports that `guestdma-bench run` measures. */
export interface ScenarioModule {
  readonly scenarios: readonly Scenario[]
  /** Every scenario is measured over each; what a name means is up to `prepare`. */
  readonly backends: readonly string[]
}
