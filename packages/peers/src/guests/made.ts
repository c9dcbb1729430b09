import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SkippedCase } from '../matrix/case.ts'

/** Of the repository, and not in the package. */
const SCRIPTS = new URL('../../../../scripts/', import.meta.url)

const known = new Map<string, string>()

/**
 * What a script made for guests, of all that it is made of now: a kernel, or a folder of programs. Makes nothing.
 *
 * @throws SkippedCase where it was not made, or this is no clone of the repository
 */
export function made(script: 'guest-kernel' | 'guest-programs', name: string): string {
  const path = fileURLToPath(new URL(`${script}.mjs`, SCRIPTS))
  const id = `${script} ${name}`
  const found = known.get(id)
  if (found !== undefined) return found
  if (!existsSync(path)) throw new SkippedCase(`there is no scripts/${script}.mjs here: run this in a clone`)
  const { status, stdout, stderr } = spawnSync(process.execPath, [path, name, '--made'], { encoding: 'utf8' })
  if (status !== 0) throw new SkippedCase(`run node scripts/${script}.mjs ${name}: ${stderr.trim()}`)
  known.set(id, stdout.trim())
  return stdout.trim()
}

/** The version of the source that a kernel was made of, or null where the kernel or the programs beside it are missing. */
export function madeVersion(kernels: readonly string[], programs: string): string | null {
  try {
    made('guest-programs', programs)
    const [version] = kernels.map((name) => readFileSync(join(dirname(made('guest-kernel', name)), 'version'), 'utf8'))
    return version.trim()
  } catch (error) {
    if (error instanceof SkippedCase) return null
    throw error
  }
}
