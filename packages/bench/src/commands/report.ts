import { writeJson } from '../program/outputs.ts'
import { readReport } from '../reports/read.ts'
import { formatResults, ratioColumns } from '../reports/text.ts'
import { type Command, readArguments } from './command.ts'
import { checkReportOutputs, OUTPUT_OPTIONS, writeViews } from './outputs.ts'

const DETAILS = `  --html FILE     one page with all figures and pictures, and sliders
                  for the prices of the model
  --svg DIR       the pictures, a file each
  --csv FILE      a line for each case
  --json FILE     the report again
  --help          this text
`

/** Shows a report that was measured before. */
export const report: Command = {
  name: 'report',
  usage: 'REPORT.json [OPTIONS]',
  summary: 'show a report that was measured before: as text, page,\npictures or table',
  details: DETAILS,
  async run(args, program) {
    const { values, positionals } = readArguments(program, args, OUTPUT_OPTIONS, {
      least: 1,
      most: 1,
      what: 'one report is needed, which --json of a measurement wrote',
    })
    const [path] = positionals
    checkReportOutputs(values, [{ option: program, path }])
    const found = readReport(path)
    process.stdout.write(formatResults(found, ratioColumns('direct')))
    writeJson(values.json, found)
    await writeViews(values, found)
    return 0
  },
}
