import { grouped } from '../contract/group.ts'
import type { BenchReport, BenchResult, ExposureResult, Subject } from '../contract/result.ts'
import { exposed } from '../exposure/classes.ts'
import { type Cell, type Column, formatTable, printable, type TextStream, textColumns, wrap } from '../program/table.ts'
import type { ComparedRow, ComparedScheme, Comparison } from './compare.ts'
import type { GateResult } from './gate.ts'

/** How many cases are named that only one of two reports has. */
const LISTED = 5

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
  const tables = [...grouped(results, workOf)].map(([work, group]) => {
    const rows = group.map((result) => {
      const { backend, nsPerOperation, bytesAllocatedPerOperation } = result
      const { median, p05, p95 } = nsPerOperation
      return [backend, median, p05, p95, ...extra.cells(result, group), bytesAllocatedPerOperation]
    })
    return `\n${wrap(printable(work), columns)}${formatTable(titles, rows, stream)}`
  })
  const failed = failures.map(({ subject, message }) =>
    wrap(printableLines(`FAILED: ${workOf(subject)}, ${subject.backend}: ${message}`), columns, '', '  '),
  )
  const missing = complete ? '' : `\n${wrap('This report is PARTIAL: cases are missing.', columns)}`
  return [wrap(printable(head), columns), ...tables, missing, ...failed].join('')
}

/** What was reached by attacks, as text: a table for each kind of work. Nothing where there are no results. */
export function formatExposure(results: readonly ExposureResult[], stream: TextStream = process.stdout): string {
  if (results.length === 0) return ''
  const columns = textColumns(stream)
  const titles = [
    { title: 'backend' },
    { title: 'mode' },
    { title: 'readable B' },
    { title: 'writable B' },
    { title: 'before attach B' },
  ]
  const works = grouped(
    results,
    ({ driver, operation, ring, bytes }) => `${driver} ${operation}, ${ring}, ${bytes} bytes`,
  )
  const tables = [...works].map(([work, group]) => {
    const rows = group.map((result) => {
      const { readable, writable } = exposed(result)
      return [result.backend, result.mode, Math.round(readable), Math.round(writable), result.beforeAttach.readable]
    })
    return `\n${wrap(`attacked: ${work}`, columns)}${formatTable(titles, rows, stream)}`
  })
  const [{ setting }] = results
  const legend = `Bytes that a hostile device reached without being lent them, on average over time, with ${setting.ramBytes >> 20} MiB of guest RAM. Rings, and what the device had already, are not counted; --json has all classes.`
  return `${tables.join('')}\n${wrap(legend, columns)}`
}

/** Names the kind of work of a subject: everything but its backend. */
export function workOf({ driver, operation, mode, ring, buffers, bytes, batch }: Subject): string {
  return `${driver} ${operation}, ${mode}, ${ring}, ${buffers}, ${bytes} bytes, batch ${batch}`
}

/** A comparison as text: a table for each kind of work, one of schemes, and how to read them. */
export function formatComparison(comparison: Comparison, stream: TextStream = process.stdout): string {
  const { confidence, differences, complete, schemes, rows, onlyBefore, onlyAfter } = comparison
  const columns = textColumns(stream)
  const percent = Math.round(confidence * 100)
  const measured = [
    { title: 'ratio', decimals: 3 },
    { title: 'least', decimals: 3 },
    { title: 'most', decimals: 3 },
    { title: 'change' },
  ]
  const cellsOf = ({ ratio, interval, change }: ComparedScheme | ComparedRow): Cell[] => [
    ratio,
    interval?.least ?? '',
    interval?.most ?? '',
    change,
  ]
  const tables = [...grouped(rows, workOf)].map(([work, group]) => {
    const titles = [
      { title: 'backend' },
      { title: 'before', decimals: 1 },
      { title: 'after', decimals: 1 },
      { title: 'processes' },
      ...measured,
    ]
    const cells = group.map((row) => {
      const { backend, before, after } = row
      return [backend, before.ns, after.ns, `${before.processes} / ${after.processes}`, ...cellsOf(row)]
    })
    return `${wrap(printable(work), columns)}${formatTable(titles, cells, stream)}\n`
  })
  const titles = [{ title: 'backend' }, { title: 'cases' }, { title: 'kinds' }, ...measured]
  const summary = formatTable(
    titles,
    schemes.map((scheme) => [scheme.backend, scheme.cases, scheme.kinds, ...cellsOf(scheme)]),
    stream,
  )
  const certain = rows.filter(({ interval }) => interval !== null).length
  const notes = [
    ...differences.map((difference) => `The environments DIFFER, ${difference}.`),
    ...(complete ? [] : ['A report is PARTIAL: cases are missing.']),
    `Times are ns for an operation: the geometric mean of the medians of processes. A ratio is after / before, and lies between least and most with ${percent} % confidence. "none seen" means that no difference can be seen: the interval includes 1.`,
    'A scheme has the geometric mean of its ratios. Cases that one process measures are not independent: its interval is over the kinds of processes (operation, mode and ring).',
    certain === 0
      ? 'No case has an interval: a report has one process for each. Measure both with --repeat 5. The intervals of schemes are the only ones until then.'
      : `${certain} of ${rows.length} cases have intervals. About one in ${Math.round(1 / (1 - confidence))} of these names a change by chance.`,
    'A machine that was slower all through one run looks like a change of every scheme.',
  ]
  const only = [...listed('only before', onlyBefore), ...listed('only after', onlyAfter)]
  return [
    ...tables,
    `All cases of a scheme\n${summary}\n`,
    ...notes.map((note) => wrap(note, columns)),
    ...only.map((text) => wrap(printable(text), columns)),
  ].join('')
}

/** What became of a gate as text: a table of what failed for each kind of work, and how many checks there were. */
export function formatGate({ passed, checks }: GateResult, stream: TextStream = process.stdout): string {
  const columns = textColumns(stream)
  const failed = checks.filter((check) => !check.passed)
  const titles = [
    { title: 'backend' },
    { title: 'what' },
    { title: 'found', decimals: 3 },
    { title: 'at most', decimals: 3 },
  ]
  const tables = [...grouped(failed, workOf)].map(([work, group]) => {
    const cells = group.map(({ backend, what, against, found, atMost }) => [
      backend,
      what === 'ratio' ? `time / ${against}` : what,
      found ?? 'missing',
      atMost,
    ])
    return `${wrap(printable(work), columns)}${formatTable(titles, cells, stream)}\n`
  })
  const told = passed ? `All ${checks.length} checks passed.` : `${failed.length} of ${checks.length} checks FAILED.`
  return [...tables, wrap(told, columns)].join('')
}

// The file that --json writes has all of them.
function listed(title: string, keys: readonly string[]): string[] {
  const more = keys.length - LISTED
  return [...keys.slice(0, LISTED).map((key) => `${title}: ${key}`), ...(more > 0 ? [`${title}: ${more} more`] : [])]
}

// What a process printed to its standard error has lines.
function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n')
}
