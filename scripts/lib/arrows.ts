import { existsSync, readFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { dependencyOf, type Import, importsOf, isNodeModule } from './imports.ts'
import { checkManifest } from './manifests.ts'
import { type Package, packageAt, packagesIn, sourcesUnder } from './workspace.ts'

export interface ArrowTable {
  /** Package → what its files may import. An arrow includes what it reaches. */
  readonly packages: Record<string, string[]>
  /** Package → dependencies from the registry. */
  readonly external: Record<string, string[]>
  /** Dependencies that no file outside the packages that `external` gives them to may import, private ones included. */
  readonly confined: string[]
  /** Packages whose sources may import Node's modules. */
  readonly node: string[]
  /** What tests may import in addition, besides Node's modules. */
  readonly tests: string[]
}

interface Owner extends Package {
  /** What its row allows it, or `undefined` for private packages, which may import anything. */
  readonly reach: ReadonlySet<string> | undefined
  readonly external: readonly string[]
  readonly mayUseNode: boolean
}

/** Checks all imports and manifests of the workspace in `root` against the table. Returns one line per problem. */
export function checkArrows(root: string, table: ArrowTable): string[] {
  const published = packagesIn(root, 'packages')
  const problems = checkTable(table, published)
  if (problems.length > 0) return problems

  const known = new Map(published.map((pkg) => [pkg.manifest.name, pkg]))
  for (const pkg of published) {
    const { name } = pkg.manifest
    const reach = reachOf(table, name)
    const owner: Owner = { ...pkg, reach, external: table.external[name] ?? [], mayUseNode: table.node.includes(name) }
    for (const folder of ['src', 'test'] as const) {
      problems.push(...checkFolder(root, owner, folder, table, known))
    }
    problems.push(...checkManifest(root, pkg, published))
  }

  const bench = existsSync(join(root, 'bench')) ? [packageAt(root, 'bench')] : []
  for (const pkg of [...bench, ...packagesIn(root, 'examples')]) {
    const owner: Owner = { ...pkg, reach: undefined, external: [], mayUseNode: true }
    problems.push(...checkFolder(root, owner, '.', table, known))
  }
  return problems
}

function checkFolder(
  root: string,
  owner: Owner,
  folder: 'src' | 'test' | '.',
  table: ArrowTable,
  known: ReadonlyMap<string, Package>,
): string[] {
  return sourcesUnder(root, posix.join(owner.dir, folder)).flatMap((file) =>
    importsOf(file, readFileSync(join(root, file), 'utf8')).flatMap((found) => {
      const problem = checkImport(owner, folder === 'test', file, found, table, known)
      return problem === undefined ? [] : [`${file}:${found.line}: ${problem}`]
    }),
  )
}

function checkTable(table: ArrowTable, published: readonly Package[]): string[] {
  const names = published.map(({ manifest }) => manifest.name)
  const rows = Object.keys(table.packages)
  const problems = [
    ...names.filter((name) => !rows.includes(name)).map((name) => `${name} has no row in the arrow table`),
    ...rows
      .filter((row) => !names.includes(row))
      .map((row) => `the arrow table has a row for ${row}, which does not exist`),
  ]
  for (const row of rows) {
    for (const target of table.packages[row] ?? []) {
      if (!rows.includes(target)) problems.push(`the arrow ${row} → ${target} leads nowhere`)
    }
    if (reachOf(table, row).has(row)) problems.push(`the arrow table has a cycle through ${row}`)
  }
  return problems
}

function reachOf(table: ArrowTable, name: string): Set<string> {
  const reached = new Set<string>()
  const visit = (from: string): void => {
    for (const target of table.packages[from] ?? []) {
      if (reached.has(target)) continue
      reached.add(target)
      visit(target)
    }
  }
  visit(name)
  return reached
}

function checkImport(
  owner: Owner,
  isTest: boolean,
  file: string,
  { specifier }: Import,
  table: ArrowTable,
  known: ReadonlyMap<string, Package>,
): string | undefined {
  const self = owner.manifest.name
  if (specifier === undefined) {
    return isTest || owner.mayUseNode ? undefined : 'imports a name computed at run time, which nothing can check'
  }
  if (specifier.startsWith('.')) {
    const target = posix.join(posix.dirname(file), specifier)
    if (!target.startsWith(`${owner.dir}/`))
      return `imports '${specifier}', which lies outside ${owner.dir}; import the package by name`
    if (!isTest && owner.reach !== undefined && !target.startsWith(`${owner.dir}/src/`)) {
      return `imports '${specifier}', which lies outside ${owner.dir}/src and is not published`
    }
    return undefined
  }
  if (isNodeModule(specifier)) {
    return isTest || owner.mayUseNode
      ? undefined
      : `imports '${specifier}'; only ${table.node.join(' and ')} may use Node's modules`
  }

  const dependency = dependencyOf(specifier) as string
  const target = known.get(dependency)
  if (target === undefined && dependency.startsWith('@guestdma/'))
    return `imports '${specifier}'; there is no such package`
  if (target !== undefined) {
    if (dependency === self && !isTest) return `imports its own package '${specifier}'; use a relative path`
    if (owner.reach !== undefined && dependency !== self && !owner.reach.has(dependency)) {
      return `imports '${specifier}'; ${self} may import ${list(owner.reach)}`
    }
    const subpath = `.${specifier.slice(dependency.length)}`
    if (!(subpath in (target.manifest.exports ?? {}))) {
      return `imports '${specifier}', an internal of ${dependency}, which exports ${list(Object.keys(target.manifest.exports ?? {}))}`
    }
    return undefined
  }

  if (owner.reach === undefined) {
    if (!table.confined.includes(dependency)) return undefined
    return `imports '${specifier}', which only ${list(givenTo(table, dependency))} may import`
  }
  const allowed = [...owner.external, ...(isTest ? table.tests : [])]
  return allowed.includes(dependency)
    ? undefined
    : `imports '${specifier}'; of the registry's packages it may import ${list(allowed)}`
}

function givenTo(table: ArrowTable, dependency: string): string[] {
  return Object.keys(table.external).filter((name) => table.external[name]?.includes(dependency))
}

function list(names: Iterable<string>): string {
  return [...names].join(', ') || 'nothing'
}
