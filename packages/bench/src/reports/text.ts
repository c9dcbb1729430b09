import type { BenchReport, BenchResult, Subject } from '../harness/result.ts'
import { type Column, formatTable, type TextStream, textColumns, wrap } from '../program/table.ts'
import type { Comparison } from './compare.ts'

/** Columns beside the times. */
export interface ExtraColumns {
  readonly columns: readonly Column[]
  /** The cells for a result, among all of its kind of work. */
  cells(result: BenchResult, all: readonly BenchResult[]): (string | number)[]
}

/** The ratio to one backend, and what was copied and cleared. */
export function ratioColumns(against: string): ExtraColumns {
  return {
    columns: [{ title: `× ${against}`, decimals: 2 }, { title: 'copied B' }, { title: 'cleared B' }],
    cells: ({ nsPerOperation, counters }, all) => {
      const base = all.find(({ backend }) => backend === against)
      return [
        base === undefined ? '' : nsPerOperation.median / base.nsPerOperation.median,
        (counters.bytesCopiedToDevice ?? 0) + (counters.bytesCopiedFromDevice ?? 0),
        counters.bytesCleared ?? 0,
      ]
    },
  }
}

/**
 * A report as text: one table for each kind of work, over all backends, and what failed.
 */
export function formatResults(
  { complete, environment, results, failures }: BenchReport,
  extra: ExtraColumns = { columns: [], cells: () => [] },
  stream: TextStream = process.stdout,
): string {
  const { node, v8, cpu, cores, platform } = environment
  const columns = textColumns(stream)
  const head = `Node ${node} (V8 ${v8}), ${cpu}, ${cores} cores, ${platform}. ns per operation: median, 5th and 95th percentile.`
  const titles = [
    { title: 'backend' },
    { title: 'ns', decimals: 1 },
    { title: 'p05', decimals: 1 },
    { title: 'p95', decimals: 1 },
    ...extra.columns,
    { title: 'heap B', decimals: 2 },
  ]
  const tables = [...grouped(results)].map(([work, group]) => {
    const rows = group.map((result) => {
      const { backend, nsPerOperation, bytesAllocatedPerOperation } = result
      const { median, p05, p95 } = nsPerOperation
      return [backend, median, p05, p95, ...extra.cells(result, group), bytesAllocatedPerOperation]
    })
    return `\n${wrap(work, columns)}${formatTable(titles, rows, stream)}`
  })
  const failed = failures.map(({ subject, message }) =>
    wrap(`FAILED: ${workOf(subject)}, ${subject.backend}: ${message}`, columns, '', '  '),
  )
  const missing = complete ? '' : `\n${wrap('This report is PARTIAL: cases are missing.', columns)}`
  return [wrap(head, columns), ...tables, missing, ...failed].join('')
}

/** Names the kind of work of a subject: everything but its backend. */
export function workOf({ driver, operation, mode, ring, buffers, bytes, batch }: Subject): string {
  return `${driver} ${operation}, ${mode}, ${ring}, ${buffers}, ${bytes} bytes, batch ${batch}`
}

/** A comparison as text. */
export function formatComparison(
  { rows, onlyBefore, onlyAfter }: Comparison,
  stream: TextStream = process.stdout,
): string {
  const columns = textColumns(stream)
  const titles = [
    { title: 'backend' },
    { title: 'before', decimals: 1 },
    { title: 'after', decimals: 1 },
    { title: 'ratio', decimals: 2 },
    { title: 'least', decimals: 2 },
    { title: 'most', decimals: 2 },
    { title: 'change' },
  ]
  const tables = [...grouped(rows)].map(([work, group]) => {
    const cells = group.map(({ backend, before, after, ratio, change }) => [
      backend,
      before.median,
      after.median,
      ratio.median,
      ratio.least,
      ratio.most,
      change === 'noise' ? '' : change,
    ])
    return `${wrap(work, columns)}${formatTable(titles, cells, stream)}\n`
  })
  const legend =
    'ns per operation; ratio is after / before. A change is named where the ranges from 5th to 95th percentile do not overlap.'
  const only = [
    ...onlyBefore.map((key) => wrap(`only before: ${key}`, columns)),
    ...onlyAfter.map((key) => wrap(`only after: ${key}`, columns)),
  ]
  return [...tables, wrap(legend, columns), ...only].join('')
}

function grouped<T extends Subject>(subjects: readonly T[]): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const subject of subjects) groups.set(workOf(subject), [...(groups.get(workOf(subject)) ?? []), subject])
  return groups
}
