import { availableParallelism } from 'node:os'
import type { TestProject } from 'vitest/node'

declare module 'vitest' {
  interface ProvidedContext {
    /** What a soak test works with: `const { seed, milliseconds } = inject('soak')`. */
    soak: {
      /** Seeds everything random in the run; printed at the start. `SOAK_SEED` sets it again. */
      readonly seed: number
      /** How long one test file may take, so that all of them together keep to `SOAK_S`. */
      readonly milliseconds: number
    }
  }
}

export async function setup(project: TestProject): Promise<void> {
  const seconds = Number(process.env.SOAK_S ?? 60)
  const seed = Number(process.env.SOAK_SEED ?? Math.floor(Math.random() * 0x7fff_ffff))
  if (!(seconds > 0) || !Number.isInteger(seed))
    throw new Error('SOAK_S has to be a number of seconds, SOAK_SEED an integer')

  const { testFiles } = await project.globTestFiles()
  const rounds = Math.ceil(testFiles.length / availableParallelism())
  project.provide('soak', { seed, milliseconds: Math.floor((seconds * 1000) / Math.max(rounds, 1)) })
  console.log(
    `soak: ${testFiles.length} file(s) in ${seconds} s; to repeat it: SOAK_S=${seconds} SOAK_SEED=${seed} pnpm test:soak`,
  )
}
