import { getHeapStatistics } from 'node:v8'
import { Bench } from 'tinybench'
import type { BenchResult, Subject } from '../contract/result.ts'
import type { Prepared } from '../contract/scenario.ts'

export interface Effort {
  /** Milliseconds of samples for each variant. */
  readonly milliseconds: number
  /** Milliseconds to run before anything counts. */
  readonly warmup: number
  /** Milliseconds at most for each of about ten runs that tell what is allocated. */
  readonly heapMs: number
}

/** How long is measured: each figure in full, a quick look, and what a selection of many cases has time for. */
export const EFFORTS: Readonly<Record<'full' | 'default' | 'quick', Effort>> = {
  full: { milliseconds: 600, warmup: 400, heapMs: 100 },
  default: { milliseconds: 300, warmup: 300, heapMs: 60 },
  quick: { milliseconds: 60, warmup: 120, heapMs: 60 },
}

// A sample is long enough for the clock's grain, and short enough that many of them escape the scheduler.
const SAMPLE_MS = 0.5
// Enough for what the compiler allocates now and then to be small beside it; slow operations get less.
const HEAP_OPERATIONS = 200_000
const HEAP_RUNS = 3
const SHARES = 101

/** Measures one variant. tinybench takes the samples; each is the mean of many rounds. */
export async function measure(
  subject: Subject,
  prepared: Prepared,
  { milliseconds, warmup, heapMs }: Effort,
): Promise<Omit<BenchResult, 'counters'>> {
  const rounds = warmUp(prepared, warmup)
  const bench = new Bench({ time: milliseconds, warmup: false, retainSamples: true, iterations: 16 })
  bench.add('variant', () => {
    const from = performance.now()
    let done = 0
    for (let i = 0; i < rounds; i++) done += prepared.round()
    const elapsed = performance.now() - from
    return { overriddenDuration: elapsed / done, overriddenIterationCost: elapsed }
  })
  await bench.run()
  const { result } = bench.tasks[0]
  if (!('latency' in result)) throw new Error(`no result: ${'error' in result ? result.error.message : result.state}`)
  const samples = [...(result.latency.samples ?? [])].sort((a, b) => a - b).map((ms) => ms * 1e6)
  return {
    ...subject,
    nsPerOperation: { median: quantile(samples, 0.5), p05: quantile(samples, 0.05), p95: quantile(samples, 0.95) },
    samples: samples.length,
    ...shareOf(prepared, rounds),
    bytesAllocatedPerOperation: heapPerOperation(prepared, heapMs),
  }
}

/**
 * Bytes that an operation allocates on the JavaScript heap: the difference between what n and 2n operations allocate,
 * so that whatever happens once cancels out. The median of three such differences, since the compiler allocates as well
 * when it sees fit.
 */
export function heapPerOperation(prepared: Prepared, milliseconds: number): number {
  const allocated = (): number =>
    (getHeapStatistics() as { total_allocated_bytes?: number }).total_allocated_bytes ?? Number.NaN
  const run = (target: number): { bytes: number; operations: number } => {
    const from = allocated()
    let operations = 0
    while (operations < target) operations += prepared.round()
    return { bytes: allocated() - from, operations }
  }
  const start = performance.now()
  let n = 0
  while (n < HEAP_OPERATIONS && performance.now() - start < milliseconds) n += prepared.round()
  const differences = Array.from({ length: HEAP_RUNS }, () => {
    const once = run(n)
    const twice = run(2 * n)
    return (twice.bytes - once.bytes) / (twice.operations - once.operations)
  })
  return Math.max(0, differences.sort((a, b) => a - b)[HEAP_RUNS >> 1])
}

// The median of many, each as short as a sample, so that the scheduler spoils few of them.
function shareOf(prepared: Prepared, rounds: number): Pick<BenchResult, 'driverShare'> {
  if (prepared.driverShare === undefined) return {}
  const run = (): void => {
    for (let i = 0; i < rounds; i++) prepared.round()
  }
  const shares = Array.from({ length: SHARES }, () => prepared.driverShare?.(run) ?? 0).sort((a, b) => a - b)
  return { driverShare: quantile(shares, 0.5) }
}

// Runs until the compiler has settled, and finds how many rounds a sample takes.
function warmUp(prepared: Prepared, milliseconds: number): number {
  const end = performance.now() + milliseconds
  let rounds = 1
  for (;;) {
    const from = performance.now()
    for (let i = 0; i < rounds; i++) prepared.round()
    const now = performance.now()
    if (now >= end) return Math.max(1, Math.round((rounds * SAMPLE_MS) / Math.max(now - from, SAMPLE_MS / 1000)))
    if (now - from < SAMPLE_MS) rounds *= 2
  }
}

function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN
}
