import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { BenchReport, Shard, Subject } from '../contract/result.ts'
import { type Scenario, type ScenarioModule, variantsOf } from '../contract/scenario.ts'
import { exposureCases } from '../exposure/options.ts'
import { runAttacks } from '../harness/attacks.ts'
import { casesFor, type Extent, isHeadline } from '../harness/cases.ts'
import { EFFORTS } from '../harness/measure.ts'
import type { Modules } from '../harness/modules.ts'
import { isFile, loadSchemes } from '../harness/own-schemes.ts'
import type { WorkerOptions } from '../harness/processes.ts'
import { runBench } from '../harness/runner.ts'
import { shardOf } from '../harness/select.ts'
import { UsageError } from '../program/errors.ts'
import { Progress } from '../program/progress.ts'
import { listenForStop } from '../program/stop.ts'
import { formatExposure, formatResults, ratioColumns } from '../reports/text.ts'
import { guestScenarios } from '../scenarios/guest-scenarios.ts'
import { NONE, type Schemes } from '../scenarios/machines.ts'
import { MEASURED } from '../scenarios/schemes.ts'
import { type Command, readArguments } from './command.ts'
import { checkReportOutputs, OUTPUT_OPTIONS, writeJson, writeViews } from './outputs.ts'

/** Something that a run measures beside its cases, and puts into the same report. */
export interface Extra {
  readonly what: string
  /** How many cases it takes as long as. */
  readonly cases: number
  /** @param onProgress called with how much of it is done, from 0 to 1 */
  run(signal: AbortSignal, onProgress: (done: number) => void): Promise<Measured>
}

/** What an extra adds to a report. */
type Measured = Pick<BenchReport, 'exposure' | 'threads' | 'scale'> & { readonly failures?: BenchReport['failures'] }

/** What a program that measures brings along. */
export interface Host {
  /** The worker: it calls `runWorker(await loadWork(…))` with its second argument. */
  readonly worker: URL
  /** Flags for the worker's Node. */
  readonly execArgv: readonly string[]
  /** What comes before anything is measured, such as to compile. */
  prepare?(progress: Progress): Promise<void>
  /** What a run of everything measures as well. */
  readonly extras?: readonly Extra[]
}

/** What is attacked in the time of one case. */
const ATTACKS_PER_CASE = 6
/** The backend that does nothing confines as little as direct. */
const NULL = 'null'

const DETAILS = `  SCENARIOS       a module that exports 'scenarios' and 'backends',
                  in place of what guests do with nets and disks
  --scheme S      only this scheme; may be given several times. A
                  name below, or a file: a module that exports
                  'scheme', a function that makes a DmaScheme
  --against S     measure this scheme as well, and show ratios to it
                  (default: direct)
  --only WORDS    only, and all of, what matches each word, such as
                  "net transmit map 64 32 warm split"
  --quick         a tenth of the time, and only 64-byte frames
  --full          all cases, and not a covering of all pairs
  --repeat N      N processes for each case, of which the fastest
                  counts (a machine is only ever slowed down)
  --shard I/N     only part I of N parts; 'merge' makes one report
                  of their files
  --attack        also let a hostile device work at its port, and
                  report what it reached; a run of everything does
  --json FILE     also write the report, as results come
  --html FILE     also write one page with all figures and pictures
  --svg DIR       also write the pictures, a file each
  --csv FILE      also write a line for each case
  --help          this text

schemes: ${[NONE, ...Object.keys(MEASURED)]
  .join(', ')
  .replace(/(.{1,55})(, |$)/g, '$1,\n         ')
  .trim()
  .replace(/,$/, '')}
`

/** Measures what each scheme costs. */
export function runCases(host: Host): Command {
  return {
    name: 'run',
    usage: '[SCENARIOS] [OPTIONS]',
    summary: 'measure what each scheme costs, in one process for each\nscheme, mode and ring',
    details: DETAILS,
    run: (args, program) => run(host, args, program),
  }
}

async function run(host: Host, args: readonly string[], program: string): Promise<number> {
  const { values, positionals } = readArguments(
    program,
    args,
    {
      scheme: { type: 'string', multiple: true },
      against: { type: 'string', multiple: true },
      only: { type: 'string' },
      quick: { type: 'boolean' },
      full: { type: 'boolean' },
      repeat: { type: 'string' },
      shard: { type: 'string' },
      attack: { type: 'boolean' },
      ...OUTPUT_OPTIONS,
    },
    { least: 0, most: 1, what: 'at most one module with scenarios is needed' },
  )
  const usage = (message: string): UsageError => new UsageError('BENCH_USAGE', program, message)
  if (values.quick && values.full) throw usage('--quick and --full exclude each other')
  const [file] = positionals
  checkReportOutputs(values, [
    ...(file === undefined ? [] : [{ option: 'run', path: file }]),
    ...[...(values.scheme ?? []), ...(values.against ?? [])]
      .filter(isFile)
      .map((path) => ({ option: '--scheme', path })),
  ])
  const repeat = wholeNumber(program, '--repeat', values.repeat ?? '1')
  const asked = await (file === undefined ? guestCases(values, program) : moduleCases(file, values, program))
  const shard = values.shard === undefined ? undefined : readShard(program, values.shard, asked.subjects.length)
  const subjects = shard === undefined ? asked.subjects : shardOf(asked.subjects, shard.index, shard.of)
  if (subjects.length === 0) throw usage(`--shard ${values.shard} leaves this part without a case`)

  const progress = new Progress()
  await host.prepare?.(progress)
  const stop = listenForStop()
  const started: WorkerOptions = {
    worker: host.worker,
    workerArgs: [JSON.stringify(asked.modules)],
    execArgv: host.execArgv,
    signal: stop.signal,
  }
  const extras = shard !== undefined && shard.index > 1 ? [] : extrasFor(host, asked, started, values.attack === true)
  const cases = subjects.length * repeat
  const work = cases + extras.reduce((sum, extra) => sum + extra.cases, 0)
  let report = await runBench({
    ...started,
    subjects,
    effort: values.quick ? EFFORTS.quick : asked.everything ? EFFORTS.default : EFFORTS.full,
    repeat,
    ...(shard === undefined ? {} : { shard }),
    onReport: (sofar) => writeJson(values, sofar),
    onProgress: ({ driver, operation, backend, mode }, fraction) =>
      progress.show(`${driver} ${operation} ${backend} ${mode}`, (fraction * cases) / work),
  })
  let done = cases
  for (const extra of extras) {
    if (stop.signal.aborted) break
    const { failures = [], ...found } = await extra.run(stop.signal, (fraction) =>
      progress.show(extra.what, (done + fraction * extra.cases) / work),
    )
    report = { ...report, ...found, failures: [...report.failures, ...failures] }
    writeJson(values, { ...report, complete: false })
    done += extra.cases
  }
  report = { ...report, complete: report.failures.length === 0 && !stop.signal.aborted }
  progress.clear()
  writeJson(values, report)
  await writeViews(values, report)
  // Of everything, what a reader looks at first: the rest is in the files.
  const shown = asked.everything ? report.results.filter(isHeadline) : report.results
  const attacked = (report.exposure ?? []).filter(({ bytes }) => !asked.everything || bytes === 64)
  process.stdout.write(formatResults({ ...report, results: shown }, ratioColumns(asked.against)))
  process.stdout.write(formatExposure(attacked))
  if (shown.length < report.results.length)
    process.stdout.write(`${report.results.length - shown.length} more results are in --json, --csv and --html.\n`)
  return stop.exitCode ?? (report.complete ? 0 : 1)
}

function extrasFor(host: Host, asked: Asked, started: WorkerOptions, attacked: boolean): Extra[] {
  const names = asked.attackable.filter((name) => name !== NONE && name !== NULL)
  const attacks = exposureCases(names)
  const attack: Extra = {
    what: 'attacks',
    cases: attacks.length / ATTACKS_PER_CASE,
    run: (_signal, onProgress) => runAttacks(started, attacks, (_latest, fraction) => onProgress(fraction)),
  }
  return [
    ...(attacks.length > 0 && (attacked || asked.everything) ? [attack] : []),
    ...(asked.everything ? (host.extras ?? []) : []),
  ]
}

/** What a command line asks to be measured. */
interface Asked {
  readonly subjects: readonly Subject[]
  readonly modules: Modules
  /** The scheme that ratios are shown to. */
  readonly against: string
  /** Nothing was left out by `--only`, `--scheme` or `--quick`. */
  readonly everything: boolean
  /** Names of schemes. */
  readonly attackable: readonly string[]
}

interface Values {
  readonly scheme?: readonly string[] | undefined
  readonly against?: readonly string[] | undefined
  readonly only?: string | undefined
  readonly quick?: boolean | undefined
  readonly full?: boolean | undefined
}

async function guestCases({ scheme, against, only, quick, full }: Values, program: string): Promise<Asked> {
  const listed = scheme?.flatMap((list) => list.split(','))
  const beside = against?.flatMap((list) => list.split(',')) ?? []
  const own = new Map<string, Schemes>()
  const schemes: Schemes[] = [MEASURED]
  for (const file of new Set([...(listed ?? []), ...beside].filter(isFile))) {
    const loaded = await loadSchemes(file)
    own.set(file, loaded.schemes)
    schemes.push(loaded.schemes)
  }
  const known: Schemes = Object.assign({}, ...schemes) as Schemes
  const named = (name: string): string[] => {
    const found = own.get(name)
    if (found !== undefined) return Object.keys(found)
    if (name === NONE || Object.hasOwn(known, name)) return [name]
    const all = [NONE, ...Object.keys(MEASURED)].join(', ')
    throw new UsageError('BENCH_SCHEME', '--scheme', `unknown scheme '${name}'; known: ${all}; or name a file`, {
      name,
    })
  }
  const backends = new Set([...(listed ?? [NONE, ...Object.keys(MEASURED)]), ...beside].flatMap(named))
  const all = guestScenarios(known).flatMap((scenario) => [...backends].flatMap((id) => variantsOf(scenario, id)))
  const extent: Extent = quick ? 'quick' : full || only !== undefined ? 'full' : 'default'
  const ownNames = [...own.values()].flatMap((found) => Object.keys(found))
  // Of schemes that were picked, only what a reader looks at first.
  const picked = only === undefined && listed !== undefined && extent === 'default'
  const subjects = matching(casesFor(only === undefined ? extent : 'full', all, ownNames), only, program)
  return {
    subjects,
    modules: { schemes: [...own.keys()].map((file) => pathToFileURL(resolve(file)).href) },
    against: beside.flatMap(named)[0] ?? 'direct',
    everything: only === undefined && !picked && !quick,
    attackable: [...backends],
  }
}

async function moduleCases(file: string, { scheme, against, only }: Values, program: string): Promise<Asked> {
  const address = pathToFileURL(resolve(file)).href
  const { scenarios, backends } = await load(address, file)
  const names = scheme === undefined ? backends : [...scheme, ...(against ?? [])]
  const all = scenarios.flatMap((scenario) => names.flatMap((backend) => variantsOf(scenario, backend)))
  return {
    subjects: matching(all, only, program),
    modules: { scenarios: address, schemes: [] },
    against: against?.[0] ?? 'direct',
    everything: false,
    attackable: [],
  }
}

function matching(subjects: readonly Subject[], only: string | undefined, program: string): Subject[] {
  const words = (only ?? '').split(/\s+/).filter((word) => word !== '')
  const left = subjects.filter((subject) =>
    words.every((word) => Object.values(subject).some((value) => String(value) === word)),
  )
  if (left.length > 0) return left
  throw new UsageError('BENCH_USAGE', program, `no case matches --only "${only}"`, { only })
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
  return { scenarios: scenarios as Scenario[], backends: backends as string[] }
}

function wholeNumber(program: string, option: string, text: string): number {
  const number = Number(text)
  if (Number.isInteger(number) && number >= 1) return number
  throw new UsageError('BENCH_USAGE', program, `${option} ${text}: a whole number from 1 on is needed`, { value: text })
}

function readShard(program: string, text: string, total: number): Shard {
  const match = /^(\d+)\/(\d+)$/.exec(text)
  const [index, of] = match === null ? [0, 0] : [Number(match[1]), Number(match[2])]
  if (index >= 1 && index <= of) return { index, of, total }
  throw new UsageError('BENCH_USAGE', program, `--shard ${text}: it is written I/N with I from 1 to N, such as 1/4`)
}
