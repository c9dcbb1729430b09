import { parseSetting } from '../model/parameters.ts'
import { readParameterFile } from '../model/reading.ts'
import { checkOutputs, writeWhole } from '../program/outputs.ts'
import { readReport } from '../reports/read.ts'
import { costReport } from './report.ts'
import { formatCosts } from './text.ts'

/** What a program that models costs is asked on its command line. */
export interface CostOptions {
  /** A file that `--json` of a measurement wrote. */
  readonly from: string
  /** Default: `pcie-wc`. */
  readonly profile?: string
  /** A file of parameters, over those of the profile. */
  readonly params?: string
  /** `name=value`, over those of the file. */
  readonly set?: readonly string[]
  readonly json?: string
}

/**
 * Reads a report of measurements, prints what the cost model says of it, and writes that as JSON where asked.
 *
 * @throws UsageError those of an output that cannot be written
 * @throws ReportError `REPORT_FILE`, `REPORT_SCHEMA`, `REPORT_FIELD`
 * @throws ModelError those of the model
 */
export function runCosts({ from, profile = 'pcie-wc', params, set = [], json }: CostOptions): void {
  const outputs = json === undefined ? [] : [{ option: '--json', path: json }]
  const read = params === undefined ? [] : [{ option: '--params', path: params }]
  checkOutputs(outputs, [{ option: '--from', path: from }, ...read])
  const overrides = {
    ...(params === undefined ? {} : readParameterFile(params)),
    ...Object.fromEntries(set.map(parseSetting)),
  }
  const report = costReport(readReport(from), profile, overrides)
  process.stdout.write(formatCosts(report))
  if (json !== undefined) writeWhole(json, `${JSON.stringify(report, null, 2)}\n`)
}
