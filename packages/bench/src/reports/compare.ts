import { grouped } from '../contract/group.ts'
import { type BenchReport, type BenchResult, processKey, type Subject, subjectKey } from '../contract/result.ts'
import { incomparable } from './environments.ts'
import { ReportError } from './errors.ts'
import { CONFIDENCE, geometricMean, type Interval, meanRatioInterval, ratioInterval } from './statistics.ts'

/** `none seen` where the interval includes 1, `unknown` where there is no interval. */
export type Change = 'none seen' | 'faster' | 'slower' | 'unknown'

/** What one report says of a case. */
export interface Timed {
  /** ns for one operation: the geometric mean over the medians of processes. */
  readonly ns: number
  readonly processes: number
}

/** One case that both reports have. */
export interface ComparedRow extends Subject {
  readonly before: Timed
  readonly after: Timed
  /** `after` divided by `before`. */
  readonly ratio: number
  /** Over the medians of processes; `null` unless both reports have at least two. */
  readonly interval: Interval | null
  readonly change: Change
}

/** All common cases of one scheme. */
export interface ComparedScheme {
  readonly backend: string
  readonly cases: number
  /** Kinds of processes that measured them: cases of one process are not independent, and count as one. */
  readonly kinds: number
  /** Geometric mean of the ratios of cases, and of that over the kinds of processes. */
  readonly ratio: number
  /** `null` unless there are at least two kinds. */
  readonly interval: Interval | null
  readonly change: Change
}

/** Two reports, case by case. Plain data. */
export interface Comparison {
  readonly schema: 'guestdma-comparison-2'
  readonly confidence: number
  /** Where the environments differ so that times cannot be compared; empty unless that was forced. */
  readonly differences: readonly string[]
  /** False where a report was partial: cases are missing then. */
  readonly complete: boolean
  readonly schemes: readonly ComparedScheme[]
  readonly rows: readonly ComparedRow[]
  /** Cases that only one of the two reports has, as text. */
  readonly onlyBefore: readonly string[]
  readonly onlyAfter: readonly string[]
}

/**
 * Compares two reports by the names of their cases.
 *
 * Samples of one process depend on each other, and processes differ by more than samples do. So what is compared are
 * the medians of processes, of which a run with `--repeat N` has N for each case.
 *
 * @param force compare reports of different environments as well
 * @throws ReportError `REPORT_ENVIRONMENT`, `REPORT_NO_CASE`
 */
export function compareReports(before: BenchReport, after: BenchReport, force = false): Comparison {
  const differences = incomparable(before.environment, after.environment)
  if (differences.length > 0 && !force) {
    const message = `the reports are of different environments, ${differences.join('; ')}; --force compares them anyway`
    throw new ReportError('REPORT_ENVIRONMENT', 'compare', message, { differences })
  }
  const first = new Map(before.results.map((result) => [subjectKey(result), result]))
  const second = new Map(after.results.map((result) => [subjectKey(result), result]))
  const rows = [...first].flatMap(([key, a]): ComparedRow[] => {
    const b = second.get(key)
    return b === undefined ? [] : [comparedRow(a, b)]
  })
  if (rows.length === 0) {
    const counts = `the reports have no case in common: ${first.size} and ${second.size} cases, all of them different`
    throw new ReportError('REPORT_NO_CASE', 'compare', counts, { before: first.size, after: second.size })
  }
  return {
    schema: 'guestdma-comparison-2',
    confidence: CONFIDENCE,
    differences,
    complete: before.complete && after.complete,
    schemes: [...grouped(rows, ({ backend }) => backend)].map(([backend, own]) => comparedScheme(backend, own)),
    rows,
    onlyBefore: [...first.keys()].filter((key) => !second.has(key)),
    onlyAfter: [...second.keys()].filter((key) => !first.has(key)),
  }
}

function comparedRow(a: BenchResult, b: BenchResult): ComparedRow {
  const { driver, operation, backend, mode, ring, bytes, batch, buffers } = a
  // An older report has but the fastest process, which the mean of several is not to be compared with.
  const [from, to] =
    a.processMedians === undefined || b.processMedians === undefined
      ? [[a.nsPerOperation.median], [b.nsPerOperation.median]]
      : [a.processMedians, b.processMedians]
  const [before, after] = [from, to].map((medians) => ({ ns: geometricMean(medians), processes: medians.length }))
  const interval = ratioInterval(from, to)
  const times = { before, after, ratio: after.ns / before.ns, interval, change: changeOf(interval) }
  return { driver, operation, backend, mode, ring, bytes, batch, buffers, ...times }
}

function comparedScheme(backend: string, rows: readonly ComparedRow[]): ComparedScheme {
  const kinds = [...grouped(rows, processKey).values()]
  const ratios = kinds.map((own) => geometricMean(own.map(({ ratio }) => ratio)))
  const interval = meanRatioInterval(ratios)
  const ratio = geometricMean(ratios)
  return { backend, cases: rows.length, kinds: kinds.length, ratio, interval, change: changeOf(interval) }
}

function changeOf(interval: Interval | null): Change {
  if (interval === null) return 'unknown'
  if (interval.most < 1) return 'faster'
  return interval.least > 1 ? 'slower' : 'none seen'
}
