import { readCommandLine } from '../program/command-line.ts'
import { UsageError } from '../program/errors.ts'
import { checkOutputs, writeWhole } from '../program/outputs.ts'
import { textColumns, wrap } from '../program/table.ts'
import { compareReports } from '../reports/compare.ts'
import { readReport } from '../reports/read.ts'
import { formatComparison } from '../reports/text.ts'

const HELP = `Compares two reports: the ratio of times for each scheme
and each case, with 95 % confidence intervals.

usage: guestdma-bench compare BEFORE.json AFTER.json
                      [--force] [--json FILE]

  --force      compare reports of different machines as
               well, or of different versions of Node
  --json FILE  also write the comparison as JSON
  --help       this text

An interval of a case needs reports that were measured
with --repeat 2 at least; 5 or more make it narrow.

Exit code 0 if the reports were compared, 2 if they
cannot be.
`

/** The command `compare`. Gives back the exit code. */
export function compareCommand(args: readonly string[]): number {
  const { values, positionals: files } = readCommandLine('guestdma-bench compare', 'BENCH_USAGE', {
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
  if (files.length !== 2) {
    const message = `${files.length} files were named, and two reports are needed; see guestdma-bench compare --help`
    throw new UsageError('BENCH_USAGE', 'guestdma-bench compare', message, { files })
  }
  const outputs = values.json === undefined ? [] : [{ option: '--json', path: values.json }]
  checkOutputs(
    outputs,
    files.map((path) => ({ option: 'compare', path })),
  )
  const [before, after] = files.map(readReport)
  const comparison = compareReports(before, after, values.force)
  for (const difference of comparison.differences)
    process.stderr.write(wrap(`WARNING: the environments differ, ${difference}`, textColumns(process.stderr)))
  process.stdout.write(formatComparison(comparison))
  for (const { path } of outputs) writeWhole(path, `${JSON.stringify(comparison, null, 2)}\n`)
  return 0
}
