import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type CaseResult, matrixPage, type PeersReport, runMatrix } from '@guestdma/peers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { cases, peers } from './support/cases.ts'

const run = promisify(execFile)
const module = new URL('./support/cases.ts', import.meta.url)
const worker = new URL('../src/case-worker.ts', import.meta.url)
const cli = fileURLToPath(new URL('../src/cli.ts', import.meta.url))

describe('a matrix of cases, each in a process of its own', () => {
  let report: PeersReport
  const of = (what: string): CaseResult => report.results.find((one) => one.what === what) as CaseResult
  beforeAll(async () => {
    report = await runMatrix({ peers, cases }, { module, worker })
  }, 30_000)

  test('one that returns passes', () => {
    expect(of('passes')).toMatchObject({ outcome: 'pass', reason: '', version: process.versions.node })
  })

  test('what a case records is part of its result, and of no other', () => {
    expect(of('passes').figures).toEqual({ requests: 4, reach: 'a pool' })
    expect(report.results.filter(({ figures }) => figures !== undefined)).toHaveLength(1)
  })

  test('one that throws fails with its message', () => {
    expect(of('throws')).toMatchObject({ outcome: 'fail', reason: 'byte 3 is 5 where 7 was written' })
  })

  test('one that hangs fails at its deadline, with what was seen last', () => {
    const reason = 'it did not end within 1.5 s; last seen: the doorbell of queue 1'
    expect(of('hangs')).toMatchObject({ outcome: 'fail', reason })
  })

  test('one that cannot run here is skipped with its reason', () => {
    expect(of('skips')).toMatchObject({ outcome: 'skip', reason: 'no KVM here' })
  })

  test('one whose process dies fails alone, with what was seen and printed last', () => {
    const reason = 'its process ended with SIGKILL; last seen: register 0x70; out of luck'
    expect(of('dies')).toMatchObject({ outcome: 'fail', reason })
  })

  test('what a peer prints is not taken for a result', () => {
    expect(of('prints').outcome).toBe('pass')
  })

  test('a peer that is not installed is skipped, and the packages and the command that bring it are named', () => {
    const reason = 'not installed: apt-get install one two && make three'
    expect(of('')).toMatchObject({ outcome: 'skip', version: '', reason })
  })

  test('the page has a row for each case, and counts them', () => {
    const page = matrixPage(report)
    expect(page).toContain(`2 cases passed, 3 failed and 2 were skipped, with here ${process.versions.node}, nowhere.`)
    expect(page.split('\n').filter((line) => line.startsWith('| here') || line.startsWith('| nowhere'))).toHaveLength(7)
  })

  test('a run that is ended is marked as not complete, and keeps what it has', async () => {
    const stop = new AbortController()
    const ended = await runMatrix(
      { peers, cases },
      { module, worker, signal: stop.signal, onResult: () => stop.abort() },
    )
    expect([ended.complete, ended.results.length]).toEqual([false, 1])
  })

  test.each([
    ['two cases with the same labels', { peers, cases: [cases[0], cases[0]] }, 'PEERS_CASE_TWICE'],
    ['a case of an unknown peer', { peers: [], cases: [cases[0]] }, 'PEERS_UNKNOWN_PEER'],
  ])('%s: refused before anything is run', async (_what, found, code) => {
    await expect(runMatrix(found, { module, worker })).rejects.toMatchObject({ code })
  })
})

describe('the command', () => {
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-peers-'))
  afterAll(() => rmSync(dir, { recursive: true }))
  const command = (...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> =>
    run(process.execPath, [cli, ...args]).then(
      ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
      ({ code, stdout, stderr }: { code: number; stdout: string; stderr: string }) => ({ code, stdout, stderr }),
    )

  test('runs what matches all words, writes JSON and a page, and ends with 0 where nothing failed', async () => {
    const [json, page] = [join(dir, 'peers.json'), join(dir, 'peers.md')]
    const args = [fileURLToPath(module), '--only', 'here passes', '--json', json, '--markdown', page]
    const { code, stdout } = await command(...args)
    expect([code, stdout.split('\n').at(-2)]).toEqual([0, '1 passed, 0 failed, 0 skipped'])
    const written = JSON.parse(readFileSync(json, 'utf8')) as PeersReport
    expect(written).toMatchObject({ schema: 'guestdma-peers-1', complete: true })
    expect(written.results.map(({ what }) => what)).toEqual(['passes'])
    expect(readFileSync(page, 'utf8')).toBe(matrixPage(written))
  })

  test('ends with 1 where a case failed, and says why', async () => {
    const { code, stdout } = await command(fileURLToPath(module), '--only', 'throws')
    expect(code).toBe(1)
    expect(stdout.replaceAll(/\s+/g, ' ')).toContain('failed: byte 3 is 5 where 7 was written')
  })

  test.each([
    ['0', []],
    ['1, where all are asked for,', ['--all']],
  ])('ends with %s where a case was skipped', async (_code, more) => {
    const { code, stdout } = await command(fileURLToPath(module), '--only', 'nowhere', ...more)
    expect([code, stdout.split('\n').at(-2)]).toEqual([more.length, '0 passed, 0 failed, 1 skipped'])
    expect(stdout).toContain('apt-get install one two')
  })

  test('names the cases', async () => {
    const { code, stdout } = await command(fileURLToPath(module), '--list')
    expect([code, stdout.split('\n').length]).toEqual([0, cases.length + 1])
  })

  test.each([
    ['words that no case matches', ['--only', 'nothing'], 'PEERS_USAGE'],
    ['an unknown option', ['--onyl'], 'PEERS_USAGE'],
    ['a place that cannot be written', ['--json', '/nowhere/at/all.json'], 'OUTPUT_NO_DIRECTORY'],
  ])('refuses %s', async (_what, args, code) => {
    const refused = await command(fileURLToPath(module), ...args)
    expect(refused.code).toBe(2)
    expect(refused.stderr).toContain(`(${code})`)
  })
})
