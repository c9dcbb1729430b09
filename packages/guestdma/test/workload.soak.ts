import { expect, inject, it } from 'vitest'
import { random, VARIANTS, workload } from './support/workload.ts'

it('differential: random workloads give the same bytes over every scheme and transport', async () => {
  const { seed, milliseconds } = inject('soak')
  const next = random(seed)
  const end = performance.now() + milliseconds
  let rounds = 0
  while (performance.now() < end) {
    const round = next()
    const first = await workload({ ...VARIANTS[0], seed: round, steps: 400 })
    expect(first).toMatchObject({ faults: 0, live: 0 })
    for (const variant of VARIANTS.slice(1)) {
      expect(
        await workload({ ...variant, seed: round, steps: 400 }),
        `seed ${round} over ${JSON.stringify(variant)}`,
      ).toEqual(first)
    }
    rounds++
  }
  expect(rounds).toBeGreaterThan(0)
})
