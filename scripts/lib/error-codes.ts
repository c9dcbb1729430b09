import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { packagesIn } from './workspace.ts'

type ErrorTable = Record<string, { readonly meaning: string; readonly advice: string }>

/** The table of one package, by the class that takes its codes. */
export interface PackageCodes {
  readonly name: string
  readonly table: string
  readonly codes: readonly ErrorCode[]
}

interface ErrorCode {
  readonly code: string
  readonly meaning: string
  readonly advice: string
  /** The class of the error; a subclass where one is made for this code alone. */
  readonly class: string
}

export interface SourceFile {
  readonly path: string
  readonly text: string
}

/** The tables that the packages under `root` export: constants whose names end in `_CODES`. */
export async function collectCodes(root: string, sources: readonly SourceFile[]): Promise<PackageCodes[]> {
  const found: PackageCodes[] = []
  for (const { dir, manifest } of packagesIn(root, 'packages')) {
    const exports = await import(pathToFileURL(join(root, dir, 'src/index.ts')).href)
    for (const table of Object.keys(exports).filter((key) => key.endsWith('_CODES'))) {
      const own = sources.filter(({ path }) => path.startsWith(`${dir}/`))
      const codes = Object.entries(exports[table] as ErrorTable).map(([code, { meaning, advice }]) => ({
        code,
        meaning,
        advice,
        class: classOf(code, table, own),
      }))
      found.push({ name: manifest.name, table, codes })
    }
  }
  return found
}

export function packageSources(root: string): SourceFile[] {
  return packagesIn(root, 'packages')
    .flatMap(({ dir }) => globSync(`${dir}/src/**/*.ts`, { cwd: root }).sort())
    .map((path) => ({ path, text: readFileSync(join(root, path), 'utf8') }))
}

/** What the compiler cannot see: codes in no table, codes in two, codes that nothing uses. */
export function codeProblems(packages: readonly PackageCodes[], sources: readonly SourceFile[]): string[] {
  const problems: string[] = []
  const tables = new Map<string, string>()
  for (const { table, codes } of packages) {
    for (const { code } of codes) {
      const other = tables.get(code)
      if (other !== undefined) problems.push(`${code} is in ${other} and in ${table}`)
      tables.set(code, table)
    }
  }
  const prefixes = new Set(Array.from(tables.keys(), (code) => code.slice(0, code.indexOf('_'))))
  const used = new Set<string>()
  for (const { path, text } of sources) {
    for (const [, code] of text.matchAll(/'([A-Z]+(?:_[A-Z]+)+)'/g)) {
      used.add(code)
      if (prefixes.has(code.slice(0, code.indexOf('_'))) && !tables.has(code))
        problems.push(`${path}: '${code}' is in no table of codes`)
    }
    // A code that is put together: `TRANSPORT_FDT_POOL_${flaw}`.
    for (const [, prefix] of text.matchAll(/`([A-Z]+(?:_[A-Z]+)*_)\$\{/g))
      for (const code of tables.keys()) if (code.startsWith(prefix)) used.add(code)
  }
  for (const [code, table] of tables) if (!used.has(code)) problems.push(`${code} of ${table} is used nowhere`)
  return problems
}

/** The page as Markdown. */
export function codePage(packages: readonly PackageCodes[]): string {
  const lines = [
    '# Error codes',
    '',
    'Callers test `error.code`, which stays the same from version to version. `pnpm errors` writes this page from the',
    'tables of the packages.',
  ]
  for (const { name, table, codes } of packages) {
    lines.push('', `## ${name}`, '', `The table is \`${table}\`.`, '')
    lines.push('| code | meaning | what to do | class |', '|---|---|---|---|')
    for (const row of codes)
      lines.push(
        `| \`${row.code}\` | ${row.meaning} | ${row.advice} | \`${row.class}\` |`.replace(/'(#[^']*)'/g, '`$1`'),
      )
  }
  return `${lines.join('\n')}\n`
}

function classOf(code: string, table: string, sources: readonly SourceFile[]): string {
  const special = new RegExp(`class (\\w+) extends \\w+ \\{(?:(?!\\nexport )[\\s\\S])*?super\\(\\s*'${code}'`)
  const general = new RegExp(`class (\\w+) extends \\w+<keyof typeof ${table}>`)
  for (const pattern of [special, general]) {
    for (const { text } of sources) {
      const match = pattern.exec(text)
      if (match !== null) return match[1]
    }
  }
  throw new Error(`no class takes the codes of ${table}`)
}
