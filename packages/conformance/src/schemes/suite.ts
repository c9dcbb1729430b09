import type { DmaScheme } from '@guestdma/dma'
import { TestMachine } from '../doubles/test-machine.ts'
import { makeCheck, type TestFunctions } from '../runner/test-functions.ts'
import { describeAllocation } from './allocation.ts'
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
    plainTest: (name, body) => void functions.test(name, body),
    test: (name, body) => void functions.test(name, async () => body(await open(options))),
    growingTest: (name, body) => {
      functions.test(name, async () => body(await open({ ...options, growable: true })))
    },
  }
  describe(`DMA scheme ${options.name ?? make().id}`, () => {
    describe('alloc', () => describeAllocation(suite))
    describe('map and unmap', () => describeMappings(suite))
    describe('together', () => describeTogether(suite))
    describe('sync', () => describeSync(suite))
    describe('limits', () => describeLimits(suite))
    describe('traits', () => describeTraits(suite))
    describe('platform', () => describePlatforms(suite))
    describe('growth', () => describeGrowth(suite))
  })
}
