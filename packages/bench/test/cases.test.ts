import { describe, expect, test } from 'vitest'
import { type Subject, subjectKey } from '../src/contract/result.ts'
import { variantsOf } from '../src/contract/scenario.ts'
import { casesFor, isHeadline } from '../src/harness/cases.ts'
import { selectPairwise, shardOf } from '../src/harness/select.ts'
import { guestScenarios } from '../src/scenarios/guest-scenarios.ts'
import { NONE } from '../src/scenarios/machines.ts'
import { MEASURED } from '../src/scenarios/schemes.ts'

const all = guestScenarios(MEASURED).flatMap((scenario) =>
  [NONE, ...Object.keys(MEASURED)].flatMap((backend) => variantsOf(scenario, backend)),
)
const DIMENSIONS = ['backend', 'mode', 'ring', 'bytes', 'batch', 'buffers'] as const

/** Written without a look at the selection: every pair of values of every two dimensions, by kind of work. */
function pairs(subjects: readonly Subject[]): Set<string> {
  const found = new Set<string>()
  for (const subject of subjects)
    for (const a of DIMENSIONS)
      for (const b of DIMENSIONS)
        if (a < b) found.add(`${subject.driver} ${subject.operation}: ${a} ${subject[a]}, ${b} ${subject[b]}`)
  return found
}

describe('what is measured by default', () => {
  const chosen = casesFor('default', all)

  test('has each pair of values that occurs in some case of a kind of work', () => {
    const sensible = casesFor('full', all)
    expect(pairs(chosen)).toEqual(pairs(sensible))
  })

  test('has the whole headline, and each case once', () => {
    const keys = new Set(chosen.map(subjectKey))
    expect(keys.size).toBe(chosen.length)
    for (const subject of casesFor('full', all).filter(isHeadline)) expect(keys).toContain(subjectKey(subject))
  })

  test('is a small part of all cases', () => {
    expect(chosen.length).toBeLessThan(casesFor('full', all).length / 8)
  })

  test("measures curves of a scheme of one's own", () => {
    const of = (own: readonly string[]): number =>
      casesFor('default', all, own).filter(({ backend }) => backend === 'virtio-iommu-byte').length
    expect(of(['virtio-iommu-byte'])).toBeGreaterThan(of([]) + 10)
  })
})

test('a quick run has small packets over each scheme, in either direction and mode, and the loop of the harness once', () => {
  const chosen = casesFor('quick', all)
  expect(chosen.every(isHeadline)).toBe(true)
  for (const backend of Object.keys(MEASURED))
    expect(
      chosen.filter((subject) => subject.backend === backend).map(({ operation, mode }) => `${operation} ${mode}`),
    ).toEqual(['transmit map', 'transmit pool', 'receive map', 'receive pool'])
  expect(chosen.filter(({ backend }) => backend === NONE).length).toBe(2)
})

test('a covering needs no more than the largest two dimensions ask for, where nothing else is wanted', () => {
  const values = [1, 2, 3]
  const subjects = values.flatMap((bytes) =>
    values.flatMap((batch) =>
      (['split', 'packed'] as const).map((ring): Subject => {
        return { driver: 'x', operation: 'y', backend: 'z', mode: 'map', ring, bytes, batch, buffers: 'warm' }
      }),
    ),
  )
  const chosen = selectPairwise(subjects, () => false)
  expect(chosen.length).toBe(9)
  expect(pairs(chosen)).toEqual(pairs(subjects))
})

test('parts of a run are all of it, and no case is in two of them', () => {
  const subjects = casesFor('default', all)
  const parts = [1, 2, 3].map((index) => shardOf(subjects, index, 3))
  expect(parts.flat().map(subjectKey).sort()).toEqual(subjects.map(subjectKey).sort())
  const sizes = parts.map(({ length }) => length)
  expect(Math.max(...sizes)).toBeLessThan(2 * Math.min(...sizes))
})
