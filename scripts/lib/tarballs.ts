import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'
import { build } from './build.ts'
import { pnpm } from './run.ts'
import { type Package, packagesIn, repository } from './workspace.ts'

export interface Tarball extends Package {
  readonly file: string
}

/** A new directory outside the repository, removed when the process ends. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'guestdma-'))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** Builds and packs every public package into `directory`. */
export async function packAll(directory: string): Promise<Tarball[]> {
  await build()
  await pnpm(['--recursive', '--filter', './packages/*', 'pack', '--pack-destination', directory])
  return packagesIn(repository, 'packages').map((pkg) => {
    const { name, version } = pkg.manifest
    return { ...pkg, file: join(directory, `${name.replace('@', '').replace('/', '-')}-${version}.tgz`) }
  })
}

/** Runs publint over the tarballs, with its suggestions as errors. */
export async function lintTarballs(tarballs: readonly Tarball[]): Promise<void> {
  const problems: string[] = []
  for (const { file, manifest } of tarballs) {
    const bytes = readFileSync(file)
    const tarball = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)
    const { messages, pkg } = await publint({ pack: { tarball }, strict: true })
    problems.push(...messages.map((message) => `${manifest.name}: ${formatMessage(message, pkg, { color: false })}`))
  }
  if (problems.length > 0) throw new Error(`\n${problems.join('\n')}`)
}
