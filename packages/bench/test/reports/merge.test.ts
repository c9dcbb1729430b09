import { type BenchReport, mergeReports, type NamedReport, type Subject, shardOf, subjectKey } from '@guestdma/bench'
import { describe, expect, test } from 'vitest'
import { reportOf, row } from '../support/cost-rows.ts'

const RESULTS = ['direct', 'shared-pool', 'on-device'].flatMap((backend) =>
  [64, 128].map((bytes) => row({ backend, bytes })),
)
const OF = 3

/** The parts of a run of all results, as `run --shard` writes them. */
const parts = (of = OF): NamedReport[] =>
  Array.from({ length: of }, (_, i) => ({
    path: `${i + 1}.json`,
    report: {
      ...reportOf(shardOf(RESULTS, i + 1, of) as typeof RESULTS),
      shard: { index: i + 1, of, total: RESULTS.length },
    },
  }))
const changed = (index: number, part: Partial<BenchReport>): NamedReport[] =>
  parts().map(({ path, report }, i) => ({ path, report: i + 1 === index ? { ...report, ...part } : report }))
const keys = (subjects: readonly Subject[]): string[] => subjects.map(subjectKey).sort()
const refusal = (reports: NamedReport[], force = false): unknown => {
  try {
    return mergeReports(reports, force)
  } catch (error) {
    return error
  }
}

test.each([1, 2, 3, 4])('the %i parts of a run are the whole run, in any order', (of) => {
  const merged = mergeReports(parts(of).reverse())
  expect(keys(merged.results)).toEqual(keys(RESULTS))
  expect(merged).toMatchObject({ complete: true, failures: [], environment: reportOf([]).environment })
  expect(merged).not.toHaveProperty('shard')
  expect(merged).toEqual(mergeReports(parts(of)))
})

describe('a part that is missing', () => {
  test('is refused, by its number', () => {
    expect(refusal(parts().slice(1))).toMatchObject({
      code: 'REPORT_PARTS',
      details: { missing: [1], of: OF },
      message: 'merge: of 3 parts these are missing: 1; --force merges the others',
    })
  })

  test('makes the report partial with force', () => {
    const { complete, results } = mergeReports(parts().slice(1), true)
    expect([complete, results.length]).toEqual([false, 4])
  })
})

describe('a part that is partial', () => {
  test('makes the report partial', () => {
    const merged = mergeReports(changed(2, { complete: false, results: RESULTS.slice(2, 3) }))
    expect([merged.complete, merged.results.length]).toEqual([false, 5])
  })

  test('passes its failures on, and a failed case that has a result counts once', () => {
    const failures = [{ subject: RESULTS[2], message: 'once' }]
    const merged = mergeReports(changed(2, { complete: false, failures }))
    expect([merged.complete, merged.failures]).toEqual([false, failures])
  })
})

test.each<[string, string, NamedReport[]]>([
  ['no report', 'no report was named', []],
  [
    'a report that is no part',
    '2.json: this is no part of a run',
    [parts()[0], { path: '2.json', report: reportOf(RESULTS.slice(2, 4)) }],
  ],
  ['a part twice', '1.json: this is part 1, and 1.json is as well', [...parts(), parts()[0]]],
  [
    'a part of another number of parts',
    '2.json: this is one of 4 parts of 6 cases, and 1.json is one of 3 parts of 6',
    changed(2, { shard: { index: 2, of: 4, total: 6 } }),
  ],
  [
    'a part of another number of cases',
    '2.json: this is one of 3 parts of 7 cases, and 1.json is one of 3 parts of 6',
    changed(2, { shard: { index: 2, of: 3, total: 7 } }),
  ],
  [
    'a part beyond the last one',
    '2.json: this says that it is part 4 of 3',
    changed(2, { shard: { index: 4, of: 3, total: 6 } }),
  ],
  [
    'a case of another part',
    "2.json: the case 'net transmit map warm 64 32 split direct' is here and in 1.json",
    changed(2, { results: RESULTS.slice(0, 1) }),
  ],
  [
    'too few cases in complete parts',
    'the parts have 5 cases, and the run that they name had 6',
    changed(2, { results: RESULTS.slice(2, 3) }),
  ],
  [
    'too many cases',
    'the parts have 7 cases, and the run that they name had 6',
    changed(2, { complete: false, results: [...RESULTS.slice(2, 4), row({ bytes: 1514 })] }),
  ],
])('%s is refused, with force as well', (_, message, reports) => {
  for (const force of [false, true])
    expect(refusal(reports, force)).toMatchObject({
      code: 'REPORT_PARTS',
      message: expect.stringContaining(message),
    })
})

test('a part of another environment is refused, with force as well', () => {
  const environment = { ...reportOf([]).environment, node: '26.0.1' }
  for (const force of [false, true])
    expect(refusal(changed(3, { environment }), force)).toMatchObject({
      code: 'REPORT_ENVIRONMENT',
      message: "3.json: this was measured in another environment than 1.json, version of Node: '26.0.0' and '26.0.1'",
    })
})

test('the date of a part may differ', () => {
  const environment = { ...reportOf([]).environment, date: '2026-02-02T00:00:00.000Z' }
  expect(mergeReports(changed(3, { environment })).environment.date).toBe('2026-01-01T00:00:00.000Z')
})

test('figures of other kinds are kept', () => {
  const scale = [
    { what: 'devices', backend: 'shared-pool', detail: 'transmit', size: 1, value: 90, unit: 'ns', ratio: 1 },
  ] as const
  const merged = mergeReports(changed(2, { scale }))
  expect(merged.scale).toEqual(scale)
  expect(merged).not.toHaveProperty('threads')
})
