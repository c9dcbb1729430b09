import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

/** A program of this folder that prints figures. */
export interface FigureProgram<Figure> {
  readonly name: 'scale' | 'peers' | 'guests' | 'threads' | 'model-check'
  /** Of its file. */
  readonly schema: string
  /** What it measures, in a few words. */
  readonly what: string
  /** How many figures it prints in all. */
  readonly total: number
  /** The arguments of each of its processes. Default: one process without any. */
  readonly runs?: readonly (readonly string[])[]
  format(figures: readonly Figure[]): string
}

/**
 * Runs a program of this folder on the built packages, in a process that loads no TypeScript, and reads the figures that
 * it prints, a line each. `onFigure` is called with all figures so far. `failure` says how the process ended where
 * it did not end well.
 */
export async function runFigures<Figure>(
  name: FigureProgram<Figure>['name'],
  signal: AbortSignal,
  onFigure: (sofar: readonly Figure[]) => void,
  args: readonly string[] = [],
): Promise<{ figures: readonly Figure[]; failure: string | undefined }> {
  const program = fileURLToPath(new URL(`../dist/${name}.js`, import.meta.url))
  const child = spawn(process.execPath, ['--conditions=guestdma-built', program, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  signal.addEventListener('abort', () => void child.kill('SIGKILL'))
  const ended = new Promise<string>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, killedBy) => resolve(killedBy ?? `code ${code}`))
  })
  const figures: Figure[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    figures.push(JSON.parse(line) as Figure)
    onFigure(figures)
  }
  const how = await ended
  return { figures, failure: how === 'code 0' ? undefined : `the worker ended with ${how}` }
}
