// Runs the benchmarks on the built packages, as users run them: once Node has loaded TypeScript, the engine checks at
// each access to a typed array whether its buffer is still there, which would cost every figure 30 %.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { build } from './lib/build.ts'
import { ProgramFailed, run } from './lib/run.ts'
import { repository } from './lib/workspace.ts'

const args = process.argv.slice(2)
try {
  if (!args.includes('--help') && !args.includes('-h')) {
    await build()
    await run('tsc', ['-p', 'bench/tsconfig.build.json'])
  }
  const bench = spawn(process.execPath, [join(repository, 'bench/src/main.ts'), ...args], { stdio: 'inherit' })
  bench.on('close', (code) => {
    process.exitCode = code ?? 1
  })
} catch (error) {
  if (error instanceof ProgramFailed) console.error(error.output.trimEnd())
  console.error(`bench: the packages could not be built: ${(error as Error).message}`)
  process.exitCode = 1
}
