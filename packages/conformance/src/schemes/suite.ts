import type { DmaScheme } from '@guestdma/dma'
import { TestMachine } from '../doubles/test-machine.ts'
import { makeCheck, type TestFunctions } from '../runner/test-functions.ts'
import { describeAllocation } from './allocation.ts'
import { describeFailures } from './failures.ts'
import { describeGrowth } from './growth.ts'
import { describeLimits } from './limits.ts'
import { describeMappings } from './mappings.ts'
import { describePlatforms } from './platforms.ts'
import { type DmaSchemeOptions, SchemeRig, type SchemeSuite } from './rig.ts'
import { describeSync } from './sync.ts'
import { describeTogether } from './together.ts'
import { describeTraits } from './traits.ts'

/**
 * Tests a DMA scheme of anyone's: that its backend keeps the contract of `DmaBackend`, on a small machine of the
 * suite's own, and that every trait and limit that it declares is true. A trait that promises more than the backend
 * does fails, and so does one that promises less: what a scheme is said to expose is published. The scheme is tried
 * with two devices, on memory that grows, and its provider on platforms that other schemes set up. It must be able to
 * hold two mappings at once, one of them standing.
 *
 * A word in brackets, in a test's title and before the message of its failure, is in the line of `DmaBackend` that it
 * proves. What the scheme throws, also a function that cannot make it, fails tests and does not end the suite.
 *
 * @param functions the runner's functions, such as `import { describe, test, expect } from 'vitest'`
 * @param scheme a scheme, or a function that makes a fresh one for each test
 * @example
 * describeDmaScheme({ describe, test, expect }, () => myScheme({ size: 1 << 20 }))
 */
export function describeDmaScheme(
  functions: TestFunctions,
  scheme: DmaScheme | (() => DmaScheme),
  options: DmaSchemeOptions = {},
): void {
  const make = typeof scheme === 'function' ? scheme : (): DmaScheme => scheme
  const { describe, expect } = functions
  const open = (more: DmaSchemeOptions): Promise<SchemeRig> =>
    SchemeRig.open(make(), more, new TestMachine(more), 'dev0')
  const suite: SchemeSuite = {
    make,
    options,
    check: makeCheck(expect),
    plainTest: (name, body) => void functions.test(name, citing(name, body)),
    test: (name, body) =>
      void functions.test(
        name,
        citing(name, async () => body(await open(options))),
      ),
    growingTest: (name, body) => {
      functions.test(
        name,
        citing(name, async () => body(await open({ ...options, growable: true }))),
      )
    },
  }
  describe(`DMA scheme ${options.name ?? idOf(make)}`, () => {
    describe('alloc', () => describeAllocation(suite))
    describe('map and unmap', () => describeMappings(suite))
    describe('together', () => describeTogether(suite))
    describe('sync', () => describeSync(suite))
    if (options.failNext !== undefined) describe('failures', () => describeFailures(suite))
    describe('limits', () => describeLimits(suite))
    describe('traits', () => describeTraits(suite))
    describe('platform', () => describePlatforms(suite))
    describe('growth', () => describeGrowth(suite))
  })
}

// Tests are collected before any runs: what cannot be made fails each of them then.
function idOf(make: () => DmaScheme): string {
  try {
    return make().id
  } catch {
    return 'that cannot be made'
  }
}

/** The body, so that what it throws begins with the lines of the contract that the test's title names. */
function citing(name: string, body: () => void | Promise<void>): () => Promise<void> {
  const lines = name.match(/\[[a-z-]+\]/g)?.join(' ')
  return async () => {
    try {
      await body()
    } catch (error) {
      if (error instanceof Error && lines !== undefined) error.message = `${lines} ${error.message}`
      throw error
    }
  }
}
