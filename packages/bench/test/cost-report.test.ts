import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type CostReport, costReport } from '../src/costs/report.ts'
import { formatCosts } from '../src/costs/text.ts'
import { CAUSES } from '../src/model/causes.ts'
import { ACCESSES, PLAIN, reportOf, row } from './support/cost-rows.ts'

const cli = fileURLToPath(new URL('../src/cli.ts', import.meta.url))
const pipe = Object.assign(new PassThrough(), { isTTY: false })

const iommu = { ...PLAIN, mapRequests: 0.5, unmapRequests: 0.25, synchronousCommits: 0.5 }
const REPORT = reportOf([
  row({ backend: 'none', counters: { framesSeen: 1 } }),
  row(),
  row({ operation: 'receive' }),
  row({ operation: 'receive', backend: 'shared-pool', counters: { ...PLAIN, bytesCopiedFromDevice: 76 } }),
  row({ operation: 'receive', backend: 'on-device', counters: { ...PLAIN, ...ACCESSES } }),
  row({ backend: 'virtio-iommu', counters: iommu }),
  row({ backend: 'virtio-iommu-lazy', counters: { ...iommu, synchronousCommits: 0.25 } }),
])

describe('a cost report', () => {
  const report = costReport(REPORT, 'trap', { iommuWait: 8 })

  test('has a row for each result of a scheme, with what was measured and what is modelled apart', () => {
    const { rows } = report
    expect(rows.map(({ backend }) => backend)).toEqual(REPORT.results.slice(1).map(({ backend }) => backend))
    expect(rows[4]).toMatchObject({ measuredNs: 100, modelled: { iommuWaits: 4 } })
  })

  test('says which causes no result counts', () => {
    expect(report.notCounted).toEqual(['dmaReads', 'interrupts', 'iotlbMisses', 'pageConversions', 'lineTransfers'])
  })

  test('carries each parameter with its value and source, and says which ones the user set', () => {
    const { parameters } = report
    expect(parameters.iommuWait).toEqual({ value: 8, unit: 'ns', source: 'Set by the user.' })
    expect(parameters.vmExit.source).toContain('2,528 cycles')
  })

  test('simulates each scheme with the sum of the causes that it names', () => {
    const { overcommit, rows } = report
    expect([...new Set(overcommit.rows.map(({ backend }) => backend))]).toEqual(['direct', 'shared-pool', 'on-device'])
    const onDevice = overcommit.rows.find(({ backend }) => backend === 'on-device')
    expect(onDevice?.causes).toEqual(['copies', 'clears', 'deviceMemoryReads', 'deviceMemoryWrites', 'doorbells'])
    const { modelled } = rows.find(({ backend }) => backend === 'on-device') as CostReport['rows'][number]
    expect(onDevice?.bounce).toBe((modelled.deviceMemoryReads ?? 0) + (modelled.deviceMemoryWrites ?? 0))
  })

  test('leaves memory on the device out of the simulation where its accesses were not counted', () => {
    const results = REPORT.results.map((one) => (one.backend === 'on-device' ? { ...one, counters: PLAIN } : one))
    const { overcommit } = costReport({ ...REPORT, results }, 'trap')
    expect(overcommit.rows.filter(({ backend }) => backend === 'on-device')).toEqual([])
  })

  test('is the same for the same input', () => {
    expect(costReport(REPORT, 'trap', { iommuWait: 8 })).toEqual(report)
  })
})

describe('its text', () => {
  const text = (results = REPORT.results): string => formatCosts(costReport({ ...REPORT, results }, 'pcie-wc'), pipe)

  test('has the measured time in a column of its own, before one for each cause that is counted', () => {
    const titles = text()
      .split('\n')
      .find((line) => line.startsWith('backend')) as string
    expect(titles.trim().split(/ {2,}/)).toEqual([
      'backend',
      'measured',
      ...(
        ['copies', 'clears', 'deviceMemoryReads', 'deviceMemoryWrites', 'deviceLocalReads', 'doorbells'] as const
      ).map((cause) => CAUSES[cause].title),
      CAUSES.iommuRequests.title,
      CAUSES.iommuWaits.title,
    ])
  })

  test('names the counters that are missing, and the parameters that each answer depends on', () => {
    const told = text()
    expect(told).toContain('not counted here: interrupts (needs the counter interrupts)')
    expect(told.match(/Depends on: /g)?.length).toBe(4)
    expect(told).toContain('Depends on: iommuWait, iommuRequest.')
  })

  test('says that a report was partial', () => {
    const partial = { ...REPORT, results: [row()] }
    const told = (complete: boolean): string => formatCosts(costReport({ ...partial, complete }, 'trap'), pipe)
    expect(told(false)).toContain('PARTIAL')
    expect(told(true)).not.toContain('PARTIAL')
  })

  test('says why there is no answer where results are missing', () => {
    const told = text([row()])
    expect(told).toContain('No answer: the file has no result of on-device')
    expect(told).toContain('No answer: the file has no pair of results')
    expect(told).toContain('No answer: the file has no result of received frames')
  })

  test('has a verdict that follows the parameters', () => {
    const verdict = (uncachedRead: number): string | undefined =>
      /wins at none of these sizes|wins at: [^.]*/.exec(
        formatCosts(costReport(REPORT, 'pcie-wc', { uncachedRead }), pipe).replaceAll('\n', ' '),
      )?.[0]
    expect(verdict(1e6)).toBe('wins at none of these sizes')
    expect(verdict(0)).toContain('receive of 64')
  })
})

describe('guestdma-bench model', () => {
  let dir: string
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'guestdma-cost-test-'))
    writeFileSync(join(dir, 'report.json'), JSON.stringify(REPORT))
  })
  afterEach(() => rmSync(dir, { recursive: true }))

  const model = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
    spawnSync(process.execPath, [cli, 'model', ...args], { cwd: dir, encoding: 'utf8' })

  test('takes parameters from the profile, then from the file, then from the command line', () => {
    writeFileSync(join(dir, 'own.json'), '{ "vmExit": 1, "interrupt": 2 }')
    const args = [
      'report.json',
      '--profile',
      'trap',
      '--params',
      'own.json',
      '--set',
      'interrupt=3',
      '--json',
      'out.json',
    ]
    const { status, stderr } = model(...args)
    expect([status, stderr]).toEqual([0, ''])
    const { schema, profile, parameters } = JSON.parse(readFileSync(join(dir, 'out.json'), 'utf8')) as CostReport
    expect([schema, profile]).toEqual(['guestdma-model-1', 'trap'])
    expect([parameters.vmExit, parameters.interrupt, parameters.uncachedRead].map(({ value }) => value)).toEqual([
      1, 3, 1000,
    ])
  })

  test.each([
    [['report.json', '--profile', 'pci'], 'MODEL_PROFILE'],
    [['report.json', '--set', 'exit=1'], 'MODEL_PARAMETER'],
    [['report.json', '--set', 'vmExit=-1'], 'MODEL_VALUE'],
    [['report.json', '--params', 'none.json'], 'MODEL_FILE'],
    [['none.json'], 'REPORT_FILE'],
    [['other.json'], 'REPORT_SCHEMA'],
    [['bare.json'], 'MODEL_COUNTER'],
    [['report.json', '--json', 'report.json'], 'OUTPUT_IS_INPUT'],
  ])('%j is refused with %s, and writes nothing', (args, code) => {
    writeFileSync(join(dir, 'other.json'), '{ "schema": "guestdma-heap-1" }')
    writeFileSync(join(dir, 'bare.json'), JSON.stringify(reportOf([row({ counters: {} })])))
    const { status, stdout, stderr } = model(...args)
    expect([status, stdout]).toEqual([2, ''])
    expect(stderr).toContain(`(${code})`)
    expect(readFileSync(join(dir, 'report.json'), 'utf8')).toBe(JSON.stringify(REPORT))
  })
})
