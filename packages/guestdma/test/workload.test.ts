import { describe, expect, it } from 'vitest'
import { VARIANTS, type WorkloadResult, workload } from './support/workload.ts'

describe('differential: one workload gives the same bytes over every scheme and transport', () => {
  it.each([1, 2])('seed %d', async (seed) => {
    const results: WorkloadResult[] = []
    for (const variant of VARIANTS) results.push(await workload({ ...variant, seed, steps: 100 }))
    const [first] = results
    expect(first.received[0].length).toBeGreaterThan(50)
    expect(first.received[1].length).toBeGreaterThan(50)
    expect(first.reads.length).toBeGreaterThan(5)
    expect(first).toMatchObject({ faults: 0, live: 0 })
    for (const [i, result] of results.entries()) expect(result, `${JSON.stringify(VARIANTS[i])}`).toEqual(first)
  })
})
