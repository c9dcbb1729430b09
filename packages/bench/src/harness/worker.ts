import { endWithParent, turn } from '../program/stop.ts'
import { count } from './count.ts'
import { type Effort, measure } from './measure.ts'
import type { BenchResult, Subject } from './result.ts'
import type { Scenario } from './scenario.ts'

/** What the runner asks of one process: variants over one backend. */
export interface Job {
  /** Times, or exact counters: what counts would be in the times. */
  readonly what: 'times' | 'counters'
  readonly subjects: readonly Subject[]
  readonly effort: Effort
  readonly lastLevelCacheBytes: number
  readonly base: number
  readonly crowded: boolean
}

/** What a process answers, line by line. */
export type Answer =
  | { readonly times: Omit<BenchResult, 'counters'> }
  | { readonly counters: BenchResult['counters']; readonly subject: Subject }

/**
 * The body of a worker program: takes the job from the command line, runs it, prints an answer per variant as a line of
 * JSON. Ends when the runner does.
 */
export async function runWorker(scenarios: readonly Scenario[]): Promise<void> {
  const job = JSON.parse(process.argv[2] ?? 'null') as Job | null
  if (job === null) throw new Error('a worker is started by the runner, with its job as argument')
  endWithParent()
  for (const subject of job.subjects) {
    await turn()
    const scenario = scenarios.find(
      ({ driver, operation }) => driver === subject.driver && operation === subject.operation,
    )
    if (scenario === undefined) throw new Error(`no scenario ${subject.driver} ${subject.operation}`)
    const { lastLevelCacheBytes, base, crowded } = job
    const counting = job.what === 'counters'
    const prepared = await scenario.prepare({ ...subject, lastLevelCacheBytes, base, crowded, counting })
    try {
      const answer: Answer =
        job.what === 'times'
          ? { times: await measure(subject, prepared, job.effort) }
          : { counters: count(prepared), subject }
      process.stdout.write(`${JSON.stringify(answer)}\n`)
    } finally {
      await prepared.close()
    }
  }
}
