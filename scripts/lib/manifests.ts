import { readFileSync, writeFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { dependencyOf, importsOf } from './imports.ts'
import { type Manifest, type Package, packageAt, packagesIn, readJson, sourcesUnder } from './workspace.ts'

interface BuildConfig {
  extends: string
  references?: { path: string }[]
}

/** Compares what a package declares with what its files import. */
export function checkManifest(root: string, pkg: Package, published: readonly Package[]): string[] {
  const { dir, manifest } = pkg
  const file = `${dir}/package.json`
  const declared = { ...manifest.dependencies, ...manifest.peerDependencies, ...manifest.optionalDependencies }
  const rootManifest = packageAt(root, '.').manifest
  const forTests = { ...declared, ...manifest.devDependencies, ...rootManifest.devDependencies }
  const bySrc = usedBy(root, pkg, 'src')
  const byTest = usedBy(root, pkg, 'test')
  const problems = [
    ...bySrc.filter((name) => !(name in declared)).map((name) => `src imports ${name}, which is not in dependencies`),
    ...byTest
      .filter((name) => !(name in forTests))
      .map((name) => `test imports ${name}, which is not in devDependencies`),
    ...Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })
      .filter((name) => !bySrc.includes(name))
      .map((name) => `depends on ${name}, which src does not import`),
  ].map((problem) => `${file}: ${problem}`)

  // `tsc -b` takes its order from the references, so they have to say the same as the dependencies.
  const { references = [] } = readJson<BuildConfig>(join(root, dir, 'tsconfig.build.json'))
  const referenced = references.map(({ path }) => posix.dirname(posix.join(dir, path))).sort()
  const wanted = published.filter(({ manifest: { name } }) => name in declared).map((target) => target.dir)
  if (referenced.join() !== wanted.join()) {
    problems.push(`${dir}/tsconfig.build.json: the references are not the workspace packages in dependencies`)
  }
  return problems
}

/**
 * Rewrites each package's workspace dependencies and build references to what its files import. Dependencies from the
 * registry stay as they are, since only a person knows which version is meant.
 */
export function fixManifests(root: string): void {
  const published = packagesIn(root, 'packages')
  const names = published.map(({ manifest }) => manifest.name)
  for (const pkg of published) {
    const bySrc = usedBy(root, pkg, 'src').filter((name) => names.includes(name))
    const byTest = usedBy(root, pkg, 'test').filter((name) => names.includes(name) && !bySrc.includes(name))
    const manifest = structuredClone(pkg.manifest)
    setWorkspaceNames(manifest, 'dependencies', names, bySrc)
    setWorkspaceNames(manifest, 'devDependencies', names, byTest)
    writeJson(join(root, pkg.dir, 'package.json'), manifest)

    const config = readJson<BuildConfig>(join(root, pkg.dir, 'tsconfig.build.json'))
    const references = published
      .filter((target) => bySrc.includes(target.manifest.name))
      .map((target) => ({ path: `${posix.relative(pkg.dir, target.dir)}/tsconfig.build.json` }))
    delete config.references
    writeJson(join(root, pkg.dir, 'tsconfig.build.json'), references.length === 0 ? config : { ...config, references })
  }
}

function usedBy(root: string, pkg: Package, folder: 'src' | 'test'): string[] {
  const names = sourcesUnder(root, `${pkg.dir}/${folder}`).flatMap((file) =>
    importsOf(file, readFileSync(join(root, file), 'utf8')).map(({ specifier }) => dependencyOf(specifier)),
  )
  return [...new Set(names)].filter((name) => name !== undefined && name !== pkg.manifest.name).sort() as string[]
}

function setWorkspaceNames(
  manifest: Manifest,
  key: 'dependencies' | 'devDependencies',
  names: readonly string[],
  wanted: readonly string[],
): void {
  const kept = Object.entries(manifest[key] ?? {}).filter(([name]) => !names.includes(name))
  const all = [...kept, ...wanted.map((name) => [name, 'workspace:*'] as [string, string])]
  if (all.length === 0) delete manifest[key]
  else manifest[key] = Object.fromEntries(all.sort(([a], [b]) => (a < b ? -1 : 1)))
}

function writeJson(file: string, value: unknown): void {
  writeFileSync(file, `${JSON.stringify(value, null, 2)}\n`)
}
