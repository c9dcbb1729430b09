import { PassThrough } from 'node:stream'
import { stripVTControlCharacters } from 'node:util'
import type { BenchReport, BenchResult, Environment } from '@guestdma/bench'
import { compareReports, formatComparison } from '@guestdma/bench'
import { describe, expect, test } from 'vitest'
import { reportOf, row } from '../support/cost-rows.ts'

const timed = (processMedians: number[], part: Partial<BenchResult> = {}): BenchResult =>
  row({ nsPerOperation: { median: Math.min(...processMedians), p05: 1, p95: 1000 }, processMedians, ...part })

const pair = (before: number[], after: number[]) => compareReports(reportOf([timed(before)]), reportOf([timed(after)]))

describe('a case', () => {
  test.each([
    ['none seen', [100, 104, 96], [101, 97, 103]],
    ['slower', [100, 101, 99], [120, 121, 119]],
    ['faster', [100, 101, 99], [80, 81, 79]],
    // Twice as slow at first sight, and yet within what these processes differ by.
    ['none seen', [100, 180], [200, 130]],
    ['unknown', [100], [200, 201, 202]],
    ['unknown', [100, 101, 102], [200]],
  ])('is %s for processes of %j and %j ns', (change, before, after) => {
    expect(pair(before, after).rows.map((one) => one.change)).toEqual([change])
  })

  test('has the ratio of the geometric means of its processes', () => {
    const [{ before, after, ratio, interval }] = pair([10, 1000], [50, 800]).rows
    expect([before, after]).toEqual([
      { ns: expect.closeTo(100), processes: 2 },
      { ns: expect.closeTo(200), processes: 2 },
    ])
    expect(ratio).toBeCloseTo(2)
    expect(interval?.least).toBeLessThan(2)
    expect(interval?.most).toBeGreaterThan(2)
  })

  test('is compared by its fastest processes, without an interval, where a report has no others', () => {
    const { rows } = compareReports(reportOf([row()]), reportOf([timed([50, 70, 90])]))
    expect(rows).toMatchObject([{ ratio: expect.closeTo(0.5), interval: null, change: 'unknown' }])
  })

  test('that one report has is named', () => {
    const both = row()
    const { rows, onlyBefore, onlyAfter } = compareReports(
      reportOf([both, row({ bytes: 128 })]),
      reportOf([row({ bytes: 256 }), both]),
    )
    expect(rows.map(({ bytes }) => bytes)).toEqual([64])
    expect([onlyBefore, onlyAfter]).toEqual([
      ['net transmit map warm 128 32 split direct'],
      ['net transmit map warm 256 32 split direct'],
    ])
  })
})

describe('a scheme', () => {
  const modes = ['map', 'pool', 'pool-header']
  const slower = (factors: number[], part: Partial<BenchResult> = {}) =>
    compareReports(
      reportOf(factors.map((_, i) => timed([100], { mode: modes[i], ...part }))),
      reportOf(factors.map((factor, i) => timed([100 * factor], { mode: modes[i], ...part }))),
    ).schemes

  test('has the geometric mean of its cases with an interval, although no case has one', () => {
    expect(slower([1.1, 1.11, 1.09])).toMatchObject([{ cases: 3, kinds: 3, change: 'slower' }])
    expect(slower([1.1, 1.11, 1.09])[0].ratio).toBeCloseTo(1.1, 3)
  })

  test('shows no difference where its cases do not agree', () => {
    expect(slower([1.3, 0.8, 1.1])[0].change).toBe('none seen')
  })

  test('is unknown where one process measured all of its cases, since these depend on each other', () => {
    const sizes = (ns: number): BenchReport => reportOf([64, 128, 256].map((bytes) => timed([ns], { bytes })))
    expect(compareReports(sizes(100), sizes(150)).schemes).toMatchObject([
      { cases: 3, kinds: 1, ratio: expect.closeTo(1.5), interval: null, change: 'unknown' },
    ])
  })

  test('is no surer for more cases of the same processes', () => {
    const report = (factors: number[], sizes: number[]): BenchReport =>
      reportOf(factors.flatMap((factor, i) => sizes.map((bytes) => timed([100 * factor], { mode: modes[i], bytes }))))
    const interval = (sizes: number[]) =>
      compareReports(report([1, 1], sizes), report([1.1, 1.2], sizes)).schemes[0].interval
    const [one, many] = [interval([64]), interval([64, 128, 256, 512])]
    expect(many?.least).toBeCloseTo(one?.least ?? 0)
    expect(many?.most).toBeCloseTo(one?.most ?? 0)
  })
})

describe('environments', () => {
  const inside = (part: Partial<Environment>): BenchReport => {
    const report = reportOf([row()])
    return { ...report, environment: { ...report.environment, ...part } }
  }

  test.each<Partial<Environment>>([
    { cpu: 'another CPU' },
    { cores: 4 },
    { platform: 'linux arm64' },
    { node: '24.0.0' },
  ])('that differ by %j are refused, and compared with force', (part) => {
    expect(() => compareReports(inside({}), inside(part))).toThrow(
      expect.objectContaining({ code: 'REPORT_ENVIRONMENT', message: expect.stringContaining('--force') }),
    )
    const { differences, rows } = compareReports(inside({}), inside(part), true)
    expect([differences.length, rows.length]).toEqual([1, 1])
  })

  test('are quoted without what would control a terminal', () => {
    expect(() => compareReports(inside({}), inside({ cpu: '\u001b[31m' }))).toThrow("'a CPU' and '\ufffd[31m'")
  })

  test('may differ by the date and by the minor version of Node', () => {
    const part = { date: '2027-01-01T00:00:00.000Z', node: '26.9.1', v8: '14.1' }
    expect(compareReports(inside({}), inside(part)).differences).toEqual([])
  })
})

test('reports without a common case are refused', () => {
  expect(() => compareReports(reportOf([row()]), reportOf([row({ bytes: 128 })]))).toThrow(
    expect.objectContaining({ code: 'REPORT_NO_CASE' }),
  )
})

describe('its text', () => {
  const pipe = Object.assign(new PassThrough(), { isTTY: false })
  const text = (...args: Parameters<typeof compareReports>): string =>
    formatComparison(compareReports(...args), pipe).replaceAll('\n', ' ')

  test('says that there is no interval where each case was measured by one process', () => {
    const [one, two] = [reportOf([timed([100])]), reportOf([timed([100, 101])])]
    expect(text(one, two)).toContain('No case has an interval')
    expect(text(two, two)).not.toContain('No case has an interval')
  })

  test('says what none seen means', () => {
    const report = reportOf([timed([100, 101])])
    expect(text(report, report)).toContain('"none seen" means that no difference can be seen')
  })

  test('names environments that differ, and partial reports', () => {
    const report = reportOf([row()])
    const other = { ...report, complete: false, environment: { ...report.environment, cores: 4 } }
    expect(text(report, other, true)).toContain("The environments DIFFER, cores: '2' and '4'. A report is PARTIAL")
  })

  test('names five of the cases that one report has, and counts the others', () => {
    const sizes = (count: number): BenchReport => reportOf(Array.from({ length: count }, (_, bytes) => row({ bytes })))
    expect(text(sizes(1), sizes(6)).match(/only after: /g)?.length).toBe(5)
    expect(text(sizes(8), sizes(1))).toContain('only before: 2 more')
  })

  test('fits a narrow terminal', () => {
    const terminal = Object.assign(new PassThrough(), { isTTY: true, columns: 50 })
    const report = reportOf([timed([100, 101])])
    const lines = stripVTControlCharacters(formatComparison(compareReports(report, report), terminal)).split('\n')
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(50)
  })
})
