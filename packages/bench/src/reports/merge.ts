import { type BenchReport, type Shard, type Subject, subjectKey } from '../contract/result.ts'
import { printable } from '../program/table.ts'
import { notTheSame } from './environments.ts'
import { ReportError } from './errors.ts'

/** A report and the file that it came from, which messages name. */
export interface NamedReport {
  readonly path: string
  readonly report: BenchReport
}

interface Part extends NamedReport {
  readonly shard: Shard
}

/**
 * Puts the parts of a run together that `--shard` split. The date is that of the first part, and results come in the
 * order of the parts. The report is partial where a part is, or is missing.
 *
 * @param force go on where parts are missing
 * @throws ReportError `REPORT_PARTS` if the parts do not add up, `REPORT_ENVIRONMENT` if they were measured on different
 * machines, since a report has one environment
 */
export function mergeReports(reports: readonly NamedReport[], force = false): BenchReport {
  const parts = reports.map(partOf).sort((a, b) => a.shard.index - b.shard.index)
  if (parts.length === 0) throw new ReportError('REPORT_PARTS', 'merge', 'no report was named; name one for each part')
  for (const [i, part] of parts.entries()) checkPart(part, parts[0], parts[i - 1])
  const { of, total } = parts[0].shard
  const missing = Array.from({ length: of }, (_, i) => i + 1).filter((index) =>
    parts.every(({ shard }) => shard.index !== index),
  )
  if (missing.length > 0 && !force) {
    const message = `of ${of} parts these are missing: ${missing.join(', ')}; --force merges the others`
    throw new ReportError('REPORT_PARTS', 'merge', message, { missing, of })
  }
  const complete = missing.length === 0 && parts.every(({ report }) => report.complete)
  const cases = countCases(parts)
  if (cases > total || (complete && cases < total)) {
    const message = `the parts have ${cases} cases, and the run that they name had ${total}; measure the parts anew`
    throw new ReportError('REPORT_PARTS', 'merge', message, { cases, total })
  }
  const all = parts.map(({ report }) => report)
  const exposure = all.flatMap((report) => report.exposure ?? [])
  const threads = all.flatMap((report) => report.threads ?? [])
  const scale = all.flatMap((report) => report.scale ?? [])
  return {
    schema: all[0].schema,
    complete,
    environment: all[0].environment,
    results: all.flatMap(({ results }) => results),
    failures: all.flatMap(({ failures }) => failures),
    ...(exposure.length > 0 ? { exposure } : {}),
    ...(threads.length > 0 ? { threads } : {}),
    ...(scale.length > 0 ? { scale } : {}),
  }
}

function partOf({ path, report }: NamedReport): Part {
  const { shard } = report
  if (shard === undefined)
    throw new ReportError('REPORT_PARTS', path, 'this is no part of a run; run --shard makes one', { path })
  if (shard.index > shard.of) {
    const message = `this says that it is part ${shard.index} of ${shard.of}; a number up to ${shard.of} is needed`
    throw new ReportError('REPORT_PARTS', path, message, { path, ...shard })
  }
  return { path, report, shard }
}

function checkPart({ path, report, shard }: Part, first: Part, before: Part | undefined): void {
  const { of, total } = first.shard
  if (shard.of !== of || shard.total !== total) {
    const own = `this is one of ${shard.of} parts of ${shard.total} cases`
    const message = `${own}, and ${first.path} is one of ${of} parts of ${total}; name parts of one run`
    throw new ReportError('REPORT_PARTS', path, message, { path, ...shard, first: first.path })
  }
  if (before?.shard.index === shard.index) {
    const message = `this is part ${shard.index}, and ${before.path} is as well; name each part once`
    throw new ReportError('REPORT_PARTS', path, message, { path, index: shard.index, other: before.path })
  }
  const differences = notTheSame(first.report.environment, report.environment)
  if (differences.length > 0) {
    const message = `this was measured in another environment than ${first.path}, ${differences.join('; ')}`
    throw new ReportError('REPORT_ENVIRONMENT', path, message, { path, first: first.path, differences })
  }
}

// A case that failed in one process may have a result of another one: it counts once.
function countCases(parts: readonly Part[]): number {
  const owner = new Map<string, string>()
  for (const { path, report } of parts) {
    const subjects: readonly Subject[] = [...report.results, ...report.failures.map(({ subject }) => subject)]
    for (const key of new Set(subjects.map(subjectKey))) {
      const other = owner.get(key)
      if (other !== undefined) {
        const message = `the case '${printable(key)}' is here and in ${other}; name parts of one run`
        throw new ReportError('REPORT_PARTS', path, message, { path, other, case: key })
      }
      owner.set(key, path)
    }
  }
  return owner.size
}
