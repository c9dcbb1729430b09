import { costReport } from '../costs/report.ts'
import { formatCosts } from '../costs/text.ts'
import { PROFILE_NAMES, parseSetting } from '../model/parameters.ts'
import { readParameterFile } from '../model/reading.ts'
import { checkOutputs, writeJson } from '../program/outputs.ts'
import { readReport } from '../reports/read.ts'
import { type Command, readArguments } from './command.ts'

const DETAILS = `  --profile P     where the memory of a device lies:
                  ${PROFILE_NAMES.join(', ')}
                  (default: pcie-wc)
  --params FILE   a JSON object of parameters by name
  --set NAME=VALUE
                  one parameter; may be given several times
  --json FILE     also write what was modelled as JSON
  --help          this text
`

/** Applies the cost model to a report. */
export const model: Command = {
  name: 'model',
  usage: 'REPORT.json [OPTIONS]',
  summary: 'measure nothing: what the counters of a report would cost\non a real machine, by cause',
  details: DETAILS,
  run(args, program) {
    const { values, positionals } = readArguments(
      program,
      args,
      {
        profile: { type: 'string' },
        params: { type: 'string' },
        set: { type: 'string', multiple: true },
        json: { type: 'string' },
      },
      { least: 1, most: 1, what: 'one report is needed, which --json of a measurement wrote' },
    )
    const { profile = 'pcie-wc', params, set = [], json } = values
    const [path] = positionals
    checkOutputs(
      [{ option: '--json', path: json }],
      [{ option: program, path }, ...(params === undefined ? [] : [{ option: '--params', path: params }])],
    )
    const overrides = {
      ...(params === undefined ? {} : readParameterFile(params)),
      ...Object.fromEntries(set.map(parseSetting)),
    }
    const costs = costReport(readReport(path), profile, overrides)
    process.stdout.write(formatCosts(costs))
    writeJson(json, costs)
    return 0
  },
}
