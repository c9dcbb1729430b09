import { readCommandLine } from '../program/command-line.ts'
import { UsageError } from '../program/errors.ts'
import { checkOutputs, writeWhole } from '../program/outputs.ts'
import { checkGate, readGate } from '../reports/gate.ts'
import { readReport } from '../reports/read.ts'
import { formatGate } from '../reports/text.ts'

const HELP = `Checks a report against bounds: ratios of times within
one run, and bytes that are allocated on the heap.

usage: guestdma-bench gate REPORT.json GATE.json
                      [--json FILE]

  --json FILE  also write what became of each check
  --help       this text

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

Ratios are of 5th percentiles, which other programs on a
machine hardly move. A case that the report does not have
fails.

Exit code 0 if all checks pass, 1 if one fails, 2 if a
file cannot be used.
`

/** The command `gate`. Gives back the exit code. */
export function gateCommand(args: readonly string[]): number {
  const { values, positionals: files } = readCommandLine('guestdma-bench gate', 'BENCH_USAGE', {
    args: [...args],
    allowPositionals: true,
    options: { json: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  if (files.length !== 2) {
    const message = `${files.length} files were named, and a report and a gate are needed; see guestdma-bench gate --help`
    throw new UsageError('BENCH_USAGE', 'guestdma-bench gate', message, { files })
  }
  const outputs = values.json === undefined ? [] : [{ option: '--json', path: values.json }]
  checkOutputs(
    outputs,
    files.map((path) => ({ option: 'gate', path })),
  )
  const result = checkGate(readReport(files[0]), readGate(files[1]))
  process.stdout.write(formatGate(result))
  for (const { path } of outputs) writeWhole(path, `${JSON.stringify(result, null, 2)}\n`)
  return result.passed ? 0 : 1
}
