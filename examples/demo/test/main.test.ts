import { execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { copyFile, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { SCHEMES } from '../src/schemes.ts'

const main = fileURLToPath(new URL('../src/main.ts', import.meta.url))
const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
const ids = Object.keys(SCHEMES)

interface Outcome {
  readonly code: number
  readonly out: string
  readonly err: string
}

/** Runs the demo as a user does whose output is no terminal. */
function demo(...args: readonly string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    const { FORCE_COLOR: _, ...env } = process.env
    execFile(process.execPath, [main, ...args], { env }, (error, out, err) =>
      resolve({ code: error === null ? 0 : Number(error.code), out, err }),
    )
  })
}

describe('demo: the whole of it', () => {
  let dir: string
  let ran: Outcome
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'guestdma-demo-test-'))
    ran = await demo('--json', join(dir, 'results.json'), '--out', join(dir, 'frames'))
    // A loaded machine may be slow.
  }, 30_000)
  afterAll(() => rm(dir, { recursive: true }))

  test('ends well, and says nothing beside its output', () => {
    expect([ran.code, ran.err]).toEqual([0, ''])
  })

  test('has every scheme in each of its three lists', () => {
    const firstWords = ran.out.split('\n').map((line) => line.split(' ')[0])
    for (const id of ids) expect(firstWords.filter((word) => word === id).length, id).toBe(3)
  })

  test('is plain text of at most 120 columns, without trailing blanks', () => {
    expect(ran.out).not.toContain('\u001b')
    // The directory is the user's own.
    const lines = ran.out.split('\n').filter((line) => !line.startsWith('Frames as they arrived'))
    expect(lines.filter((line) => line.length > 120 || line !== line.trimEnd())).toEqual([])
  })

  test('--json: all of it as plain data', async () => {
    const { schema, complete, transport, results, exposures, refusals } = JSON.parse(
      await readFile(join(dir, 'results.json'), 'utf8'),
    )
    expect([schema, complete, transport]).toEqual(['guestdma-demo-3', true, 'mmio'])
    expect(results.map(({ scheme }: { scheme: string }) => scheme)).toEqual(ids)
    expect(exposures.map(({ scheme }: { scheme: string }) => scheme)).toEqual(ids)
    expect(results[0].net).toMatchObject({ identical: true, costs: { bytesCopied: 0 } })
    expect(exposures[0].neighbour).toEqual({ outcome: 'secret read', faults: 0 })
    expect(refusals.map(({ error }: { error: { code: string } }) => error.code)).toEqual([
      'DMA_NO_USABLE_BACKEND',
      'DRIVER_DEVICE_BROKEN',
      'DMA_DOWNGRADE_REFUSED',
    ])
  })

  test('--out: the frames that arrived over each scheme, as they were sent', async () => {
    expect((await readdir(join(dir, 'frames'))).sort()).toEqual(ids.map((id) => `${id}.pcap`).sort())
    const sent = await readFile(new URL('../fixtures/traffic.pcap', import.meta.url))
    for (const id of ids) expect(sent.equals(await readFile(join(dir, 'frames', `${id}.pcap`))), id).toBe(true)
  })
})

describe('demo: its command line', () => {
  test('--help names every scheme and every option', async () => {
    const { code, out } = await demo('--help')
    expect(code).toBe(0)
    for (const word of [...ids, '--scheme', '--transport', '--pcap', '--disk', '--out', '--write', '--json'])
      expect(out).toContain(word)
  })

  test.each([
    ['DEMO_TRANSPORT', ['--transport', 'isa'], 'mmio, pci'],
    ['DEMO_SCHEME', ['--scheme', 'swiotlb'], 'shared-pool'],
    ['DEMO_USAGE', ['--schema', 'direct'], '--help'],
    ['DEMO_FILE', ['--pcap', '/nowhere/at/all.pcap'], 'no such file'],
    ['DEMO_WRITE', ['--write'], '--disk'],
    ['DEMO_WRITE', ['--write', '--disk', fixture('disk.ext4')], '--disk'],
    ['OUTPUT_NO_DIRECTORY', ['--json', '/nowhere/at/all.json'], '/nowhere/at'],
    ['OUTPUT_IS_INPUT', ['--json', fixture('traffic.pcap')], '--pcap'],
    ['OUTPUT_NO_DIRECTORY', ['--out', fixture('disk.ext4')], 'a file'],
  ])('%s: what is wrong and what is possible', async (code, args, advice) => {
    const ran = await demo(...args)
    expect([ran.code, ran.out]).toEqual([2, ''])
    expect(ran.err).toMatch(/^demo: .*\n$/)
    expect(ran.err).toContain(code)
    expect(ran.err).toContain(advice)
  })
})

describe('demo: large and unusable inputs, and early ends', () => {
  let dir: string
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'guestdma-demo-test-'))
  })
  afterEach(() => rm(dir, { recursive: true }))

  test('a large image that is no ext4 is refused by its header, before the capture is read', async () => {
    const disk = join(dir, 'large.img')
    await writeFile(disk, '')
    await truncate(disk, 2 ** 40)
    const ran = await demo('--disk', disk)
    expect([ran.code, ran.out]).toEqual([2, ''])
    expect(ran.err).toContain('EXT4_MAGIC')
  })

  test('a capture without frames is refused', async () => {
    const pcap = join(dir, 'empty.pcap')
    await writeFile(pcap, (await readFile(fixture('traffic.pcap'))).subarray(0, 24))
    const ran = await demo('--pcap', pcap)
    expect([ran.code, ran.out]).toEqual([2, ''])
    expect(ran.err).toContain('PCAP_NO_FRAMES')
  })

  test('SIGINT keeps the schemes that are done, marks them as partial and leaves no other file', async () => {
    // A disk that takes some seconds, beyond its file system.
    const disk = join(dir, 'disk.ext4')
    await copyFile(fixture('disk.ext4'), disk)
    await truncate(disk, 256 << 20)
    const json = join(dir, 'results.json')
    const out = join(dir, 'frames')
    const child = spawn(process.execPath, [main, '--disk', disk, '--json', json, '--out', out], { stdio: 'ignore' })
    const ended = new Promise((resolve) => child.on('close', resolve))
    while (!existsSync(json)) await new Promise((resolve) => setTimeout(resolve, 20))
    child.kill('SIGINT')
    expect(await ended).toBe(130)
    const { complete, results } = JSON.parse(await readFile(json, 'utf8'))
    expect(complete).toBe(false)
    const done = results.map(({ scheme }: { scheme: string }) => scheme)
    expect(done.length).toBeGreaterThan(0)
    expect(done.length).toBeLessThan(ids.length)
    for (const file of await readdir(out)) expect(file).toMatch(/^[a-z-]+\.pcap$/)
    expect((await readdir(dir)).sort()).toEqual(['disk.ext4', 'frames', 'results.json'])
  })
})
