import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { QueueModel, type Step } from './support/queue-model.ts'

const step: fc.Arbitrary<Step> = fc.tuple(fc.nat({ max: 19 }), fc.nat({ max: 255 }), fc.nat({ max: 65_535 }))

describe('a split virtqueue and its peer agree with lists of chains (model)', () => {
  for (const size of [1, 4, 16]) {
    for (const inOrder of [false, true]) {
      test(`size ${size}, ${inOrder ? 'in order' : 'any order'}`, () => {
        fc.assert(
          fc.property(
            fc.array(step, { maxLength: 1000, size: 'max' }),
            fc.boolean(),
            fc.boolean(),
            (steps, eventIndex, indirect) => {
              expect(() => new QueueModel({ size, inOrder, eventIndex, indirect }).run(steps)).not.toThrow()
            },
          ),
          { numRuns: 20 },
        )
      })
    }
  }
})
