import { checkOutputs, writeJson } from '../program/outputs.ts'
import { checkGate, readGate } from '../reports/gate.ts'
import { readReport } from '../reports/read.ts'
import { formatGate } from '../reports/text.ts'
import { type Command, readArguments } from './command.ts'

const DETAILS = `  --json FILE     also write what became of each check
  --help          this text

A gate of one kind of work:

  {
    "schema": "guestdma-gate-1",
    "gates": [
      {
        "driver": "net", "operation": "transmit",
        "mode": "map", "ring": "split", "bytes": 64,
        "batch": 32, "buffers": "warm",
        "against": "direct",
        "ratioAtMost": { "shared-pool": 2.9 },
        "heapBytesAtMost": { "shared-pool": 0 }
      }
    ]
  }

Ratios are of 5th percentiles, which other programs on a machine
hardly move. A case that the report does not have fails.
`

/** Checks a report against bounds. */
export const gate: Command = {
  name: 'gate',
  usage: 'REPORT.json GATE.json [--json FILE]',
  summary: 'whether ratios within a report, and bytes on the heap, keep\nwithin bounds',
  details: DETAILS,
  run(args, program) {
    const { values, positionals: files } = readArguments(
      program,
      args,
      { json: { type: 'string' } },
      { least: 2, most: 2, what: 'a report and a gate are needed' },
    )
    const { json } = values
    checkOutputs(
      [{ option: '--json', path: json }],
      files.map((path) => ({ option: 'gate', path })),
    )
    const result = checkGate(readReport(files[0]), readGate(files[1]))
    process.stdout.write(formatGate(result))
    writeJson(json, result)
    return result.passed ? 0 : 1
  },
}
