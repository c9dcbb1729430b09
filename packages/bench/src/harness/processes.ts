import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Answer, Job } from './worker.ts'

/** How processes are started that do what a run asks for. */
export interface WorkerOptions {
  /** The worker program: it calls `runWorker`. */
  readonly worker: URL
  /** Arguments for it, behind its job. */
  readonly workerArgs?: readonly string[]
  /** Flags for its Node. */
  readonly execArgv?: readonly string[]
  /** Ends the worker and the run: what was answered so far is kept. */
  readonly signal?: AbortSignal
}

/**
 * Asks a process for one answer after another. Where it ends early, that is a failure of what it was at, and what
 * remains is asked of a new process.
 *
 * @param jobFor the job of a process that is asked for these
 * @throws Error if no process can be started
 */
export async function askInTurn<Asked>(
  options: WorkerOptions,
  asked: readonly Asked[],
  jobFor: (pending: readonly Asked[]) => Job,
  onAnswer: (asked: Asked, answer: Answer) => void,
  onFailure: (asked: Asked, message: string) => void,
): Promise<void> {
  let pending = asked
  while (pending.length > 0 && options.signal?.aborted !== true) {
    const problem = await runJob(options, jobFor(pending), (answer) => {
      const [first, ...rest] = pending
      pending = rest
      onAnswer(first, answer)
    })
    if (pending.length === 0 || options.signal?.aborted) return
    const [first, ...rest] = pending
    pending = rest
    onFailure(first, problem ?? 'the worker ended without an answer')
  }
}

// Gives back how the process failed, or undefined.
function runJob(
  { worker, workerArgs = [], execArgv = [], signal }: WorkerOptions,
  job: Job,
  onAnswer: (answer: Answer) => void,
): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    // Its standard input ends with this process, however that ends, and the worker then ends as well.
    const args = [...execArgv, fileURLToPath(worker), JSON.stringify(job), ...workerArgs]
    const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'pipe'] })
    const kill = (): void => void child.kill('SIGKILL')
    signal?.addEventListener('abort', kill)
    let pending = ''
    let errors = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const lines = (pending + text).split('\n')
      pending = lines.pop() ?? ''
      for (const line of lines) onAnswer(JSON.parse(line) as Answer)
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text
    })
    child.on('error', reject)
    child.on('close', (code, killedBy) => {
      signal?.removeEventListener('abort', kill)
      if (code === 0) process.stderr.write(errors)
      resolve(code === 0 ? undefined : `the worker ended with ${killedBy ?? `code ${code}`}: ${errors.trim()}`)
    })
  })
}
