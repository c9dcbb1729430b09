import {
  type BenchReport,
  type Command,
  EFFORTS,
  guestScenarios,
  type Host,
  isHeadline,
  MEASURED,
  readArguments,
  readEnvironment,
  runBench,
  variantsOf,
} from '@guestdma/bench'
import { checkOutputs, listenForStop, Progress, textColumns, wrap, writeJson } from '@guestdma/bench/program'
import type { HeapFigure, HeapReport } from './files.ts'

/** Guest bases at which numbers stop being small integers in one engine or another. */
const BASES = [0x1_0000, 0x5000_0000, 0x8000_0000, 0x1_0000_0000]

/** What a packet allocates on the JavaScript heap, by scheme and guest base. */
export function heap(host: Host): Command {
  return {
    name: 'heap',
    usage: '[--json FILE]',
    summary: 'heap bytes per packet, at four guest bases, with five classes\nof backends loaded',
    details: '  --json FILE     also write the figures, as they come\n  --help          this text\n',
    run: (args, program) => measureHeap(host, args, program),
  }
}

async function measureHeap(host: Host, args: readonly string[], program: string): Promise<number> {
  const { values } = readArguments(
    program,
    args,
    { json: { type: 'string' } },
    { least: 0, most: 0, what: 'no file is needed' },
  )
  const { json } = values
  checkOutputs([{ option: '--json', path: json }])
  const subjects = guestScenarios(MEASURED)
    .flatMap((scenario) => Object.keys(MEASURED).flatMap((id) => variantsOf(scenario, id)))
    .filter((subject) => isHeadline(subject) && subject.mode === 'map')
  const progress = new Progress()
  await host.prepare?.(progress)
  const stop = listenForStop()
  const environment = readEnvironment()
  const measured: HeapFigure[] = []
  const failures: BenchReport['failures'][number][] = []
  const figuresOf = ({ results }: BenchReport, base: number): HeapFigure[] =>
    results.map(({ operation, backend, mode, ring, bytesAllocatedPerOperation }) => {
      return { base, operation, backend, mode, ring, bytesPerOperation: bytesAllocatedPerOperation }
    })
  const save = (figures: readonly HeapFigure[], complete: boolean): void => {
    const report: HeapReport = { schema: 'guestdma-heap-1', complete, environment, figures, failures }
    writeJson(json, report)
  }
  for (const [i, base] of BASES.entries()) {
    const report = await runBench({
      worker: host.worker,
      workerArgs: [JSON.stringify({ schemes: [] })],
      execArgv: host.execArgv,
      // No time is of interest.
      effort: { ...EFFORTS.full, milliseconds: 1 },
      subjects,
      base,
      crowded: true,
      signal: stop.signal,
      onReport: (sofar) => save([...measured, ...figuresOf(sofar, base)], false),
      onProgress: ({ operation, backend }, fraction) =>
        progress.show(`${operation} ${backend}`, (i + fraction) / BASES.length),
    })
    progress.clear()
    failures.push(...report.failures)
    for (const figure of figuresOf(report, base)) {
      measured.push(figure)
      const { operation, backend, mode, ring, bytesPerOperation } = figure
      const where = `base 0x${base.toString(16)}`
      process.stdout.write(`${where}\t${operation}\t${backend}\t${mode}\t${ring}\t${bytesPerOperation.toFixed(3)}\n`)
    }
    if (stop.signal.aborted) break
  }
  const complete = !stop.signal.aborted && failures.length === 0
  save(measured, complete)
  for (const { subject, message } of failures)
    process.stderr.write(wrap(`FAILED: ${Object.values(subject).join(' ')}: ${message}`, textColumns()))
  if (!complete) process.stdout.write('This report is PARTIAL: cases are missing.\n')
  return stop.exitCode ?? (complete ? 0 : 1)
}
