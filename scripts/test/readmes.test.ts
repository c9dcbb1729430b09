import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packagesIn, repository } from '../lib/workspace.ts'

const run = promisify(execFile)
const packages = packagesIn(repository, 'packages')

/** Every `ts` block of the READMEs that users see, as a file of its own. */
const snippets = ['.', ...packages.map(({ dir }) => dir)].flatMap((dir) => {
  const text = readFileSync(join(repository, dir, 'README.md'), 'utf8')
  return [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code], i) => ({
    readme: join(dir, 'README.md'),
    file: `${dir === '.' ? 'root' : dir.replace('packages/', '')}-${i}.ts`,
    code,
  }))
})

// A user's project, with all packages installed.
let project = ''
beforeAll(() => {
  project = mkdtempSync(join(tmpdir(), 'guestdma-readmes-'))
  writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }')
  const installed = [
    ...packages.map(({ dir, manifest }) => ({ name: manifest.name, dir })),
    ...['vitest', '@types/node'].map((name) => ({ name, dir: `node_modules/${name}` })),
  ]
  for (const { name, dir } of installed) {
    const link = join(project, 'node_modules', name)
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(join(repository, dir), link)
  }
  for (const { file, code } of snippets) writeFileSync(join(project, file), code)
})
afterAll(() => rmSync(project, { recursive: true }))

describe('what stands in a README works as it stands', () => {
  test('every package has a snippet', () => {
    const shown = new Set(snippets.map(({ readme }) => dirname(readme)))
    expect(packages.map(({ dir }) => dir).filter((dir) => !shown.has(dir))).toEqual([])
  })

  test('every snippet has the right types', async () => {
    const options = { target: 'ES2022', module: 'nodenext', lib: ['ES2023'], types: ['node'], strict: true }
    const compilerOptions = { ...options, noEmit: true, allowImportingTsExtensions: true, skipLibCheck: true }
    const config = join(project, 'tsconfig.json')
    writeFileSync(config, JSON.stringify({ compilerOptions, files: snippets.map(({ file }) => file) }))
    const tsc = join(repository, 'node_modules/typescript/bin/tsc')
    const printed = await run(process.execPath, [tsc, '-p', config], { cwd: project }).then(
      () => '',
      ({ stdout }: { stdout: string }) => stdout,
    )
    expect(printed).toBe('')
  })

  // A suite runs in its test runner.
  test.each(snippets.filter(({ code }) => !code.includes("'vitest'")))('$readme runs: $file', async ({ file }) => {
    await run(process.execPath, [join(project, file)], { cwd: project })
  })
})
