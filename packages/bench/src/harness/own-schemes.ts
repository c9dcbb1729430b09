import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import * as nodeModule from 'node:module'
import { resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { UsageError } from '../program/errors.ts'
import type { SchemeFactory, Schemes } from '../scenarios/machines.ts'

/** Does this name a file, and not a scheme that comes along? */
export function isFile(name: string): boolean {
  return /[/\\]|\.[cm]?[jt]s$/.test(name)
}

/** Loads a module by its path. Throws UsageError `BENCH_FILE`. */
export async function loadModule(
  file: string,
): Promise<{ readonly address: string; readonly exports: Readonly<Record<string, unknown>> }> {
  const address = pathToFileURL(resolve(file)).href
  if (!existsSync(file)) throw new UsageError('BENCH_FILE', file, 'there is no such file', { file })
  try {
    return { address, exports: (await import(address)) as Record<string, unknown> }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const advice = code === 'ERR_UNKNOWN_FILE_EXTENSION' ? '; Node loads TypeScript from 22.18 on' : ''
    throw new UsageError('BENCH_FILE', file, `the module cannot be loaded: ${message}${advice}`, { file })
  }
}

/**
 * Loads the schemes of a module: what it exports as `schemes`, by name, or as `scheme`, or else each exported function
 * whose name ends with `Scheme`. Each makes a `DmaScheme` without arguments.
 *
 * @param file a path
 * @throws UsageError `BENCH_FILE`, `BENCH_SCHEME`
 */
export async function loadSchemes(file: string): Promise<{ readonly address: string; readonly schemes: Schemes }> {
  const { address, exports } = await loadModule(file)
  return { address, schemes: schemesIn(exports, file) }
}

/** The schemes among the exports of a module, by the ids that they have. Throws UsageError `BENCH_SCHEME`. */
export function schemesIn(exports: Readonly<Record<string, unknown>>, file: string): Schemes {
  const { scheme, schemes } = exports
  const listed =
    schemes !== undefined
      ? Object.values(schemes as object)
      : scheme !== undefined
        ? [scheme]
        : Object.entries(exports).flatMap(([name, value]) => (name.endsWith('Scheme') ? [value] : []))
  const factories = listed.filter((value) => typeof value === 'function') as (() => ReturnType<SchemeFactory>)[]
  if (factories.length === 0) {
    const message = `the module has to export a function 'scheme' that makes a DmaScheme; it exports ${Object.keys(exports).join(', ') || 'nothing'}`
    throw new UsageError('BENCH_SCHEME', file, message, { file })
  }
  return Object.fromEntries(
    factories.map((make) => {
      const { id } = make() as { id?: unknown }
      if (typeof id === 'string') return [id, () => make()] as const
      throw new UsageError('BENCH_SCHEME', file, 'what its function makes is no DmaScheme: it has no id', { file })
    }),
  )
}

/**
 * Lets this process load TypeScript without a compiler in it: another process takes the types off. Once an engine has
 * loaded a compiler of WebAssembly it checks at each access to a typed array whether its buffer is still there, and
 * every time that is measured afterwards grows.
 */
export function loadTypeScriptApart(): void {
  const { registerHooks } = nodeModule as Partial<typeof nodeModule>
  if (registerHooks === undefined) return
  registerHooks({
    load(url, context, next) {
      if (!/\.m?ts$/.test(url)) return next(url, context)
      const script = `process.stdout.write(require('node:module').stripTypeScriptTypes(require('node:fs').readFileSync(process.argv[1], 'utf8')))`
      const source = execFileSync(process.execPath, ['--no-warnings', '-e', script, fileURLToPath(url)], {
        encoding: 'utf8',
      })
      return { format: 'module', source, shortCircuit: true }
    },
  })
}
