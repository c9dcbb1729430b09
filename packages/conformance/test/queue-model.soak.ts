import fc from 'fast-check'
import { inject, test } from 'vitest'
import { PACKED, QueueModel, SPLIT, type Step } from './support/queue-model.ts'

const step: fc.Arbitrary<Step> = fc.tuple(fc.nat({ max: 19 }), fc.nat({ max: 255 }), fc.nat({ max: 65_535 }))

test('a virtqueue of either format and its peer agree with lists of chains (model)', () => {
  const { seed, milliseconds } = inject('soak')
  const options = fc.record({
    format: fc.constantFrom(SPLIT, PACKED),
    size: fc.constantFrom(1, 2, 4, 8, 16, 32),
    inOrder: fc.boolean(),
    eventIndex: fc.boolean(),
    indirect: fc.boolean(),
  })
  fc.assert(
    // What disagrees throws, with what and by how much.
    fc.property(options, fc.array(step, { minLength: 1, maxLength: 4000, size: 'max' }), (chosen, steps) =>
      new QueueModel(chosen).run(steps),
    ),
    { seed, numRuns: Number.POSITIVE_INFINITY, interruptAfterTimeLimit: milliseconds },
  )
})
