import { grouped } from '../contract/group.ts'
import {
  type BenchFailure,
  type BenchReport,
  type BenchResult,
  processKey,
  REPORT_SCHEMA,
  type Shard,
  type Subject,
  subjectKey,
} from '../contract/result.ts'
import { readEnvironment } from './environment.ts'
import type { Effort } from './measure.ts'
import { askInTurn, type WorkerOptions } from './processes.ts'
import type { Answer, Job } from './worker.ts'

export interface RunOptions extends WorkerOptions {
  readonly subjects: readonly Subject[]
  readonly effort: Effort
  /** Guest base of RAM. Default 2^32. */
  readonly base?: number
  /** See `Variant.crowded`. Default false. */
  readonly crowded?: boolean
  /** Processes for each group; the one with the lowest median counts, since a machine is only ever slowed down. Default 1. */
  readonly repeat?: number
  /** Which part of a run this is; it is noted in the report. */
  readonly shard?: Shard
  /** Called with what is known so far after each case that was measured or failed. */
  onReport?(report: BenchReport): void
  /** Called whenever a case was counted, was measured or failed, with how much is done: from 0 to 1. */
  onProgress?(latest: Subject, fraction: number): void
}

const DEFAULT_BASE = 0x1_0000_0000
// What it takes to count a case, beside what it takes to time it once.
const COUNTING = 0.2

/**
 * Measures all subjects: one process for each backend, operation, mode and ring, since what the compiler learned from
 * one scheme costs the next one; processes in shuffled order, so that a slow minute of the machine hits no scheme in
 * particular. What is counted is counted before, in processes of its own. A process that ends early is a failure of the
 * case that it was at; a new one goes on with the next.
 *
 * @throws Error if no process can be started
 */
export async function runBench(options: RunOptions): Promise<BenchReport> {
  const { subjects, effort, base = DEFAULT_BASE, crowded = false, repeat = 1, shard, signal } = options
  const environment = readEnvironment()
  const rank = new Map(subjects.map((subject, i) => [subjectKey(subject), i]))
  const counted = new Map<string, BenchResult['counters']>()
  const best = new Map<string, BenchResult>()
  const failures: BenchFailure[] = []
  const report = (complete: boolean): BenchReport => {
    const results = [...best.values()].sort((a, b) => (rank.get(subjectKey(a)) ?? 0) - (rank.get(subjectKey(b)) ?? 0))
    const part = shard === undefined ? {} : { shard }
    return { schema: REPORT_SCHEMA, complete, environment, ...part, results, failures: [...failures] }
  }
  let done = 0
  const tell = (latest: Subject, cases: number): void => {
    done += cases
    options.onProgress?.(latest, done / (subjects.length * (repeat + COUNTING)))
  }
  const run = (
    what: 'times' | 'counters',
    group: readonly Subject[],
    take: (answer: Answer, subject: Subject) => void,
    lost: number,
  ): Promise<void> =>
    askInTurn(
      options,
      group,
      (pending): Job => {
        const { lastLevelCacheBytes } = environment
        return { what, subjects: pending, effort, lastLevelCacheBytes, base, crowded }
      },
      (subject, answer) => take(answer, subject),
      (subject, message) => {
        failures.push({ subject, message })
        tell(subject, lost)
        options.onReport?.(report(false))
      },
    )
  const counting = grouped(subjects, ({ driver, operation, backend }) => `${driver} ${operation} ${backend}`)
  for (const group of counting.values())
    await run(
      'counters',
      group,
      (answer, subject) => {
        if ('counters' in answer) counted.set(subjectKey(subject), answer.counters)
        tell(subject, COUNTING)
      },
      COUNTING + repeat,
    )
  const timed = subjects.filter((subject) => counted.has(subjectKey(subject)))
  const groups = [...grouped(timed, processKey).values()]
  for (const group of shuffled(Array.from({ length: repeat }, () => groups).flat()))
    await run(
      'times',
      group,
      (answer, subject) => {
        if (!('times' in answer)) return
        const key = subjectKey(subject)
        const before = best.get(key)
        const { median } = answer.times.nsPerOperation
        const fastest =
          before === undefined || median < before.nsPerOperation.median
            ? { ...answer.times, counters: counted.get(key) ?? {} }
            : before
        best.set(key, { ...fastest, processMedians: [...(before?.processMedians ?? []), median] })
        tell(subject, 1)
        options.onReport?.(report(false))
      },
      1,
    )
  return report(signal?.aborted !== true && failures.length === 0)
}

function shuffled<T>(list: readonly T[]): T[] {
  const copy = [...list]
  for (let i = copy.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1))
    ;[copy[i], copy[j]] = [copy[j], copy[i]]
  }
  return copy
}
