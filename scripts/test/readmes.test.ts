import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
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

/** Every `@example` of a docstring, in a function of its own. What it takes from around it stays without a type. */
const examples = packages.flatMap(({ dir, manifest }) =>
  readdirSync(join(repository, dir, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .flatMap((file) => {
      const text = readFileSync(join(repository, dir, 'src', file), 'utf8')
      return [...text.matchAll(/ \* @example\n((?: +\* (?!@).*\n)+)/g)].map(([, lines], i) => {
        const code = lines.replaceAll(/^ +\* /gm, '')
        return { file: `example-${manifest.name.replace(/.*\//, '')}-${file.replaceAll(/[/.]/g, '-')}-${i}.ts`, code }
      })
    }),
)

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

  const compiled = async (files: readonly { file: string }[]): Promise<string[]> => {
    const options = { target: 'ES2022', module: 'nodenext', lib: ['ES2023', 'ESNext.Disposable'], types: ['node'] }
    const compilerOptions = {
      ...options,
      strict: true,
      noEmit: true,
      allowImportingTsExtensions: true,
      skipLibCheck: true,
    }
    const config = join(project, 'tsconfig.json')
    writeFileSync(config, JSON.stringify({ compilerOptions, files: files.map(({ file }) => file) }))
    const tsc = join(repository, 'node_modules/typescript/bin/tsc')
    const printed = await run(process.execPath, [tsc, '-p', config, '--pretty', 'false'], { cwd: project }).then(
      () => '',
      ({ stdout }: { stdout: string }) => stdout,
    )
    return printed.split('\n').filter((line) => line !== '')
  }

  test('every snippet has the right types', async () => {
    expect(await compiled(snippets)).toEqual([])
  })

  test('every example of a docstring uses what is exported, as it is', async () => {
    const exported = new Map<string, string>()
    for (const { dir, manifest } of packages) {
      for (const [path, target] of Object.entries(manifest.exports ?? {})) {
        const { default: entry } = target as { default?: string }
        if (entry === undefined) continue
        const names = Object.keys(await import(join(repository, dir, entry)))
        for (const name of names) if (!exported.has(name)) exported.set(name, join(manifest.name, path))
      }
    }
    for (const { file, code } of examples) {
      const words = [...new Set(code.match(/\b[A-Za-z]\w+\b/g))].filter((word) => exported.has(word))
      const imports = words.map((word) => `import { ${word} } from '${exported.get(word)}'\n`).join('')
      writeFileSync(join(project, file), code.includes('import ') ? code : `${imports}export {}\n${code}`)
    }
    expect(examples.length).toBeGreaterThan(15)
    // What comes from around the example.
    const around =
      /Cannot find name '([a-z]\w*|MyError|WebAssembly)'|No value exists in scope for the shorthand property/
    const wrong = (await compiled(examples)).filter((line) => !around.test(line))
    expect(wrong).toEqual([])
  })

  // A suite runs in its test runner.
  test.each(snippets.filter(({ code }) => !code.includes("'vitest'")))('$readme runs: $file', async ({ file }) => {
    await run(process.execPath, [join(project, file)], { cwd: project })
  })
})
