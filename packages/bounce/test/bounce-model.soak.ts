import fc from 'fast-check'
import { expect, inject, test } from 'vitest'
import { runBounce, type Step } from './support/bounce-model.ts'

const step: fc.Arbitrary<Step> = fc.tuple(
  fc.nat({ max: 15 }),
  fc.nat({ max: 15 }),
  fc.nat({ max: 65_535 }),
  fc.nat({ max: 65_535 }),
)

test('bounce backends agree with arrays of bytes (model)', () => {
  const { seed, milliseconds } = inject('soak')
  const shape = fc.record({
    slots: fc.integer({ min: 1, max: 96 }),
    reserve: fc.integer({ min: 1, max: 16 }),
    users: fc.integer({ min: 1, max: 5 }),
    clear: fc.constantFrom('on-lend' as const, 'on-return' as const),
    steps: fc.array(step, { minLength: 1, maxLength: 3000, size: 'max' }),
  })
  fc.assert(
    fc.property(shape, ({ slots, reserve, users, clear, steps }) => {
      expect(runBounce(slots, Math.min(reserve, slots), clear, users, steps)).toBeUndefined()
    }),
    { seed, numRuns: Number.POSITIVE_INFINITY, interruptAfterTimeLimit: milliseconds },
  )
})
