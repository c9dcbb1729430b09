import { expect } from 'vitest'
import type { TestFunctions } from '../../src/index.ts'

/** What failed in a suite that ran against a collecting fake of the runner: the name of each test, with its message. */
export interface Outcome {
  readonly ran: number
  readonly failed: ReadonlyArray<{ readonly name: string; readonly message: string }>
}

/** Runs the tests of a suite whose full name matches, and says which failed, where a runner would report them. */
export async function collect(suite: (functions: TestFunctions) => void, only = /./): Promise<Outcome> {
  const path: string[] = []
  const tests: { name: string; body: () => void | Promise<void> }[] = []
  suite({
    expect,
    describe(name, body) {
      path.push(name)
      body()
      path.pop()
    },
    test(name, body) {
      tests.push({ name: [...path, name].join(' > '), body })
    },
  })
  const chosen = tests.filter(({ name }) => only.test(name))
  const failed: { name: string; message: string }[] = []
  for (const { name, body } of chosen) {
    try {
      await body()
    } catch (error) {
      failed.push({ name, message: (error as Error).message })
    }
  }
  return { ran: chosen.length, failed }
}

/** The suite has tests, and one whose name fits fails. */
export async function expectNoticed(suite: (functions: TestFunctions) => void, noticed: RegExp): Promise<void> {
  const { ran, failed } = await collect(suite, noticed)
  expect(ran).toBeGreaterThan(0)
  expect(failed.length).toBeGreaterThan(0)
}
