import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { type ArrowTable, checkArrows } from '../lib/arrows.ts'
import { importsOf } from '../lib/imports.ts'
import { fixManifests } from '../lib/manifests.ts'

const table: ArrowTable = {
  packages: {
    '@guestdma/low': [],
    '@guestdma/mid': ['@guestdma/low'],
    '@guestdma/top': ['@guestdma/mid'],
    '@guestdma/side': [],
  },
  external: { '@guestdma/top': ['tsyringe'] },
  confined: ['tsyringe'],
  node: ['@guestdma/side'],
  tests: ['vitest'],
}

const roots: string[] = []
afterEach(() => {
  for (const root of roots.splice(0)) rmSync(root, { recursive: true })
})

/** A workspace with the packages of `table`, plus `files`. */
function workspace(files: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), 'guestdma-arrows-'))
  roots.push(root)
  const all: Record<string, string> = {
    'package.json': JSON.stringify({ name: 'root', devDependencies: { vitest: '1' } }),
  }
  const depends: Record<string, string[]> = { low: [], mid: ['low'], top: ['mid', 'low'], side: [] }
  for (const [name, targets] of Object.entries(depends)) {
    const dependencies: Record<string, string> = Object.fromEntries(
      targets.map((t) => [`@guestdma/${t}`, 'workspace:*']),
    )
    if (name === 'top') dependencies.tsyringe = '4'
    all[`packages/${name}/package.json`] = JSON.stringify({
      name: `@guestdma/${name}`,
      exports: { '.': './src/index.ts', './worker': './src/worker.ts' },
      dependencies,
    })
    all[`packages/${name}/tsconfig.build.json`] = JSON.stringify({
      references: targets.map((t) => ({ path: `../${t}/tsconfig.build.json` })),
    })
    const imports = Object.keys(dependencies).map((dependency) => `import '${dependency}'`)
    all[`packages/${name}/src/index.ts`] = imports.join('\n')
  }
  for (const [file, text] of Object.entries({ ...all, ...files })) {
    mkdirSync(dirname(join(root, file)), { recursive: true })
    writeFileSync(join(root, file), text)
  }
  return root
}

const check = (files: Record<string, string>, changed: Partial<ArrowTable> = {}) =>
  checkArrows(workspace(files), { ...table, ...changed })

describe('what may be imported', () => {
  test('a workspace that keeps to the table has no problems', () => {
    expect(
      check({
        'packages/mid/src/more.ts': "import { a } from './index.ts'; import type { B } from '@guestdma/low/worker'",
        'packages/mid/test/a.test.ts':
          "import 'vitest'; import 'node:fs'; import '../src/index.ts'; import '@guestdma/mid'",
        'packages/side/src/more.ts': "import 'node:fs'",
        'examples/one/package.json': '{ "name": "@guestdma/example-one" }',
        'examples/one/src/main.ts': "import '@guestdma/top'; import 'node:fs'; import 'anything'",
        'examples/one/data/words.txt': "import '@guestdma/nothing'",
      }),
    ).toEqual([])
  })

  test.each([
    ['a static import', "import '@guestdma/mid'"],
    ['a type import', "import type { A } from '@guestdma/mid'"],
    ['a re-export', "export { a, b } from '@guestdma/mid'"],
    ['a star re-export', "export * from '@guestdma/mid'"],
    ['a dynamic import', "await import('@guestdma/mid')"],
    ['an import in a type', "export type A = import('@guestdma/mid').A"],
  ])('%s against an arrow names file, line, import and what is allowed', (_, text) => {
    expect(check({ 'packages/low/src/more.ts': `\n${text}` })).toEqual([
      "packages/low/src/more.ts:2: imports '@guestdma/mid'; @guestdma/low may import nothing",
      'packages/low/package.json: src imports @guestdma/mid, which is not in dependencies',
    ])
  })

  test('a test keeps to the arrows of its package', () => {
    expect(check({ 'packages/mid/test/a.test.ts': "import '@guestdma/top'" })).toContain(
      "packages/mid/test/a.test.ts:1: imports '@guestdma/top'; @guestdma/mid may import @guestdma/low",
    )
  })

  test.each([
    [
      'an internal by name',
      "import '@guestdma/low/src/secret.ts'",
      'an internal of @guestdma/low, which exports ., ./worker',
    ],
    [
      'an internal by path',
      "import '../../low/src/secret.ts'",
      'lies outside packages/mid; import the package by name',
    ],
    ['a test helper', "import '../test/helper.ts'", 'lies outside packages/mid/src and is not published'],
    ['its own name', "import '@guestdma/mid'", 'use a relative path'],
    ['an unknown package', "import '@guestdma/nowhere'", 'there is no such package'],
    ["a module of Node's", "import 'node:fs'", 'only @guestdma/side may use'],
    ["a module of Node's without prefix", "import 'fs'", 'only @guestdma/side may use'],
    ["another package's container", "import 'tsyringe'", "of the registry's packages it may import nothing"],
    ['a test tool', "import 'vitest'", "of the registry's packages it may import nothing"],
    ['a computed name', 'await import(name)', 'computed at run time'],
  ])('a source may not import %s', (_, text, problem) => {
    expect(check({ 'packages/mid/src/more.ts': text })[0]).toContain(problem)
  })

  test('a private package may not import a confined dependency or an internal', () => {
    const files = {
      'examples/one/package.json': '{ "name": "@guestdma/example-one" }',
      'examples/one/src/main.ts': "import 'tsyringe'\nimport '@guestdma/low/src/secret.ts'",
    }
    expect(check(files)).toEqual([
      "examples/one/src/main.ts:1: imports 'tsyringe', which only @guestdma/top may import",
      "examples/one/src/main.ts:2: imports '@guestdma/low/src/secret.ts', an internal of @guestdma/low, which exports ., ./worker",
    ])
  })

  test('comments and strings are not imports', () => {
    expect(importsOf('a.ts', "// import 'a'\nconst s = \"import 'b'\"\n/* import('c') */")).toEqual([])
  })
})

describe('the table', () => {
  test('a cycle is reported', () => {
    const packages = { ...table.packages, '@guestdma/low': ['@guestdma/top'] }
    expect(check({}, { packages })).toContain('the arrow table has a cycle through @guestdma/low')
  })

  test('rows and packages are the same', () => {
    const { '@guestdma/side': _, ...packages } = table.packages
    expect(check({}, { packages: { ...packages, '@guestdma/gone': [] } })).toEqual([
      '@guestdma/side has no row in the arrow table',
      'the arrow table has a row for @guestdma/gone, which does not exist',
    ])
  })
})

describe('dependencies', () => {
  const unused = { 'packages/top/src/index.ts': "import '@guestdma/mid'; import 'tsyringe'" }

  test('an unused one is reported', () => {
    expect(check(unused)).toEqual(['packages/top/package.json: depends on @guestdma/low, which src does not import'])
  })

  test('build references follow the dependencies', () => {
    expect(check({ 'packages/mid/tsconfig.build.json': '{}' })).toEqual([
      'packages/mid/tsconfig.build.json: the references are not the workspace packages in dependencies',
    ])
  })

  test('fixing makes dependencies and references follow the imports', () => {
    const root = workspace({ ...unused, 'packages/top/test/a.test.ts': "import '@guestdma/low'" })
    fixManifests(root)
    expect(checkArrows(root, table)).toEqual([])
    expect(JSON.parse(readFileSync(join(root, 'packages/top/package.json'), 'utf8'))).toMatchObject({
      dependencies: { '@guestdma/mid': 'workspace:*', tsyringe: '4' },
      devDependencies: { '@guestdma/low': 'workspace:*' },
    })
  })
})
