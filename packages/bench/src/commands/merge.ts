import { readCommandLine } from '../program/command-line.ts'
import { UsageError } from '../program/errors.ts'
import { checkOutputs, writeWhole } from '../program/outputs.ts'
import { mergeReports } from '../reports/merge.ts'
import { readReport } from '../reports/read.ts'
import { formatResults } from '../reports/text.ts'

const HELP = `Puts the parts of a run together that --shard split.

usage: guestdma-bench merge PART.json… [--force]
                      [--json FILE]

  --force      go on where parts are missing
  --json FILE  write the whole report as JSON
  --help       this text

The parts have to be of one run and of one machine.

Exit code 0 if the report is complete, 1 if it is
partial, 2 if the parts do not add up.
`

/** The command `merge`. Gives back the exit code. */
export function mergeCommand(args: readonly string[]): number {
  const { values, positionals: files } = readCommandLine('guestdma-bench merge', 'BENCH_USAGE', {
    args: [...args],
    allowPositionals: true,
    options: {
      force: { type: 'boolean' },
      json: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  if (files.length === 0) {
    const message = 'no file was named, and a report for each part is needed; see guestdma-bench merge --help'
    throw new UsageError('BENCH_USAGE', 'guestdma-bench merge', message)
  }
  const outputs = values.json === undefined ? [] : [{ option: '--json', path: values.json }]
  checkOutputs(
    outputs,
    files.map((path) => ({ option: 'merge', path })),
  )
  const report = mergeReports(
    files.map((path) => ({ path, report: readReport(path) })),
    values.force,
  )
  process.stdout.write(formatResults(report))
  for (const { path } of outputs) writeWhole(path, `${JSON.stringify(report, null, 2)}\n`)
  return report.complete ? 0 : 1
}
