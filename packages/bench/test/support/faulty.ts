import { defineScenario, type Prepared } from '@guestdma/bench'

const BAD = 128

/** Two good cases and one whose process ends in the middle. */
const crashing = defineScenario({
  driver: 'own',
  operation: 'crash',
  modes: ['only'],
  bytes: [64, BAD, 256],
  batches: [1],
  cold: [],
  async prepare({ bytes }): Promise<Prepared> {
    let sum = 0
    return {
      round() {
        if (bytes === BAD) throw new Error('this case is faulty')
        for (let i = 0; i < 1000; i++) sum += i
        return 1
      },
      counters: () => ({ sum }),
      close: async () => {},
    }
  },
})

/** Many cases, so that a run can be stopped in the middle. */
const long = defineScenario({
  ...crashing,
  operation: 'long',
  bytes: Array.from({ length: 200 }, (_, i) => 1000 + i),
})

export const scenarios = [crashing, long]
export const backends = ['none']
