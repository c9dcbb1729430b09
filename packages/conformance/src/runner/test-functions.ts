import { GuestDmaError } from '@guestdma/memory'

/**
 * The functions of a test runner that the suites use. Those of vitest and Jest fit, and so does `node:test` with any
 * `expect`.
 */
export interface TestFunctions {
  readonly describe: (name: string, body: () => void) => unknown
  readonly test: (name: string, body: () => void | Promise<void>) => unknown
  readonly expect: (actual: unknown) => { toEqual(expected: unknown): unknown }
}

/** Compares, and names what was compared, so that a failure is understood without the suite's source. */
export type Check = (what: string, actual: unknown, expected: unknown) => void

/**
 * One comparison for all suites: runners differ in whether `expect` takes a message, so the message is a property's
 * name.
 */
export function makeCheck(expect: TestFunctions['expect']): Check {
  return (what, actual, expected) => void expect({ [what]: actual }).toEqual({ [what]: expected })
}

/** The code of the error that `body` throws, or what happened instead. */
export function codeThrownBy(body: () => unknown): string {
  try {
    body()
  } catch (error) {
    return error instanceof GuestDmaError ? error.code : `not a GuestDmaError: ${error}`
  }
  return 'nothing was thrown'
}
