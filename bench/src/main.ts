import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type Host, REPORT_COMMANDS, runCases, runCommand } from '@guestdma/bench'
import { type Progress, runProgram } from '@guestdma/bench/program'
import { figureCommand } from './figure-command.ts'
import { figuresFor } from './figure-program.ts'
import { GUESTS } from './guests-report.ts'
import { heap } from './heap.ts'
import { MODEL_CHECK } from './model-check-report.ts'
import { PEERS } from './peers-report.ts'
import { RINGS } from './rings-report.ts'
import { SCALE } from './scale-report.ts'
import { THREADS } from './threads-report.ts'

const host: Host = {
  worker: new URL('../dist/worker.js', import.meta.url),
  execArgv: ['--conditions=guestdma-built'],
  prepare: buildAll,
  extras: [
    // As long as so many cases take.
    {
      what: 'two cores',
      cases: 80,
      run: async (signal, onProgress) => ({ threads: await figuresFor(THREADS, signal, onProgress) }),
    },
    {
      what: 'scale',
      cases: 120,
      run: async (signal, onProgress) => ({ scale: await figuresFor(SCALE, signal, onProgress) }),
    },
  ],
}

// The packages are measured compiled, as users run them: once Node has loaded TypeScript, the engine checks at each access
// to a typed array whether its buffer is still there, and every figure grows.
async function buildAll(progress: Progress): Promise<void> {
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

// Whoever reads may stop reading: `| head` is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})

await runProgram((args) =>
  runCommand(
    'bench',
    [
      runCases(host),
      ...REPORT_COMMANDS,
      heap(host),
      figureCommand(host, THREADS),
      figureCommand(host, SCALE),
      figureCommand(host, RINGS),
      figureCommand(host, PEERS),
      figureCommand(host, MODEL_CHECK),
      figureCommand(host, GUESTS),
    ],
    args.filter((arg) => arg !== '--'),
  ),
)
