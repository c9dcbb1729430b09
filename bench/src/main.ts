import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import {
  type BenchReport,
  EFFORTS,
  formatResults,
  MEASURED,
  NONE,
  PROFILE_NAMES,
  readEnvironment,
  runBench,
  runCosts,
  type Subject,
  variantsOf,
} from '@guestdma/bench'
import {
  checkOutputs,
  EXIT_USAGE,
  listenForStop,
  Progress,
  readCommandLine,
  type Stop,
  textColumns,
  UsageError,
  wrap,
  writeWhole,
} from '@guestdma/bench/program'
import { type FigureProgram, runFigures } from './figure-program.ts'
import { type FigureReport, type HeapFigure, type HeapReport, toJson } from './files.ts'
import { GUESTS } from './guests-report.ts'
import { MODEL_CHECK } from './model-check-report.ts'
import { PEERS } from './peers-report.ts'
import { drawReport } from './picture.ts'
import { SCALE } from './scale-report.ts'
import { SCENARIOS } from './scenarios.ts'
import { EXTRA } from './table.ts'
import { THREADS } from './threads-report.ts'

const HELP = `Measures what each DMA scheme costs, in one process per scheme,
on the built packages.

usage: bench [--scheme ID…] [--only WORDS] [--quick]
             [--repeat N] [--json FILE] [--svg FILE]
       bench --heap [--scheme ID…] [--only WORDS] [--json FILE]
       bench --scale [--json FILE]
       bench --peers [--json FILE]
       bench --threads [--json FILE]
       bench --guests [--json FILE]
       bench --model-check [--json FILE]
       bench --model [--from FILE] [--profile P] [--params FILE]
             [--set NAME=VALUE]… [--json FILE]

  --scheme ID   only this scheme; may be given several times:
${[NONE, ...Object.keys(MEASURED)].map((id) => `                ${id}\n`).join('')}  --only WORDS  only what matches all words, such as
                "net transmit map 64 32 warm"
  --quick       a tenth of the time for each figure, and only
                64 and 1,514 bytes, 4 KiB
  --heap        only the heap bytes per packet, at four guest
                bases, with five classes of backends loaded
  --scale       only what grows with live mappings, queue sizes,
                devices on one pool and endpoints of one IOMMU
  --peers       only devices of other processes, beside the bare
                ring: needs qemu-storage-daemon and dpdk-testpmd
                (Debian: qemu-system-common, dpdk-dev)
  --threads     only frames per second with the device in a worker,
                on a core of its own, beside both on one core
  --guests      only how fast a Linux guest reads a served disk,
                beside one of QEMU itself, by four schemes: needs
                qemu-system-arm, cpio, device-tree-compiler and what
                scripts/guest-kernel.mjs arm64 and
                scripts/guest-programs.mjs arm64 make
  --model-check only what schemes cost over devices of other
                processes, beside what the model predicts from the
                counters there: needs what --peers needs
  --model       measure nothing: what the counters of a report would
                cost on a real machine, by cause (docs/cost-model.md)
  --from FILE   that report (default: bench/results/small-packets.json)
  --profile P   where the memory of a device lies (default: pcie-wc):
                ${PROFILE_NAMES.join(', ')}
  --params FILE a JSON object of parameters of the model by name
  --set NAME=VALUE
                one parameter; may be given several times
  --repeat N    N processes for each figure, of which the fastest
                counts (a machine is only ever slowed down)
  --json FILE   also write the report as JSON, as results come
  --svg FILE    also draw what small packets cost
  --help        this text

Exit code 0 if all was measured, 1 if a case failed, 2 if the
command line is wrong, 130 after Ctrl-C, 143 after SIGTERM.
`

/** Guest bases at which numbers stop being small integers in one engine or another. */
const HEAP_BASES = [0x1_0000, 0x5000_0000, 0x8000_0000, 0x1_0000_0000]

const progress = new Progress()

async function main(): Promise<number> {
  const { values } = readCommandLine('bench', 'BENCH_USAGE', {
    args: process.argv.slice(2).filter((arg) => arg !== '--'),
    options: {
      scheme: { type: 'string', multiple: true },
      only: { type: 'string' },
      quick: { type: 'boolean' },
      heap: { type: 'boolean' },
      scale: { type: 'boolean' },
      peers: { type: 'boolean' },
      guests: { type: 'boolean' },
      threads: { type: 'boolean' },
      model: { type: 'boolean' },
      'model-check': { type: 'boolean' },
      from: { type: 'string' },
      profile: { type: 'string' },
      params: { type: 'string' },
      set: { type: 'string', multiple: true },
      json: { type: 'string' },
      svg: { type: 'string' },
      repeat: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  if (values.model) {
    for (const option of [
      'scheme',
      'only',
      'quick',
      'heap',
      'scale',
      'peers',
      'guests',
      'threads',
      'model-check',
      'repeat',
      'svg',
    ] as const)
      if (values[option] !== undefined) throw usage(`--model measures nothing, so --${option} has no use`)
    runCosts({
      ...values,
      from: values.from ?? fileURLToPath(new URL('../results/small-packets.json', import.meta.url)),
    })
    return 0
  }
  for (const option of ['from', 'profile', 'params', 'set'] as const)
    if (values[option] !== undefined) throw usage(`--${option} is for --model`)
  const known = [NONE, ...Object.keys(MEASURED)]
  const schemes = values.scheme?.flatMap((list) => list.split(',')) ?? known
  for (const id of schemes) if (!known.includes(id)) throw usage(`unknown scheme '${id}'; known: ${known.join(', ')}`)
  const words = values.only?.split(/\s+/).filter((word) => word !== '') ?? []
  const subjects = SCENARIOS.flatMap((scenario) => schemes.flatMap((id) => variantsOf(scenario, id)))
    .filter((subject) => words.every((word) => Object.values(subject).some((value) => String(value) === word)))
    .filter((subject) => subject.backend !== NONE || (subject.mode === 'map' && subject.buffers === 'warm'))
    .filter((subject) => !values.quick || (![256, 512].includes(subject.bytes) && subject.buffers === 'warm'))
  if (subjects.length === 0) throw usage(`nothing matches --only "${values.only}"`)
  const picked = subjects.filter(isDrawn)
  if (values.heap && picked.length === 0)
    throw usage('--heap measures net cases of 64 bytes in batches of 32, and --only leaves none of them')
  const repeat = Number(values.repeat ?? 1)
  if (!Number.isInteger(repeat) || repeat < 1)
    throw usage(`--repeat ${values.repeat}: must be a whole number from 1 on`)
  if (
    values.svg !== undefined &&
    (values.heap || values.scale || values.peers || values.guests || values.threads || values['model-check'])
  )
    throw usage('--svg draws none of --heap, --scale, --peers, --guests, --threads and --model-check')
  if (values.svg !== undefined && !subjects.some(isDrawn))
    throw usage('--svg draws net cases of 64 bytes in batches of 32, and none is measured')
  const { json, svg } = values
  checkOutputs([
    ...(json === undefined ? [] : [{ option: '--json', path: json }]),
    ...(svg === undefined ? [] : [{ option: '--svg', path: svg }]),
  ])

  await buildAll()
  const stop = listenForStop()
  const save = (report: object): void => {
    if (json !== undefined) writeWhole(json, toJson(report))
  }
  if (values.scale) return figures(SCALE, stop, save)
  if (values.peers) return figures(PEERS, stop, save)
  if (values.guests) return figures(GUESTS, stop, save)
  if (values.threads) return figures(THREADS, stop, save)
  if (values['model-check']) return figures(MODEL_CHECK, stop, save)
  const effort = values.quick ? EFFORTS.quick : EFFORTS.full
  const common = {
    worker: new URL('../dist/worker.js', import.meta.url),
    execArgv: ['--conditions=guestdma-built'],
    effort,
    signal: stop.signal,
  }
  if (values.heap) {
    return heap(picked, common, stop, save)
  }
  const report = await runBench({
    ...common,
    subjects,
    repeat,
    onReport: (sofar, latest, done, total) => {
      save(sofar)
      show(latest, done / total)
    },
  })
  progress.clear()
  save(report)
  process.stdout.write(formatResults(report, EXTRA))
  if (svg !== undefined && report.results.some(isDrawn)) writeWhole(svg, drawReport(report))
  return stop.exitCode ?? (report.complete ? 0 : 1)
}

async function heap(
  subjects: readonly Subject[],
  common: Omit<Parameters<typeof runBench>[0], 'subjects'>,
  stop: Stop,
  save: (report: HeapReport) => void,
): Promise<number> {
  const environment = readEnvironment()
  const measured: HeapFigure[] = []
  const failures: BenchReport['failures'][number][] = []
  const figuresOf = ({ results }: BenchReport, base: number): HeapFigure[] =>
    results.map(({ operation, backend, mode, bytesAllocatedPerOperation }) => {
      return { base, operation, backend, mode, bytesPerOperation: bytesAllocatedPerOperation }
    })
  const told = (figures: readonly HeapFigure[], complete: boolean): void =>
    save({ schema: 'guestdma-heap-1', complete, environment, figures, failures })
  for (const [i, base] of HEAP_BASES.entries()) {
    const report = await runBench({
      ...common,
      subjects,
      base,
      crowded: true,
      onReport: (sofar, latest, done, total) => {
        told([...measured, ...figuresOf(sofar, base)], false)
        show(latest, (i + done / total) / HEAP_BASES.length)
      },
    })
    progress.clear()
    failures.push(...report.failures)
    for (const figure of figuresOf(report, base)) {
      measured.push(figure)
      const { operation, backend, mode, bytesPerOperation } = figure
      const where = `base 0x${base.toString(16)}`
      process.stdout.write(`${where}\t${operation}\t${backend}\t${mode}\t${bytesPerOperation.toFixed(3)}\n`)
    }
    if (stop.signal.aborted) break
  }
  const complete = !stop.signal.aborted && failures.length === 0
  told(measured, complete)
  for (const { subject, message } of failures)
    process.stderr.write(wrap(`FAILED: ${Object.values(subject).join(' ')}: ${message}`, textColumns()))
  if (!complete) process.stdout.write('This report is PARTIAL: cases are missing.\n')
  return stop.exitCode ?? (complete ? 0 : 1)
}

async function figures<Figure>(
  { name, schema, what, total, runs = [[]], format }: FigureProgram<Figure>,
  stop: Stop,
  save: (report: FigureReport<Figure>) => void,
): Promise<number> {
  const environment = readEnvironment()
  progress.show(what, 0)
  let all: readonly Figure[] = []
  let failure: string | undefined
  for (const args of runs) {
    const before = all
    const onFigure = (sofar: readonly Figure[]): void => {
      all = [...before, ...sofar]
      save({ schema, complete: false, environment, figures: all })
      progress.show(what, all.length / total)
    }
    failure = (await runFigures<Figure>(name, stop.signal, onFigure, args)).failure
    if (failure !== undefined || stop.signal.aborted) break
  }
  progress.clear()
  const complete = failure === undefined && !stop.signal.aborted
  save({ schema, complete, environment, figures: all })
  process.stdout.write(format(all))
  if (!complete) process.stdout.write('This report is PARTIAL: cases are missing.\n')
  if (failure !== undefined && !stop.signal.aborted) process.stderr.write(`bench: ${failure}\n`)
  return stop.exitCode ?? (complete ? 0 : 1)
}

// The packages are measured compiled, as users run them: once Node has loaded TypeScript, the engine checks at each access
// to a typed array whether its buffer is still there, and every figure grows.
async function buildAll(): Promise<void> {
  progress.show('building the packages')
  const run = promisify(execFile)
  const cwd = fileURLToPath(new URL('../..', import.meta.url))
  try {
    await run(process.execPath, ['scripts/build.ts'], { cwd })
    await run('tsc', ['-p', 'bench/tsconfig.build.json'], { cwd })
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string }
    throw new Error(`the packages could not be built: ${(error as Error).message}\n${stdout}${stderr}`.trimEnd())
  }
  progress.clear()
}

function isDrawn({ driver, bytes, batch, buffers, backend }: Subject): boolean {
  return driver === 'net' && bytes === 64 && batch === 32 && buffers === 'warm' && backend !== NONE
}

function usage(message: string): UsageError {
  return new UsageError('BENCH_USAGE', 'bench', message)
}

function show({ driver, operation, backend, mode }: Subject, fraction: number): void {
  progress.show(`${driver} ${operation} ${backend} ${mode}`, fraction)
}

// Whoever reads may stop reading: `| head` is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})

try {
  process.exitCode = await main()
} catch (error) {
  progress.clear()
  const text = error instanceof UsageError ? `${error.message} (${error.code})` : `bench: ${(error as Error).message}`
  process.stderr.write(process.env.DEBUG ? `${(error as Error).stack}\n` : `${text}\n`)
  process.exitCode = error instanceof UsageError ? EXIT_USAGE : 1
}
