import { checkOutputs, writeJson } from '../program/outputs.ts'
import { textColumns, wrap } from '../program/table.ts'
import { compareReports } from '../reports/compare.ts'
import { readReport } from '../reports/read.ts'
import { formatComparison } from '../reports/text.ts'
import { type Command, readArguments } from './command.ts'

const DETAILS = `  --force         compare reports of different machines as
                  well, or of different versions of Node
  --json FILE     also write the comparison as JSON
  --help          this text

An interval of a case needs reports that were measured with
--repeat 2 at least; 5 or more make it narrow.
`

/** Compares two reports. */
export const compare: Command = {
  name: 'compare',
  usage: 'BEFORE.json AFTER.json [--force] [--json FILE]',
  summary: 'the ratio of times for each scheme and case, with 95 %\nconfidence intervals',
  details: DETAILS,
  run(args, program) {
    const { values, positionals: files } = readArguments(
      program,
      args,
      { force: { type: 'boolean' }, json: { type: 'string' } },
      { least: 2, most: 2, what: 'two reports are needed' },
    )
    const { force, json } = values
    checkOutputs(
      [{ option: '--json', path: json }],
      files.map((path) => ({ option: 'compare', path })),
    )
    const [before, after] = files.map(readReport)
    const comparison = compareReports(before, after, force)
    for (const difference of comparison.differences)
      process.stderr.write(wrap(`WARNING: the environments differ, ${difference}`, textColumns(process.stderr)))
    process.stdout.write(formatComparison(comparison))
    writeJson(json, comparison)
    return 0
  },
}
