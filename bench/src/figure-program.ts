import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

/** A program of this folder that prints figures. */
export interface FigureProgram<Figure> {
  readonly name: 'scale' | 'peers' | 'guests' | 'threads' | 'model-check' | 'rings'
  /** Of its file. */
  readonly schema: string
  /** What it measures, in a line or two of a help text. */
  readonly what: string
  /** Programs that have to be there. */
  readonly needs?: string
  /** How many figures it prints in all. */
  readonly total: number
  /** The arguments of each of its processes. Default: one process without any. */
  readonly runs?: readonly (readonly string[])[]
  format(figures: readonly Figure[]): string
}

/**
 * Runs a program of this folder on the built packages, one process after the other, in processes that load no TypeScript,
 * and reads the figures that they print, a line each. `onFigures` is called with all figures so far. `failure` says how a
 * process ended where it did not end well.
 */
export async function runFigures<Figure>(
  { name, runs = [[]] }: FigureProgram<Figure>,
  signal: AbortSignal,
  onFigures: (sofar: readonly Figure[]) => void,
): Promise<{ figures: readonly Figure[]; failure: string | undefined }> {
  const figures: Figure[] = []
  for (const args of runs) {
    const how = await runProcess(name, args, signal, (line) => {
      figures.push(JSON.parse(line) as Figure)
      onFigures(figures)
    })
    if (how !== 'code 0') return { figures, failure: `the worker ended with ${how}` }
    if (signal.aborted) break
  }
  return { figures, failure: undefined }
}

/** All figures of a program. Throws where a process of it does not end well, but for one that `signal` ended. */
export async function figuresFor<Figure>(
  program: FigureProgram<Figure>,
  signal: AbortSignal,
  onProgress: (done: number) => void,
): Promise<readonly Figure[]> {
  const { figures, failure } = await runFigures(program, signal, ({ length }) => onProgress(length / program.total))
  if (failure !== undefined && !signal.aborted) throw new Error(`${program.name}: ${failure}`)
  return figures
}

async function runProcess(
  name: string,
  args: readonly string[],
  signal: AbortSignal,
  onLine: (line: string) => void,
): Promise<string> {
  const program = fileURLToPath(new URL(`../dist/${name}.js`, import.meta.url))
  const child = spawn(process.execPath, ['--conditions=guestdma-built', program, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const kill = (): void => void child.kill('SIGKILL')
  signal.addEventListener('abort', kill)
  const ended = new Promise<string>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, killedBy) => resolve(killedBy ?? `code ${code}`))
  })
  for await (const line of createInterface({ input: child.stdout })) onLine(line)
  signal.removeEventListener('abort', kill)
  return ended
}
