import { checkOutputs, writeJson } from '../program/outputs.ts'
import { mergeReports } from '../reports/merge.ts'
import { readReport } from '../reports/read.ts'
import { formatResults } from '../reports/text.ts'
import { type Command, readArguments } from './command.ts'

const DETAILS = `  --force         go on where parts are missing
  --json FILE     write the whole report as JSON
  --help          this text

The parts have to be of one run and of one machine.
`

/** Puts the parts of a run together. */
export const merge: Command = {
  name: 'merge',
  usage: 'PART.json… [--force] [--json FILE]',
  summary: 'put the parts of a run together that --shard split',
  details: DETAILS,
  run(args, program) {
    const { values, positionals: files } = readArguments(
      program,
      args,
      { force: { type: 'boolean' }, json: { type: 'string' } },
      { least: 1, most: Infinity, what: 'a report for each part is needed' },
    )
    const { force, json } = values
    checkOutputs(
      [{ option: '--json', path: json }],
      files.map((path) => ({ option: 'merge', path })),
    )
    const report = mergeReports(
      files.map((path) => ({ path, report: readReport(path) })),
      force,
    )
    process.stdout.write(formatResults(report))
    writeJson(json, report)
    return report.complete ? 0 : 1
  },
}
