import { fileURLToPath } from 'node:url'
import { readGate, readReport, subjectKey } from '@guestdma/bench'
import { expect, test } from 'vitest'

const path = (name: string): string => fileURLToPath(new URL(name, import.meta.url))
const { gates } = readGate(path('../gate.json'))
const { results } = readReport(path('../results/benchmarks.json'))

const HARNESS = 'none'

const measured = new Map(results.map((result) => [subjectKey(result), result.nsPerOperation.p05]))

test.each(
  gates.flatMap(({ against, ratioAtMost, ...work }) => {
    const timeOf = (backend: string): number => measured.get(subjectKey({ ...work, backend })) ?? Number.NaN
    return Object.entries(ratioAtMost)
      .filter(([backend]) => backend !== HARNESS)
      .map(([backend, atMost]) => {
        const { operation } = work
        return { operation, backend, against, atMost, ratio: timeOf(backend) / timeOf(against) }
      })
  }),
)('$operation $backend / $against: a doubling is above the bound, and noise below', ({ atMost, ratio }) => {
  expect(ratio * 2).toBeGreaterThan(atMost)
  expect(ratio * 1.5).toBeLessThan(atMost)
})

test('the loop of the harness may take 5 % of the time of direct', () => {
  for (const { against, ratioAtMost } of gates) expect([against, ratioAtMost[HARNESS]]).toEqual(['direct', 0.05])
})

test('each scheme that is measured has a bound in each kind of work', () => {
  const schemes = [...new Set(results.map(({ backend }) => backend))].filter((backend) => backend !== 'direct').sort()
  for (const { ratioAtMost } of gates) expect(Object.keys(ratioAtMost).sort()).toEqual(schemes)
})
