import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NaivePackedVirtqueue } from './support/naive-packed-virtqueue.ts'
import { PACKED, type QueueFormat, QueueModel, SPLIT, type Step } from './support/queue-model.ts'

const step: fc.Arbitrary<Step> = fc.tuple(fc.nat({ max: 19 }), fc.nat({ max: 255 }), fc.nat({ max: 65_535 }))

const NAIVE: QueueFormat = { ...PACKED, make: (options) => new NaivePackedVirtqueue(options) }

const FORMATS: ReadonlyArray<readonly [name: string, format: QueueFormat, sizes: readonly number[]]> = [
  ['a split virtqueue', SPLIT, [1, 4, 16]],
  ['a packed virtqueue', PACKED, [1, 5, 16]],
  ['a naive packed virtqueue', NAIVE, [1, 5]],
]

for (const [name, format, sizes] of FORMATS) {
  describe(`${name} and its peer agree with lists of chains (model)`, () => {
    for (const size of sizes) {
      for (const inOrder of [false, true]) {
        test(`size ${size}, ${inOrder ? 'in order' : 'any order'}`, () => {
          fc.assert(
            fc.property(
              fc.array(step, { maxLength: 1000, size: 'max' }),
              fc.boolean(),
              fc.boolean(),
              (steps, eventIndex, indirect) => {
                const model = new QueueModel({ size, inOrder, eventIndex, indirect, format })
                expect(() => model.run(steps)).not.toThrow()
              },
            ),
            { numRuns: 20 },
          )
        })
      }
    }
  })
}
