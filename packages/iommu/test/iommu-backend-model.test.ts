import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { runBackend, type Step } from './support/iommu-backend-model.ts'
import { EDGES, MODES } from './support/model-domain.ts'

const step: fc.Arbitrary<Step> = fc.tuple(fc.nat({ max: 15 }), fc.nat({ max: 65_535 }), fc.nat({ max: 65_535 }))

describe.each([1, 2, 4, 16, 4096, 65_536])('backends over granules of %d agree with the model', (granule) => {
  test.each(MODES.flatMap((mode) => EDGES.map((subGranule) => [mode, subGranule] as const)))(
    '%s, %s',
    { tags: ['5.13.6.6.1/begins', '5.13.6.6.1/ends'] },
    (mode, subGranule) => {
      fc.assert(
        fc.property(fc.array(step, { maxLength: 400, size: 'max' }), (steps) => {
          expect(runBackend({ granule, mode, subGranule }, steps)).toBeUndefined()
        }),
        // Shrinking a long run of large granules takes long.
        { numRuns: granule > 4096 ? 5 : 12, interruptAfterTimeLimit: 20_000 },
      )
    },
  )
})
