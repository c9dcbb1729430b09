import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Edit, MutantModules } from './mutant-modules.ts'
import { type Failure, QuietRunner } from './quiet-runner.ts'

/** Errors in one source file, each of which one of the suites has to notice. */
export interface Mutants {
  /** From the root of the repository on. */
  readonly file: string
  /** Test files, the likely ones first. */
  readonly suites: readonly string[]
  /** What the mutant does, the text that is replaced, and what by. */
  readonly errors: ReadonlyArray<readonly [what: string, from: string, to: string]>
}

async function verdict(edit: Edit | null, suite: string): Promise<Failure | number> {
  const runner = new QuietRunner()
  await new MutantModules(edit, runner.vitest).load(suite)
  return runner.run()
}

/** The sources pass all suites, and each of their mutants fails one. */
export function testMutants(all: readonly Mutants[]): void {
  // A mutant that dies does so always.
  fc.configureGlobal({ seed: 1 })

  describe('what stands in the sources passes', () => {
    test.each([...new Set(all.flatMap(({ suites }) => suites))])('%s', async (suite) => {
      expect(await verdict(null, suite)).toBeGreaterThan(0)
    })
  })

  describe.each(all)('a mutant dies: $file', ({ file, suites, errors }) => {
    test.each(errors)('%s', async (_, from, to) => {
      let failure: Failure | number = 0
      for (const suite of suites) {
        failure = await verdict({ file, from, to }, suite)
        if (typeof failure !== 'number') break
      }
      expect(failure, 'a test that notices').toEqual({ name: expect.any(String), message: expect.any(String) })
    })
  })
}
