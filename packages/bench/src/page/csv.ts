import type { BenchReport } from '../contract/result.ts'

const SUBJECT = ['driver', 'operation', 'backend', 'mode', 'ring', 'bytes', 'batch', 'buffers'] as const
const TIMES = ['nsMedian', 'nsP05', 'nsP95', 'samples', 'bytesAllocatedPerOperation'] as const

/**
 * The results of a report as comma-separated values by RFC 4180: a header, one line for each result, and a column for
 * each counter that some result has. A counter that a result has not is empty. Times are ns, all else is for one
 * operation.
 */
export function renderCsv({ results }: BenchReport): string {
  const counters = [...new Set(results.flatMap((result) => Object.keys(result.counters)))].sort()
  const lines = results.map((result) => [
    ...SUBJECT.map((name) => result[name]),
    result.nsPerOperation.median,
    result.nsPerOperation.p05,
    result.nsPerOperation.p95,
    result.samples,
    result.bytesAllocatedPerOperation,
    ...counters.map((name) => (Object.hasOwn(result.counters, name) ? result.counters[name] : '')),
  ])
  const header = [...SUBJECT, ...TIMES, ...counters.map((name) => `counter:${name}`)]
  return [header, ...lines].map((line) => `${line.map(field).join(',')}\r\n`).join('')
}

function field(value: string | number): string {
  const text = String(value)
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
