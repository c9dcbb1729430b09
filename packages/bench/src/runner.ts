import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { readEnvironment } from './environment.ts'
import type { Effort } from './measure.ts'
import type { BenchReport, BenchResult, Subject } from './result.ts'
import type { Answer, Job } from './worker.ts'

export interface RunOptions {
  /** The worker program: it calls `runWorker`. */
  readonly worker: URL
  /** Flags for its Node. */
  readonly execArgv?: readonly string[]
  readonly subjects: readonly Subject[]
  readonly effort: Effort
  /** Guest base of RAM. Default 2^32. */
  readonly base?: number
  /** See `Variant.crowded`. Default false. */
  readonly crowded?: boolean
  /** Processes for each group; the one with the lowest median counts, since a machine is only ever slowed down. Default 1. */
  readonly repeat?: number
  /** Called as each result arrives. */
  onResult?(result: BenchResult, done: number, total: number): void
}

const DEFAULT_BASE = 0x1_0000_0000

/**
 * Measures all subjects: one process for each backend, operation and mode, since what the compiler learned from one
 * scheme costs the next one; processes in shuffled order, so that a slow minute of the machine hits no scheme in
 * particular.
 *
 * @throws Error if a process fails, with what it printed
 */
export async function runBench({
  worker,
  execArgv = [],
  subjects,
  effort,
  base = DEFAULT_BASE,
  crowded = false,
  repeat = 1,
  onResult,
}: RunOptions): Promise<BenchReport> {
  const environment = readEnvironment()
  const groups = new Map<string, Subject[]>()
  for (const subject of subjects) {
    const { driver, operation, backend, mode } = subject
    const name = `${driver} ${operation} ${backend} ${mode}`
    groups.set(name, [...(groups.get(name) ?? []), subject])
  }
  const best = new Map<string, BenchResult>()
  let done = 0
  for (const group of shuffled(Array.from({ length: repeat }, () => [...groups.values()]).flat())) {
    const job: Job = { subjects: group, effort, lastLevelCacheBytes: environment.lastLevelCacheBytes, base, crowded }
    await runJob(fileURLToPath(worker), execArgv, job, (result) => {
      const before = best.get(key(result))
      if (before === undefined || result.nsPerOperation.median < before.nsPerOperation.median)
        best.set(key(result), result)
      onResult?.(result, ++done, subjects.length * repeat)
    })
  }
  const rank = new Map(subjects.map((subject, i) => [key(subject), i]))
  const results = [...best.values()].sort((a, b) => (rank.get(key(a)) ?? 0) - (rank.get(key(b)) ?? 0))
  return { schema: 'guestdma-bench-1', environment, results }
}

function runJob(
  worker: string,
  execArgv: readonly string[],
  job: Job,
  onResult: (result: BenchResult) => void,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...execArgv, worker, JSON.stringify(job)], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let pending = ''
    let errors = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const lines = (pending + text).split('\n')
      pending = lines.pop() ?? ''
      for (const line of lines) {
        onResult((JSON.parse(line) as Answer).result)
      }
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text
    })
    child.on('error', reject)
    child.on('close', (code) => {
      const { driver, operation, backend, mode } = job.subjects[0]
      if (code === 0 && errors === '') resolve()
      else reject(new Error(`${driver} ${operation} ${backend} ${mode} ended with code ${code}: ${errors.trim()}`))
    })
  })
}

function key({ driver, operation, backend, mode, ring, bytes, batch, buffers }: Subject): string {
  return [driver, operation, backend, mode, ring, bytes, batch, buffers].join(' ')
}

function shuffled<T>(list: readonly T[]): T[] {
  const copy = [...list]
  for (let i = copy.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1))
    ;[copy[i], copy[j]] = [copy[j], copy[i]]
  }
  return copy
}
