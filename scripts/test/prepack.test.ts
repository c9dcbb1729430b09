import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const script = fileURLToPath(new URL('../prepack.mjs', import.meta.url))
let folder = ''

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'guestdma-prepack-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

function write(file: string, second: number): void {
  const path = join(folder, file)
  mkdirSync(join(path, '..'), { recursive: true })
  writeFileSync(path, '')
  utimesSync(path, second, second)
}

function prepack(agent: string): { status: number | null; said: string } {
  const env = { ...process.env, npm_config_user_agent: agent }
  const { status, stderr } = spawnSync(process.execPath, [script], { cwd: folder, env, encoding: 'utf8' })
  return { status, said: stderr }
}

describe('prepack: a tarball that nobody could use is refused', () => {
  test('built after the last change, it may be packed with pnpm', () => {
    write('src/index.ts', 100)
    write('src/pci/function.ts', 100)
    write('dist/index.js', 101)
    write('dist/pci/function.js', 101)
    expect(prepack('pnpm/12.21.0 node/v26.10.0')).toEqual({ status: 0, said: '' })
  })

  test.each([
    ['nothing was built', []],
    ['a file is new', ['dist/index.js']],
  ])('%s', (_what, built) => {
    write('src/index.ts', 100)
    write('src/pci/function.ts', 100)
    for (const file of built) write(file, 101)
    const { status, said } = prepack('pnpm/12.21.0')
    expect(status).toBe(1)
    expect(said).toMatch(/Refused: dist is missing or older than src \(src.*\)\.\nRun `pnpm build`/)
  })

  test('a file changed after the build', () => {
    write('src/index.ts', 102)
    write('dist/index.js', 101)
    expect(prepack('pnpm/12.21.0')).toMatchObject({ status: 1, said: expect.stringContaining('src/index.ts') })
  })

  test.each(['npm/10.8.2 node/v20.20.2', ''])('with another tool: %j', (agent) => {
    write('src/index.ts', 100)
    write('dist/index.js', 101)
    expect(prepack(agent)).toMatchObject({ status: 1, said: expect.stringContaining('with pnpm, not with') })
  })
})
