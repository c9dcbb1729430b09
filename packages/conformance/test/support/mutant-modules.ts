import { readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { moduleRunnerTransform, transformWithOxc } from 'vite'

/** One error in one source file: `from` stands there once, and `to` takes its place. */
export interface Edit {
  /** From the root of the repository on. */
  readonly file: string
  readonly from: string
  readonly to: string
}

type Exports = Record<string, unknown>
type Body = (
  exportName: (name: string, get: () => unknown) => void,
  load: (specifier: string) => Promise<Exports>,
  exportAll: (all: Exports) => void,
) => Promise<void>

const ROOT = resolve(import.meta.dirname, '../../../..')
const AsyncFunction = (async () => {}).constructor as new (...parameters: string[]) => Body
/** What the rings are made of, and what tests them. All else is shared with the runner. */
const FRESH: Readonly<Record<string, string>> = {
  '@guestdma/conformance': 'packages/conformance/src/index.ts',
  '@guestdma/devices': 'packages/devices/src/index.ts',
  '@guestdma/devices/ring': 'packages/devices/src/ring.ts',
  '@guestdma/transport': 'packages/transport/src/index.ts',
  '@guestdma/virtqueue': 'packages/virtqueue/src/index.ts',
}
const compiled = new Map<string, Promise<Body>>()

/** The text of a file with an edit. Throws where the edit is not one, so that no mutant outlives its source. */
export function edited({ file, from, to }: Edit): string {
  const text = readFileSync(join(ROOT, file), 'utf8')
  const parts = text.split(from)
  if (parts.length !== 2) throw new Error(`${file} has ${parts.length - 1} places with '${from}', and should have one`)
  return parts.join(to)
}

/**
 * Modules of this repository that are evaluated anew, from their sources and with an edit: a test file that is loaded
 * here tests the edited source. `vitest` is whoever takes its place.
 */
export class MutantModules {
  private readonly edit: Edit | null
  private readonly vitest: Exports
  private readonly loaded = new Map<string, Promise<Exports>>()

  constructor(edit: Edit | null, vitest: Exports) {
    this.edit = edit
    this.vitest = vitest
  }

  /** `file`: from the root of the repository on. */
  load(file: string): Promise<Exports> {
    let module = this.loaded.get(file)
    if (module === undefined) {
      module = this.evaluate(file)
      this.loaded.set(file, module)
    }
    return module
  }

  private async evaluate(file: string): Promise<Exports> {
    const { edit } = this
    const body = await compile(file, edit?.file === file ? edited(edit) : readFileSync(join(ROOT, file), 'utf8'))
    const exports: Exports = {}
    const define = (name: string, get: () => unknown): void => {
      Object.defineProperty(exports, name, { get, enumerable: true, configurable: true })
    }
    await body(
      define,
      (specifier) => this.resolve(file, specifier),
      (all) => {
        for (const name of Object.keys(all)) define(name, () => all[name])
      },
    )
    return exports
  }

  private resolve(from: string, specifier: string): Promise<Exports> {
    if (specifier === 'vitest') return Promise.resolve(this.vitest)
    if (specifier.startsWith('.')) return this.load(relative(ROOT, resolve(ROOT, dirname(from), specifier)))
    const fresh = FRESH[specifier]
    return fresh === undefined ? import(/* @vite-ignore */ specifier) : this.load(fresh)
  }
}

function compile(file: string, text: string): Promise<Body> {
  let body = compiled.get(text)
  if (body === undefined) {
    body = transform(file, text)
    compiled.set(text, body)
  }
  return body
}

async function transform(file: string, text: string): Promise<Body> {
  const { code } = await transformWithOxc(text, join(ROOT, file), { target: 'esnext' })
  const result = await moduleRunnerTransform(code, null, file, code)
  if (result === null) throw new Error(`${file} cannot be transformed`)
  const parameters = ['__vite_ssr_exportName__', '__vite_ssr_import__', '__vite_ssr_exportAll__']
  return new AsyncFunction(...parameters, `'use strict'\n${result.code}\n//# sourceURL=${file}`)
}
