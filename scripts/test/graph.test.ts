import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { parseSync } from 'vite'
import { afterAll, describe, expect, it } from 'vitest'
import { packagesIn, repository } from '../lib/workspace.ts'

const root = mkdtempSync(join(tmpdir(), 'guestdma-graph-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

/** What biome says of one file with one import, at this place in a repository with our `biome.json`. */
function lint(file: string, specifier: string): string {
  copyFileSync(join(repository, 'biome.json'), join(root, 'biome.json'))
  const path = join(root, file)
  mkdirSync(dirname(path), { recursive: true })
  const manifest = {
    dependencies: { '@guestdma/memory': '*' },
    devDependencies: { '@guestdma/iommu': '*', vitest: '*' },
  }
  writeFileSync(join(root, file.split('/').slice(0, 2).join('/'), 'package.json'), JSON.stringify(manifest))
  writeFileSync(path, `import { a } from '${specifier}'\n\nexport const b = a\n`)
  const { stdout, stderr } = spawnSync(join(repository, 'node_modules/.bin/biome'), ['lint', file], {
    cwd: root,
    encoding: 'utf8',
  })
  rmSync(path)
  return `${stdout}${stderr}`
}

describe('what an import may not reach', () => {
  it.each([
    ['a folder above its own', 'packages/devices/src/net/x.ts', '../errors.ts', 'noRestrictedImports'],
    ['the driver side, from the device side', 'packages/devices/src/net/x.ts', '@guestdma/dma', 'noRestrictedImports'],
    [
      'the driver side, from a test of the device side',
      'packages/devices/test/x.ts',
      '@guestdma/virtqueue',
      'noRestrictedImports',
    ],
    ['internals of another package', 'packages/dma/test/x.ts', '../../memory/src/region.ts', 'noRestrictedImports'],
    [
      'internals of a package, from an example',
      'examples/demo/src/x.ts',
      '../../../packages/dma/src/index.ts',
      'noRestrictedImports',
    ],
    ['the container, outside the composition', 'packages/dma/src/x.ts', 'tsyringe', 'noRestrictedImports'],
    ['what the manifest does not declare', 'packages/dma/src/x.ts', '@guestdma/drivers', 'noUndeclaredDependencies'],
    [
      'what the manifest declares for tests, from src',
      'packages/dma/src/x.ts',
      '@guestdma/iommu',
      'noUndeclaredDependencies',
    ],
  ])('%s', (_, file, specifier, rule) => {
    expect(lint(file, specifier)).toContain(rule)
  })

  it.each([
    ['packages/devices/src/net/x.ts', '../faults/errors.ts'],
    ['packages/devices/src/net/x.ts', '@guestdma/memory'],
    ['packages/dma/test/support/x.ts', '../../src/index.ts'],
    ['packages/dma/test/x.ts', '@guestdma/iommu'],
    ['packages/guestdma/test/x.ts', 'tsyringe'],
  ])('but %s may import %s', (file, specifier) => {
    expect(lint(file, specifier)).not.toMatch(/noRestrictedImports|noUndeclaredDependencies/)
  })
})

describe('public names', () => {
  it('are unique over all packages', () => {
    const owners = new Map<string, string[]>()
    for (const { dir, manifest } of packagesIn(repository, 'packages')) {
      for (const entry of entriesOf(manifest.exports ?? {})) {
        const file = join(repository, dir, entry)
        for (const statement of parseSync(file, readFileSync(file, 'utf8')).module.staticExports) {
          for (const { exportName, moduleRequest } of statement.entries) {
            if (exportName.name === null || moduleRequest?.value.startsWith('.') !== true) continue
            owners.set(exportName.name, [...(owners.get(exportName.name) ?? []), `${manifest.name} (${entry})`])
          }
        }
      }
    }
    expect(owners.size).toBeGreaterThan(300)
    expect([...owners].filter(([, where]) => where.length > 1)).toEqual([])
  })
})

function entriesOf(exports: Record<string, unknown>): string[] {
  return Object.values(exports).flatMap((entry) =>
    typeof entry === 'object' && entry !== null && 'default' in entry ? [String(entry.default)] : [],
  )
}
