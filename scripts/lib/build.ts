import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { run } from './run.ts'
import { packagesIn, repository } from './workspace.ts'

/** Compiles every package from scratch into its `dist`: no file of an earlier build stays. */
export async function build(): Promise<void> {
  for (const { dir } of packagesIn(repository, 'packages')) {
    rmSync(join(repository, dir, 'dist'), { recursive: true, force: true })
  }
  await run('tsc', ['--build', '--force', 'tsconfig.build.json'])
}
