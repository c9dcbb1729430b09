import { builtinModules } from 'node:module'
import { parseSync } from 'vite'

export interface Import {
  /** What is imported, or `undefined` where the name is computed at run time. */
  readonly specifier: string | undefined
  readonly line: number
}

/** Every import of a TypeScript module: static, re-exported, dynamic, and `import('…')` in a type. */
export function importsOf(file: string, source: string): Import[] {
  const { module, program, errors } = parseSync(file, source)
  if (errors.length > 0) throw new Error(`${file}: ${errors[0]?.message}`)

  const found: { specifier: string | undefined; start: number }[] = []
  for (const { moduleRequest } of module.staticImports) {
    found.push({ specifier: moduleRequest.value, start: moduleRequest.start })
  }
  // One `export { a, b } from` has an entry per name; they share the position of the module's name.
  const seen = new Set<number>()
  for (const { moduleRequest } of module.staticExports.flatMap((statement) => statement.entries)) {
    if (moduleRequest === null || seen.has(moduleRequest.start)) continue
    seen.add(moduleRequest.start)
    found.push({ specifier: moduleRequest.value, start: moduleRequest.start })
  }
  for (const { moduleRequest } of module.dynamicImports) {
    const text = source.slice(moduleRequest.start, moduleRequest.end)
    found.push({ specifier: /^(['"`])([^'"`$]*)\1$/.exec(text)?.[2], start: moduleRequest.start })
  }
  collectImportTypes(program, found)

  return found
    .sort((a, b) => a.start - b.start)
    .map(({ specifier, start }) => ({ specifier, line: source.slice(0, start).split('\n').length }))
}

/** The package that a specifier names, or `undefined` for relative paths and Node's modules. */
export function dependencyOf(specifier: string | undefined): string | undefined {
  if (specifier === undefined || specifier.startsWith('.') || isNodeModule(specifier)) return undefined
  return specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/')
}

export function isNodeModule(specifier: string): boolean {
  return specifier.startsWith('node:') || builtinModules.includes(specifier)
}

function collectImportTypes(node: unknown, found: { specifier: string | undefined; start: number }[]): void {
  if (Array.isArray(node)) {
    for (const child of node) collectImportTypes(child, found)
  } else if (typeof node === 'object' && node !== null) {
    if ('type' in node && node.type === 'TSImportType') {
      const { source } = node as { source?: { value: string; start: number } }
      if (source !== undefined) found.push({ specifier: source.value, start: source.start })
    }
    for (const child of Object.values(node)) collectImportTypes(child, found)
  }
}
