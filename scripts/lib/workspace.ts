import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const repository = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

interface Manifest {
  name: string
  version?: string
  private?: boolean
  type?: string
  license?: string
  exports?: Record<string, unknown>
  dependencies?: Record<string, string>
  devDependencies?: Record<string, string>
  peerDependencies?: Record<string, string>
  optionalDependencies?: Record<string, string>
}

export interface Package {
  /** Relative to the repository, with `/` between the parts. */
  readonly dir: string
  readonly manifest: Manifest
}

function readJson<T>(file: string): T {
  return JSON.parse(readFileSync(file, 'utf8')) as T
}

export function packageAt(root: string, dir: string): Package {
  return { dir, manifest: readJson<Manifest>(join(root, dir, 'package.json')) }
}

/** The packages in `<root>/<folder>/*`, by name of their directory. */
export function packagesIn(root: string, folder: string): Package[] {
  if (!existsSync(join(root, folder))) return []
  return readdirSync(join(root, folder))
    .sort()
    .map((entry) => `${folder}/${entry}`)
    .filter((dir) => existsSync(join(root, dir, 'package.json')))
    .map((dir) => packageAt(root, dir))
}
