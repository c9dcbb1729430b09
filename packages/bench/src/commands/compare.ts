import { checkOutputs, writeWhole } from '../program/outputs.ts'
import { compareReports, readReport } from '../reports/compare.ts'
import { formatComparison } from '../reports/text.ts'
import { type Command, readArguments } from './command.ts'

/** Compares two reports. */
export const compare: Command = {
  name: 'compare',
  usage: 'BEFORE.json AFTER.json [--json FILE]',
  summary: 'the ratio of each case, and whether it is outside of the noise',
  details: '  --json FILE     also write the comparison as JSON\n  --help          this text\n',
  run(args, program) {
    const { values, positionals } = readArguments(
      program,
      args,
      { json: { type: 'string' } },
      { least: 2, most: 2, what: 'two reports are needed' },
    )
    const { json } = values
    checkOutputs(
      json === undefined ? [] : [{ option: '--json', path: json }],
      positionals.map((path) => ({ option: 'compare', path })),
    )
    const [before, after] = positionals.map(readReport)
    const comparison = compareReports(before, after)
    process.stdout.write(formatComparison(comparison))
    if (json !== undefined) writeWhole(json, `${JSON.stringify(comparison, null, 2)}\n`)
    return 0
  },
}
