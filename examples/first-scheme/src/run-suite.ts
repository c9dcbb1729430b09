import { deepStrictEqual } from 'node:assert/strict'
import type { TestFunctions } from '@guestdma/conformance'

/** One test of a suite: the names that lead to it, and what went wrong, if anything did. */
interface TestResult {
  readonly group: string
  readonly name: string
  readonly failure: string | null
}

export interface SuiteResult {
  readonly tests: readonly TestResult[]
  readonly passed: number
  /** Single comparisons in all tests together. */
  readonly comparisons: number
}

/** The smallest runner that the conformance suites work with: collects the tests, then runs each in turn. */
export async function runSuite(declare: (functions: TestFunctions) => void): Promise<SuiteResult> {
  const path: string[] = []
  const pending: { group: string; name: string; body: () => void | Promise<void> }[] = []
  let comparisons = 0
  declare({
    describe(name, body) {
      path.push(name)
      body()
      path.pop()
    },
    test: (name, body) => void pending.push({ group: path[path.length - 1], name, body }),
    expect: (actual) => ({
      toEqual(expected) {
        comparisons++
        deepStrictEqual(actual, expected)
      },
    }),
  })
  const tests: TestResult[] = []
  for (const { group, name, body } of pending) {
    let failure: string | null = null
    try {
      await body()
    } catch (error) {
      failure = (error as Error).message
    }
    tests.push({ group, name, failure })
  }
  return { tests, passed: tests.filter(({ failure }) => failure === null).length, comparisons }
}
