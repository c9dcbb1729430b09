import type { BenchReport } from '../contract/result.ts'
import { exposureCases } from '../exposure/options.ts'
import { runAttacks } from '../harness/attacks.ts'
import { isHeadline } from '../harness/cases.ts'
import type { WorkerOptions } from '../harness/processes.ts'
import { runBench } from '../harness/runner.ts'
import { writeJson } from '../program/outputs.ts'
import { Progress } from '../program/progress.ts'
import { listenForStop } from '../program/stop.ts'
import { formatExposure, formatResults, ratioColumns } from '../reports/text.ts'
import { NONE } from '../scenarios/machines.ts'
import { MEASURED } from '../scenarios/schemes.ts'
import { type Asked, readAsked } from './asked.ts'
import type { Command } from './command.ts'
import { writeViews } from './outputs.ts'

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

/** What all processes of a run have in common. */
type Started = WorkerOptions & Required<Pick<WorkerOptions, 'signal'>>

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
  const asked = await readAsked(args, program)
  const progress = new Progress()
  await host.prepare?.(progress)
  const stop = listenForStop()
  const started: Started = {
    worker: host.worker,
    workerArgs: [JSON.stringify(asked.modules)],
    execArgv: host.execArgv,
    signal: stop.signal,
  }
  const measured = await measureAll(asked, started, extrasFor(host, asked, started), progress)
  const report = { ...measured, complete: measured.failures.length === 0 && !stop.signal.aborted }
  progress.clear()
  writeJson(asked.outputs.json, report)
  await writeViews(asked.outputs, report)
  print(report, asked)
  return stop.exitCode ?? (report.complete ? 0 : 1)
}

/** What is measured beside the cases. Of several parts of a run, the first one does all of that. */
function extrasFor(host: Host, asked: Asked, started: Started): Extra[] {
  if (asked.shard !== undefined && asked.shard.index > 1) return []
  const extras = asked.everything ? (host.extras ?? []) : []
  const attacks = exposureCases(asked.schemes.filter((name) => name !== NONE && name !== NULL))
  if (attacks.length === 0 || !(asked.attack || asked.everything)) return [...extras]
  const attack: Extra = {
    what: 'attacks',
    cases: attacks.length / ATTACKS_PER_CASE,
    run: (_signal, onProgress) => runAttacks(started, attacks, (_latest, fraction) => onProgress(fraction)),
  }
  return [attack, ...extras]
}

/** Measures the cases and then the extras, and writes the report as results come. */
async function measureAll(
  { subjects, effort, repeat, shard, outputs }: Asked,
  started: Started,
  extras: readonly Extra[],
  progress: Progress,
): Promise<BenchReport> {
  const cases = subjects.length * repeat
  const work = cases + extras.reduce((sum, extra) => sum + extra.cases, 0)
  let report = await runBench({
    ...started,
    subjects,
    effort,
    repeat,
    ...(shard === undefined ? {} : { shard }),
    onReport: (sofar) => writeJson(outputs.json, sofar),
    onProgress: ({ driver, operation, backend, mode }, fraction) =>
      progress.show(`${driver} ${operation} ${backend} ${mode}`, (fraction * cases) / work),
  })
  let done = cases
  for (const extra of extras) {
    if (started.signal.aborted) break
    const { failures = [], ...found } = await extra.run(started.signal, (fraction) =>
      progress.show(extra.what, (done + fraction * extra.cases) / work),
    )
    report = { ...report, ...found, failures: [...report.failures, ...failures] }
    writeJson(outputs.json, { ...report, complete: false })
    done += extra.cases
  }
  return report
}

/** Prints tables: of a run of everything, what a reader looks at first. The rest is in the files. */
function print(report: BenchReport, { against, everything }: Asked): void {
  const shown = everything ? report.results.filter(isHeadline) : report.results
  const attacked = (report.exposure ?? []).filter(({ bytes }) => !everything || bytes === 64)
  process.stdout.write(formatResults({ ...report, results: shown }, ratioColumns(against)))
  process.stdout.write(formatExposure(attacked))
  if (shown.length < report.results.length)
    process.stdout.write(`${report.results.length - shown.length} more results are in --json, --csv and --html.\n`)
}
