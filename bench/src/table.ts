import type { BenchReport, BenchResult } from '@guestdma/bench'

const TITLES = [
  'driver',
  'operation',
  'mode',
  'buffers',
  'bytes',
  'batch',
  'backend',
  'ns',
  'p05',
  'p95',
  '× direct',
  'heap B',
  'copied B',
  'cleared B',
]
const LEFT = new Set(['driver', 'operation', 'mode', 'buffers', 'backend'])

/** The report as a table: each group of lines is one kind of work, over all schemes, with direct as the measure. */
export function formatReport({ environment, results }: BenchReport): string {
  const { node, v8, cpu, cores, platform } = environment
  const rows = [...results]
    .sort((a, b) => work(a).localeCompare(work(b), 'en', { numeric: true }))
    .map((result) => row(result, results))
  const widths = TITLES.map((title, i) => Math.max(title.length, ...rows.map((cells) => cells[i].length)))
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => (LEFT.has(TITLES[i]) ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
      .join('  ')
      .trimEnd()
  const head = `Node ${node} (V8 ${v8}), ${cpu}, ${cores} cores, ${platform}. ns per operation: median, 5th and 95th percentile.`
  return `${head}\n\n${[TITLES, ...rows].map(line).join('\n')}\n`
}

function row(result: BenchResult, all: readonly BenchResult[]): string[] {
  const {
    driver,
    operation,
    mode,
    buffers,
    bytes,
    batch,
    backend,
    nsPerOperation,
    bytesAllocatedPerOperation,
    counters,
  } = result
  const direct = all.find((other) => other.backend === 'direct' && work(other) === work(result))
  const ratio = direct === undefined ? '' : (nsPerOperation.median / direct.nsPerOperation.median).toFixed(2)
  const copied = (counters.bytesCopiedToDevice ?? 0) + (counters.bytesCopiedFromDevice ?? 0)
  return [
    driver,
    operation,
    mode,
    buffers,
    String(bytes),
    String(batch),
    backend,
    nsPerOperation.median.toFixed(1),
    nsPerOperation.p05.toFixed(1),
    nsPerOperation.p95.toFixed(1),
    ratio,
    bytesAllocatedPerOperation.toFixed(2),
    copied.toFixed(0),
    (counters.bytesCleared ?? 0).toFixed(0),
  ]
}

function work({ driver, operation, mode, buffers, bytes, batch }: BenchResult): string {
  return [driver === 'net' ? 0 : 1, operation, mode, buffers, bytes, batch].join(' ')
}
