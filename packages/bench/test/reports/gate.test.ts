import { PassThrough } from 'node:stream'
import { checkGate, formatGate, type Gate, type GateEntry } from '@guestdma/bench'
import { describe, expect, test } from 'vitest'
import { reportOf, row } from '../support/cost-rows.ts'

const entry: GateEntry = {
  driver: 'net',
  operation: 'transmit',
  mode: 'map',
  ring: 'split',
  bytes: 64,
  batch: 32,
  buffers: 'warm',
  against: 'direct',
  ratioAtMost: { 'shared-pool': 3 },
}
const gateOf = (part: Partial<GateEntry>): Gate => ({ schema: 'guestdma-gate-1', gates: [{ ...entry, ...part }] })
const times = (p05: number) => ({ nsPerOperation: { median: 500, p05, p95: 1000 } })
const REPORT = reportOf([row(times(50)), row({ backend: 'shared-pool', ...times(150), bytesAllocatedPerOperation: 2 })])

describe('a ratio', () => {
  test('passes up to its bound', () => {
    expect(checkGate(REPORT, gateOf({}))).toMatchObject({ passed: true, checks: [{ found: 3, atMost: 3 }] })
  })

  test('fails above its bound', () => {
    const { passed, checks } = checkGate(REPORT, gateOf({ ratioAtMost: { 'shared-pool': 2.99 } }))
    expect(passed).toBe(false)
    expect(checks).toMatchObject([{ backend: 'shared-pool', what: 'ratio', found: 3, atMost: 2.99, passed: false }])
  })

  test('is of the 5th percentiles, which a busy machine hardly moves', () => {
    const [direct, pool] = REPORT.results
    const busy = { ...pool, nsPerOperation: { median: 1e6, p05: 150, p95: 1e9 } }
    expect(checkGate(reportOf([direct, busy]), gateOf({})).checks[0].found).toBe(3)
  })

  test('is taken within one kind of work', () => {
    const report = reportOf([...REPORT.results, row({ ring: 'packed', ...times(1) })])
    expect(checkGate(report, gateOf({})).checks[0].found).toBe(3)
  })
})

test('one check that fails fails the gate', () => {
  const { passed, checks } = checkGate(REPORT, gateOf({ ratioAtMost: { direct: 1, 'shared-pool': 1 } }))
  expect([passed, ...checks.map((check) => check.passed)]).toEqual([false, true, false])
})

test.each<[string, Partial<GateEntry>]>([
  ['the case itself', { ratioAtMost: { 'on-device': 3 } }],
  ['the case that it is compared with', { against: 'none' }],
  ['the kind of work', { bytes: 128 }],
])('a report without %s fails', (_, part) => {
  const { passed, checks } = checkGate(REPORT, gateOf(part))
  expect([passed, checks[0].found]).toEqual([false, null])
})

test.each([
  [2, true],
  [1.9, false],
])('2 heap bytes under a bound of %d: %s', (atMost, passed) => {
  expect(checkGate(REPORT, gateOf({ heapBytesAtMost: { 'shared-pool': atMost } })).passed).toBe(passed)
})

test('heap bytes that Node does not tell fail', () => {
  const report = reportOf(REPORT.results.map((one) => ({ ...one, bytesAllocatedPerOperation: Number.NaN })))
  const { passed, checks } = checkGate(report, gateOf({ heapBytesAtMost: { direct: 0 } }))
  expect([passed, checks[1].found]).toEqual([false, null])
})

describe('its text', () => {
  const pipe = Object.assign(new PassThrough(), { isTTY: false })

  test('has only what failed, with the bound', () => {
    const bounds = { ratioAtMost: { direct: 1, 'shared-pool': 2.5, 'on-device': 4 } }
    expect(formatGate(checkGate(REPORT, gateOf(bounds)), pipe).split('\n')).toEqual([
      'net transmit, map, split, warm, 64 bytes, batch 32',
      'backend      what             found  at most',
      'shared-pool  time / direct    3.000    2.500',
      'on-device    time / direct  missing    4.000',
      '',
      '2 of 3 checks FAILED.',
      '',
    ])
  })

  test('says how many checks passed', () => {
    expect(formatGate(checkGate(REPORT, gateOf({})), pipe)).toBe('All 1 checks passed.\n')
  })
})
