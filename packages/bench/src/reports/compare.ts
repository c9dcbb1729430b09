import { readFileSync } from 'node:fs'
import { type BenchReport, type BenchResult, REPORT_SCHEMA, type Subject, subjectKey } from '../harness/result.ts'
import { UsageError } from '../program/errors.ts'

/** One case that both reports have. Times are ns for one operation. */
export interface ComparedRow extends Subject {
  readonly before: BenchResult['nsPerOperation']
  readonly after: BenchResult['nsPerOperation']
  /** `after` divided by `before`: of the medians, and the least and the most that the 5th and 95th percentiles allow. */
  readonly ratio: { readonly median: number; readonly least: number; readonly most: number }
  /** `noise` where the ranges from 5th to 95th percentile overlap, so that the difference says nothing. */
  readonly change: 'noise' | 'faster' | 'slower'
}

/** Two reports, case by case. Plain data. */
export interface Comparison {
  readonly schema: 'guestdma-comparison-1'
  readonly rows: readonly ComparedRow[]
  /** Cases that only one of the two reports has, as text. */
  readonly onlyBefore: readonly string[]
  readonly onlyAfter: readonly string[]
}

/** Compares two reports by the names of their cases. */
export function compareReports(before: BenchReport, after: BenchReport): Comparison {
  const first = new Map(before.results.map((result) => [subjectKey(result), result]))
  const second = new Map(after.results.map((result) => [subjectKey(result), result]))
  const rows = [...first].flatMap(([key, a]): ComparedRow[] => {
    const b = second.get(key)
    if (b === undefined) return []
    const { driver, operation, backend, mode, ring, bytes, batch, buffers } = a
    const [from, to] = [a.nsPerOperation, b.nsPerOperation]
    const ratio = { median: to.median / from.median, least: to.p05 / from.p95, most: to.p95 / from.p05 }
    const change = ratio.most < 1 ? 'faster' : ratio.least > 1 ? 'slower' : 'noise'
    return [{ driver, operation, backend, mode, ring, bytes, batch, buffers, before: from, after: to, ratio, change }]
  })
  return {
    schema: 'guestdma-comparison-1',
    rows,
    onlyBefore: [...first.keys()].filter((key) => !second.has(key)),
    onlyAfter: [...second.keys()].filter((key) => !first.has(key)),
  }
}

/**
 * Reads a report that `--json` wrote.
 *
 * @throws UsageError `BENCH_FILE` if it cannot be read, `BENCH_NOT_A_REPORT` if it is something else
 */
export function readReport(path: string): BenchReport {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const message = code === 'ENOENT' ? 'there is no such file' : `the file cannot be read (${code})`
    throw new UsageError('BENCH_FILE', path, message, { path })
  }
  let found: unknown
  try {
    found = JSON.parse(text)
  } catch {
    found = undefined
  }
  const { schema } = Object(found) as { schema?: unknown }
  if (schema !== REPORT_SCHEMA) {
    const message = `the schema is ${JSON.stringify(schema)}, and '${REPORT_SCHEMA}' is needed, which --json writes`
    throw new UsageError('BENCH_NOT_A_REPORT', path, message, { path, schema })
  }
  return found as BenchReport
}
