import { spawn } from 'node:child_process'
import { basename } from 'node:path'
import { repository } from './workspace.ts'

export interface RunOptions {
  readonly cwd?: string
  readonly env?: NodeJS.ProcessEnv
}

export class ProgramFailed extends Error {
  readonly code = 'PROGRAM_FAILED'
  readonly output: string

  constructor(command: string, status: number | null, output: string) {
    super(`${command} ended with ${status === null ? 'a signal' : `exit code ${status}`}`)
    this.output = output
  }
}

/** Runs a program to its end and returns what it printed. Throws {@link ProgramFailed} if it fails. */
export function run(
  command: string,
  args: readonly string[],
  { cwd = repository, env }: RunOptions = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, env: env ?? process.env, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text))
    child.on('error', reject)
    child.on('close', (status) => {
      if (status === 0) resolve(output)
      else reject(new ProgramFailed([basename(command), ...args].join(' '), status, output))
    })
  })
}

/** The pnpm that started this script, or the one on the path. */
export function pnpm(args: readonly string[], options?: RunOptions): Promise<string> {
  const started = process.env.npm_config_user_agent?.startsWith('pnpm/') ? process.env.npm_execpath : undefined
  return run(started ?? 'pnpm', args, options)
}

/** The environment without what pnpm told this script, for programs that must not take it for theirs. */
export function plainEnvironment(): NodeJS.ProcessEnv {
  const kept = /^npm_config_(cache|cafile|registry|userconfig|globalconfig)$/
  const entries = Object.entries(process.env).filter(([key]) => !/^(p?npm_|NODE$)/i.test(key) || kept.test(key))
  const path = (process.env.PATH ?? '').split(':').filter((part) => !part.includes('node_modules'))
  return { ...Object.fromEntries(entries), PATH: path.join(':') }
}

export type Step = readonly [name: string, work: () => unknown]

/**
 * Runs steps in order and stops at the first that fails. Progress goes to a terminal only, the last line to anyone; with
 * `json` that line is an object, with the seconds of each step that passed and the step that failed.
 */
export async function runSteps(title: string, steps: readonly Step[], json = false): Promise<void> {
  const passed: Record<string, number> = {}
  const tell = (failed: string | null): void => {
    if (json) console.log(JSON.stringify({ command: title, passed, failed }))
  }
  const terminal = process.stderr.isTTY
  const begin = performance.now()
  for (const [name, work] of steps) {
    const start = performance.now()
    if (terminal) process.stderr.write(`${name} …`)
    try {
      await work()
    } catch (error) {
      if (terminal) process.stderr.write('\r\u001b[K')
      if (error instanceof ProgramFailed) console.error(error.output.trimEnd())
      console.error(`${title}: ${name} failed: ${error instanceof Error ? error.message : error}`)
      process.exitCode = 1
      tell(name)
      return
    }
    passed[name] = (performance.now() - start) / 1000
    if (terminal) process.stderr.write(`\r\u001b[K${name} ${seconds(start)}\n`)
  }
  tell(null)
  if (!json) console.log(`${title}: ${steps.map(([name]) => name).join(', ')} passed in ${seconds(begin)}`)
}

function seconds(since: number): string {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`
}
