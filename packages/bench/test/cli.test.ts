import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { BenchReport } from '../src/contract/result.ts'

const path = (name: string): string => fileURLToPath(new URL(name, import.meta.url))
const cli = path('../src/cli.ts')
const frames = path('support/frames.ts')
const faulty = path('support/faulty.ts')

let dir: string
let json: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'guestdma-bench-test-'))
  json = join(dir, 'report.json')
})
afterEach(() => rmSync(dir, { recursive: true }))

function start(...args: string[]): {
  child: ChildProcess
  ended: Promise<{ code: number | null; out: string; err: string }>
} {
  const child = spawn(process.execPath, [cli, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let out = ''
  let err = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text))
  return { child, ended: new Promise((resolve) => child.on('close', (code) => resolve({ code, out, err }))) }
}

const report = (): BenchReport => JSON.parse(readFileSync(json, 'utf8'))

async function someResults(): Promise<void> {
  while (!existsSync(json) || report().results.length === 0) await new Promise((resolve) => setTimeout(resolve, 20))
}

test('the scenario of the README is the one that is run here', () => {
  const readme = readFileSync(path('../README.md'), 'utf8')
  expect(readme).toContain(`\`\`\`ts\n${readFileSync(frames, 'utf8')}\`\`\`\n`)
})

describe('run', () => {
  test("measures a scenario of one's own over each backend that it names, in as many processes as are asked for", async () => {
    const { code, out, err } = await start('run', frames, '--quick', '--repeat', '2', '--json', json).ended
    expect([code, err]).toEqual([0, ''])
    expect(out).toContain('net burst, pool, split, warm, 64 bytes, batch 8')
    expect(report()).toMatchObject({ schema: 'guestdma-bench-3', complete: true, failures: [] })
    expect(report().results.map(({ backend, counters }) => [backend, counters])).toEqual([
      ['direct', { framesSent: 1, barriers: 3 / 8, orderedLoads: 6 / 8 }],
      ['shared-pool', { framesSent: 1, barriers: 3 / 8, orderedLoads: 6 / 8 }],
    ])
    for (const { processMedians = [], nsPerOperation } of report().results) {
      expect(processMedians.length).toBe(2)
      expect(Math.min(...processMedians)).toBe(nsPerOperation.median)
    }
  })

  test('a case whose process ends is named, and the others are measured', async () => {
    const { code, out } = await start('run', faulty, '--quick', '--only', 'crash', '--json', json).ended
    expect(code).toBe(1)
    expect(out).toContain('FAILED: own crash, only, split, warm, 128 bytes')
    const { complete, results, failures } = report()
    expect(complete).toBe(false)
    expect(results.map(({ bytes }) => bytes)).toEqual([64, 256])
    expect(failures).toMatchObject([
      { subject: { bytes: 128 }, message: expect.stringContaining('this case is faulty') },
    ])
  })

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s keeps what was measured, marks it as partial and leaves no other file', async (name, exit) => {
    const { child, ended } = start('run', faulty, '--quick', '--only', 'long', '--json', json)
    await someResults()
    child.kill(name)
    const { code, out } = await ended
    expect(code).toBe(exit)
    expect(out).toContain('PARTIAL')
    expect(report().complete).toBe(false)
    expect(report().results.length).toBeGreaterThan(0)
    expect(report().results.length).toBeLessThan(200)
    expect(readdirSync(dir)).toEqual(['report.json'])
  })

  test.skipIf(process.platform !== 'linux')('a worker ends when its parent was killed', async () => {
    const { child, ended } = start('run', faulty, '--quick', '--only', 'long', '--json', json)
    await someResults()
    const children = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim().split(' ')
    expect(children.length).toBe(1)
    child.kill('SIGKILL')
    await ended
    while (existsSync(`/proc/${children[0]}`)) await new Promise((resolve) => setTimeout(resolve, 20))
  })
})

test.each([
  ['BENCH_USAGE', () => ['--schema']],
  ['BENCH_SCENARIOS', () => ['run', path('../src/harness/environment.ts')]],
  ['OUTPUT_NO_DIRECTORY', () => ['run', frames, '--json', join(dir, 'none/report.json')]],
  ['OUTPUT_IS_DIRECTORY', () => ['run', frames, '--json', dir]],
])('%s ends with exit code 2 before anything is done', async (code, args) => {
  const ran = await start(...args()).ended
  expect([ran.code, ran.out]).toEqual([2, ''])
  expect(ran.err).toContain(code)
})
