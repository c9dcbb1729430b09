import { execFile, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { BenchReport } from '../src/contract/result.ts'
import { schemesIn } from '../src/harness/own-schemes.ts'

const path = (name: string): string => fileURLToPath(new URL(name, import.meta.url))
const cli = path('../src/cli.ts')
const own = path('support/own-scheme.ts')

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'guestdma-own-scheme-'))
})
afterEach(() => rmSync(dir, { recursive: true }))

describe("a scheme of one's own", () => {
  test('is measured beside one that comes along, and ratios are to that one', { timeout: 60_000 }, async () => {
    const json = join(dir, 'report.json')
    const args = ['--scheme', own, '--against', 'shared-pool', '--only', 'net transmit 64 32 map split warm', '--quick']
    const { stdout } = await promisify(execFile)(process.execPath, [cli, ...args, '--json', json])
    const { complete, results } = JSON.parse(readFileSync(json, 'utf8')) as BenchReport
    expect(complete).toBe(true)
    expect(results.map(({ backend, counters }) => [backend, counters.bytesCopiedToDevice])).toEqual([
      ['own', 0],
      ['shared-pool', 76],
    ])
    expect(stdout).toContain('× shared-pool')
  })

  test.each([
    [{ scheme: () => ({ id: 'one' }) }, ['one']],
    [{ schemes: { any: () => ({ id: 'a' }), name: () => ({ id: 'b' }) } }, ['a', 'b']],
    [{ twoScheme: () => ({ id: 'two' }), helper: () => 1, SchemeOptions: 2 }, ['two']],
  ])('is found among the exports of its module', (exports, ids) => {
    expect(Object.keys(schemesIn(exports, 'x.ts'))).toEqual(ids)
  })

  test.each([
    ['BENCH_FILE', ['--scheme', './none.ts'], undefined],
    ['BENCH_FILE', ['--scheme'], 'import nothing'],
    ['BENCH_SCHEME', ['--scheme'], 'export const other = 1'],
    ['BENCH_SCHEME', ['--scheme'], 'export const scheme = () => ({})'],
    ['BENCH_SCHEME', ['--scheme', 'bounce'], undefined],
    ['BENCH_SCHEME', ['--against', 'bounce'], undefined],
    ['BENCH_USAGE', ['--quick', '--full'], undefined],
    ['BENCH_USAGE', ['--shard', '3/2'], undefined],
    ['BENCH_USAGE', ['--shard', '1'], undefined],
    ['BENCH_USAGE', ['--repeat', '0'], undefined],
    ['BENCH_USAGE', ['--only', 'net 65'], undefined],
    ['OUTPUT_IS_INPUT', ['--json', '/x/scheme.mjs', '--scheme'], 'export const scheme = () => ({ id: "x" })'],
  ])('%s: %j ends with exit code 2 before anything is done', (code, args, text) => {
    const file = join(dir, 'scheme.mjs')
    if (text !== undefined) writeFileSync(file, text)
    const whole = [...args, ...(text === undefined ? [] : [file])].map((arg) => arg.replace('/x/scheme.mjs', file))
    const { status, stdout, stderr } = spawnSync(process.execPath, [cli, ...whole], { encoding: 'utf8' })
    expect([status, stdout]).toEqual([2, ''])
    expect(stderr).toContain(code)
    if (text !== undefined) expect(readFileSync(file, 'utf8')).toBe(text)
  })
})
