import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { reportOf, row } from '../support/cost-rows.ts'

const cli = fileURLToPath(new URL('../../src/cli.ts', import.meta.url))
const { backend, nsPerOperation, samples, bytesAllocatedPerOperation, counters, ...work } = row()
const gate = (atMost: number): object => ({
  schema: 'guestdma-gate-1',
  gates: [{ ...work, against: 'direct', ratioAtMost: { direct: atMost } }],
})
const part = (index: number): object => ({
  ...reportOf([row({ bytes: index })]),
  shard: { index, of: 2, total: 2 },
})
const FILES = {
  'a.json': reportOf([row({ processMedians: [100, 101] })]),
  'b.json': reportOf([row({ processMedians: [120, 121] })]),
  'machine.json': { ...reportOf([row()]), environment: { ...reportOf([]).environment, cpu: 'another CPU' } },
  'other.json': { schema: 'guestdma-heap-1' },
  'bare.json': { schema: 'guestdma-bench-3' },
  'wide.json': gate(1),
  'narrow.json': gate(0.5),
  '1.json': part(1),
  '2.json': part(2),
}

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'guestdma-commands-test-'))
  for (const [name, content] of Object.entries(FILES)) writeFileSync(join(dir, name), JSON.stringify(content))
})
afterEach(() => rmSync(dir, { recursive: true }))

const run = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
  spawnSync(process.execPath, [cli, ...args], { cwd: dir, encoding: 'utf8' })
const written = (): unknown => JSON.parse(readFileSync(join(dir, 'out.json'), 'utf8'))

describe('compare', () => {
  test('prints ratios with their intervals and writes them', () => {
    const { status, stdout, stderr } = run('compare', 'a.json', 'b.json', '--json', 'out.json')
    expect([status, stderr]).toEqual([0, ''])
    expect(stdout).toMatch(/^direct +100\.5 +120\.5 +2 \/ 2 +1\.199 .* slower$/m)
    expect(written()).toMatchObject({ schema: 'guestdma-comparison-2', differences: [], rows: [{ change: 'slower' }] })
  })

  test('warns where it was forced to compare different machines', () => {
    const { status, stderr } = run('compare', 'a.json', 'machine.json', '--force', '--json', 'out.json')
    expect(status).toBe(0)
    expect(stderr.replaceAll('\n', ' ')).toContain("WARNING: the environments differ, cpu: 'a CPU' and 'another CPU'")
    expect(written()).toMatchObject({ differences: ["cpu: 'a CPU' and 'another CPU'"] })
  })
})

describe('gate', () => {
  test('ends with exit code 0 where all checks pass', () => {
    const { status, stdout } = run('gate', 'a.json', 'wide.json', '--json', 'out.json')
    expect([status, stdout]).toEqual([0, 'All 1 checks passed.\n'])
    expect(written()).toMatchObject({ schema: 'guestdma-gate-result-1', passed: true })
  })

  test('ends with exit code 1 and a table where one fails, and writes that', () => {
    const { status, stdout } = run('gate', 'a.json', 'narrow.json', '--json', 'out.json')
    expect(status).toBe(1)
    expect(stdout).toMatch(/^direct +time \/ direct +1\.000 +0\.500$/m)
    expect(written()).toMatchObject({ passed: false })
  })
})

describe('merge', () => {
  test('writes a report that the other commands read', () => {
    expect(run('merge', '2.json', '1.json', '--json', 'out.json').status).toBe(0)
    expect(written()).toMatchObject({ complete: true, results: [{ bytes: 1 }, { bytes: 2 }] })
    expect(run('compare', 'out.json', 'out.json').status).toBe(0)
  })

  test('prints nothing from a file that would control a terminal', () => {
    const failures = [{ subject: row({ bytes: 9, driver: '\u001b[31m' }), message: 'two\n\u009blines' }]
    const environment = { ...reportOf([]).environment, cpu: '\u0007' }
    const report = { ...part(1), environment, results: [row({ operation: '\r' })], failures, complete: false }
    writeFileSync(join(dir, '1.json'), JSON.stringify(report))
    const { status, stdout } = run('merge', '1.json', '--force')
    expect(status).toBe(1)
    expect(stdout.replaceAll('\n', '')).not.toMatch(/\p{Cc}/u)
  })

  test('ends with exit code 1 where the report is partial', () => {
    const { status, stdout } = run('merge', '2.json', '--force', '--json', 'out.json')
    expect(status).toBe(1)
    expect(stdout).toContain('PARTIAL')
    expect(written()).toMatchObject({ complete: false })
  })
})

test.each(['compare', 'gate', 'merge'])('%s --help tells of its files, options and exit codes', (command) => {
  const { status, stdout } = run(command, '--help')
  expect(status).toBe(0)
  for (const told of [`usage: guestdma-bench ${command}`, '--json FILE', 'Exit code 0']) expect(stdout).toContain(told)
  expect(Math.max(...stdout.split('\n').map((line) => line.length))).toBeLessThanOrEqual(80)
})

test.each([
  ['BENCH_USAGE', ['compare', 'a.json']],
  ['BENCH_USAGE', ['compare', 'a.json', 'b.json', '1.json']],
  ['BENCH_USAGE', ['compare', 'a.json', 'b.json', '--faster']],
  ['BENCH_USAGE', ['gate', 'a.json']],
  ['BENCH_USAGE', ['merge']],
  ['REPORT_FILE', ['compare', 'none.json', 'a.json']],
  ['REPORT_FILE', ['gate', 'a.json', 'none.json']],
  ['REPORT_FILE', ['merge', '1.json', 'none.json']],
  ['REPORT_SCHEMA', ['compare', 'a.json', 'other.json']],
  ['REPORT_SCHEMA', ['gate', 'wide.json', 'a.json']],
  ['REPORT_SCHEMA', ['merge', 'other.json']],
  ['REPORT_FIELD', ['compare', 'a.json', 'bare.json']],
  ['REPORT_ENVIRONMENT', ['compare', 'a.json', 'machine.json']],
  ['REPORT_NO_CASE', ['compare', 'a.json', '1.json']],
  ['REPORT_PARTS', ['merge', '1.json']],
  ['REPORT_PARTS', ['merge', '1.json', '1.json']],
  ['REPORT_PARTS', ['merge', 'a.json']],
])('%s: %j ends with exit code 2 and writes nothing', (code, args) => {
  const { status, stdout, stderr } = run(...args, '--json', 'out.json')
  expect([status, stdout]).toEqual([2, ''])
  expect(stderr).toContain(`(${code})`)
  expect(readdirSync(dir).sort()).toEqual(Object.keys(FILES).sort())
})

test.each([
  ['compare', 'a.json', 'b.json', 'b.json'],
  ['gate', 'a.json', 'wide.json', 'wide.json'],
  ['merge', '1.json', '2.json', './1.json'],
])('%s %s %s does not overwrite %s, which it reads', (command, one, other, output) => {
  const { status, stderr } = run(command, one, other, '--json', output)
  expect([status, stderr]).toEqual([2, expect.stringContaining('(OUTPUT_IS_INPUT)')])
  for (const [name, content] of Object.entries(FILES))
    expect(readFileSync(join(dir, name), 'utf8')).toBe(JSON.stringify(content))
})
