import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { runBounce, type Step } from './support/bounce-model.ts'

const step: fc.Arbitrary<Step> = fc.tuple(
  fc.nat({ max: 15 }),
  fc.nat({ max: 15 }),
  fc.nat({ max: 65_535 }),
  fc.nat({ max: 65_535 }),
)

describe('bounce backends agree with arrays of bytes (model)', () => {
  test.each([
    [64, 8, 'on-lend', 1],
    [16, 2, 'on-lend', 3],
    [24, 3, 'on-return', 2],
  ] as const)('%d slots, %d reserved, cleared %s, %d users', (slots, reserve, clear, users) => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 1500, size: 'max' }), (steps) => {
        expect(runBounce(slots, reserve, clear, users, steps)).toBeUndefined()
      }),
      { numRuns: 25 },
    )
  })
})
