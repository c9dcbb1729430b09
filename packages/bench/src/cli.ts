#!/usr/bin/env node
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { compareCommand } from './commands/compare.ts'
import { gateCommand } from './commands/gate.ts'
import { mergeCommand } from './commands/merge.ts'
import { runCosts } from './costs/program.ts'
import { EFFORTS } from './harness/measure.ts'
import type { BenchReport } from './harness/result.ts'
import { runBench } from './harness/runner.ts'
import { type ScenarioModule, variantsOf } from './harness/scenario.ts'
import { PROFILE_NAMES } from './model/parameters.ts'
import { readCommandLine } from './program/command-line.ts'
import { runProgram, UsageError } from './program/errors.ts'
import { checkOutputs, type NamedFile, writeWhole } from './program/outputs.ts'
import { Progress } from './program/progress.ts'
import { listenForStop } from './program/stop.ts'
import { formatResults } from './reports/text.ts'

const HELP = `Measures scenarios, compares results, and models
what they would cost on a real machine.

usage:
  guestdma-bench run SCENARIOS.js [--only WORDS]
                 [--quick] [--repeat N] [--json FILE]
  guestdma-bench compare BEFORE.json AFTER.json
                 [--force] [--json FILE]
  guestdma-bench gate REPORT.json GATE.json [--json FILE]
  guestdma-bench merge PART.json… [--force] [--json FILE]
  guestdma-bench model REPORT.json [--profile P]
                 [--params FILE] [--set NAME=VALUE]…
                 [--json FILE]

  run           measure a module that exports
                'scenarios' and 'backends'
  compare       ratios with confidence intervals
  gate          whether a report keeps within bounds
  merge         put the parts of a run together
  model         what the counters of a report would cost
                on a real machine, by cause
  --only WORDS  only what matches all words, such as
                "net transmit 64"
  --quick       a tenth of the time for each case
  --repeat N    N processes for each case, of which
                the fastest counts
  --profile P   where the memory of a device lies:
                ${PROFILE_NAMES.join(', ')}
                (default: pcie-wc)
  --params FILE a JSON object of parameters by name
  --set NAME=VALUE
                one parameter; may be given several times
  --json FILE   also write the results as JSON
  --help        this text; after compare, gate or merge
                that of the command
`

/** Commands that read their command line themselves. */
const COMMANDS: Readonly<Record<string, (args: readonly string[]) => number>> = {
  compare: compareCommand,
  gate: gateCommand,
  merge: mergeCommand,
}

async function main(args: readonly string[]): Promise<number> {
  const [name = '', ...rest] = args
  if (Object.hasOwn(COMMANDS, name)) return COMMANDS[name](rest)
  const { values, positionals } = readCommandLine('guestdma-bench', 'BENCH_USAGE', {
    args: [...args],
    allowPositionals: true,
    options: {
      only: { type: 'string' },
      quick: { type: 'boolean' },
      repeat: { type: 'string' },
      profile: { type: 'string' },
      params: { type: 'string' },
      set: { type: 'string', multiple: true },
      json: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const [command, ...files] = positionals
  const outputs = values.json === undefined ? [] : [{ option: '--json', path: values.json }]
  if (command === 'model' && files.length === 1) {
    runCosts({ ...values, from: files[0] })
    return 0
  }
  if (command === 'run' && files.length === 1) return run(files[0], values, outputs)
  throw new UsageError('BENCH_USAGE', 'guestdma-bench', 'name a command and its files; see guestdma-bench --help')
}

async function run(
  file: string,
  { only, quick, repeat: asked }: { only?: string; quick?: boolean; repeat?: string },
  outputs: readonly NamedFile[],
): Promise<number> {
  checkOutputs(outputs, [{ option: 'run', path: file }])
  const repeat = Number(asked ?? 1)
  if (!Number.isInteger(repeat) || repeat < 1) {
    throw new UsageError('BENCH_USAGE', '--repeat', `${asked}: a whole number from 1 on is needed`, { repeat: asked })
  }
  const address = pathToFileURL(resolve(file)).href
  const { scenarios, backends } = await load(address, file)
  const words = (only ?? '').split(/\s+/).filter((word) => word !== '')
  const subjects = scenarios
    .flatMap((scenario) => backends.flatMap((backend) => variantsOf(scenario, backend)))
    .filter((subject) => words.every((word) => Object.values(subject).some((value) => String(value) === word)))
  if (subjects.length === 0) throw new UsageError('BENCH_USAGE', '--only', `no case matches "${only}"`, { only })

  const progress = new Progress()
  const stop = listenForStop()
  const save = (report: BenchReport): void => {
    for (const { path } of outputs) writeWhole(path, `${JSON.stringify(report, null, 2)}\n`)
  }
  // Run from the sources the worker is a source as well, and compiled it is compiled.
  const suffix = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const report = await runBench({
    worker: new URL(`./scenario-worker.${suffix}`, import.meta.url),
    workerArgs: [address],
    execArgv: process.execArgv,
    subjects,
    effort: quick ? EFFORTS.quick : EFFORTS.full,
    repeat,
    signal: stop.signal,
    onReport: (sofar, { driver, operation, backend, mode }, done, total) => {
      save(sofar)
      progress.show(`${driver} ${operation} ${backend} ${mode}`, done / total)
    },
  })
  progress.clear()
  save(report)
  process.stdout.write(formatResults(report))
  return stop.exitCode ?? (report.complete ? 0 : 1)
}

async function load(address: string, file: string): Promise<ScenarioModule> {
  let found: Partial<ScenarioModule>
  try {
    found = (await import(address)) as Partial<ScenarioModule>
  } catch (error) {
    throw new UsageError('BENCH_FILE', file, `the module cannot be loaded: ${(error as Error).message}`, { file })
  }
  const { scenarios, backends } = found
  if (!Array.isArray(scenarios) || !Array.isArray(backends)) {
    throw new UsageError('BENCH_SCENARIOS', file, `the module has to export the lists 'scenarios' and 'backends'`)
  }
  return { scenarios, backends }
}

await runProgram(main)
