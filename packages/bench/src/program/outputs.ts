import { accessSync, constants, realpathSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { UsageError } from './errors.ts'

/** A file that an option names. */
export interface NamedFile {
  /** The option, as messages name it, for example `--json`. */
  readonly option: string
  readonly path: string
}

/** A file that an option names, or none where that option was not given. */
export type OptionalFile = Omit<NamedFile, 'path'> & { readonly path: string | undefined }

/**
 * Checks, before any work is done, that files can be written.
 *
 * @param named the files to write; each is created or replaced
 * @param inputs files that must not be written
 * @throws UsageError `OUTPUT_NO_DIRECTORY`, `OUTPUT_IS_DIRECTORY`, `OUTPUT_NOT_WRITABLE`, `OUTPUT_IS_INPUT`,
 * `OUTPUT_TWICE`
 */
export function checkOutputs(named: readonly OptionalFile[], inputs: readonly NamedFile[] = []): void {
  const outputs = named.filter((file): file is NamedFile => file.path !== undefined)
  for (const [i, { option, path }] of outputs.entries()) {
    const refuse = (code: string, message: string): UsageError =>
      new UsageError(code, option, `${path}: ${message}`, { path })
    const directory = dirname(resolve(path))
    const found = statSync(directory, { throwIfNoEntry: false })
    if (found === undefined) throw refuse('OUTPUT_NO_DIRECTORY', `there is no directory ${directory}; create it first`)
    if (!found.isDirectory()) throw refuse('OUTPUT_NO_DIRECTORY', `${directory} is not a directory`)
    const file = statSync(path, { throwIfNoEntry: false })
    if (file?.isDirectory()) throw refuse('OUTPUT_IS_DIRECTORY', 'this is a directory; name a file in it')
    const input = inputs.find((other) => sameFile(other.path, path))
    if (input !== undefined) {
      throw refuse('OUTPUT_IS_INPUT', `this is the file that ${input.option} reads; name another one`)
    }
    const twice = outputs.slice(0, i).find((other) => sameFile(other.path, path))
    if (twice !== undefined) throw refuse('OUTPUT_TWICE', `${twice.option} writes the same file; name another one`)
    try {
      if (file !== undefined) accessSync(path, constants.W_OK)
      if (file === undefined || file.isFile()) tryToCreate(path)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      throw refuse('OUTPUT_NOT_WRITABLE', `the file cannot be written (${code}); name another place`)
    }
  }
}

/**
 * Checks, before any work is done, that a directory can be made and that files can be created in it. Creates it.
 *
 * @throws UsageError `OUTPUT_NO_DIRECTORY`, `OUTPUT_NOT_WRITABLE`
 */
export function checkDirectory(option: string, path: string, create: (path: string) => void): void {
  try {
    const found = statSync(path, { throwIfNoEntry: false })
    if (found !== undefined && !found.isDirectory()) {
      throw new UsageError('OUTPUT_NO_DIRECTORY', option, `${path}: this is a file; name a directory`, { path })
    }
    create(path)
    tryToCreate(join(path, 'guestdma'))
  } catch (error) {
    if (error instanceof UsageError) throw error
    const { code } = error as NodeJS.ErrnoException
    const message = `${path}: the directory cannot be created or written (${code}); name another place`
    throw new UsageError('OUTPUT_NOT_WRITABLE', option, message, { path })
  }
}

/**
 * Writes a whole file, so that whoever reads it finds the old content or the new one, and never a part. The text goes to
 * a temporary file beside it, which is then renamed. Devices and pipes are written to directly.
 */
export function writeWhole(path: string, text: string): void {
  const file = statSync(path, { throwIfNoEntry: false })
  if (file !== undefined && !file.isFile()) {
    writeFileSync(path, text)
    return
  }
  // A symbolic link stays, and the file that it names is replaced.
  const target = file === undefined ? path : realpathSync(path)
  const temporary = temporaryFor(target)
  try {
    writeFileSync(temporary, text)
    renameSync(temporary, target)
  } catch (error) {
    rmSync(temporary, { force: true })
    throw error
  }
}

/** Writes a value as JSON by {@link writeWhole}, where there is a path. */
export function writeJson(path: string | undefined, value: object): void {
  if (path !== undefined) writeWhole(path, `${JSON.stringify(value, null, 2)}\n`)
}

/** Whether two paths name one file. A path that names nothing yet is compared as text. */
export function sameFile(a: string, b: string): boolean {
  const [one, other] = [a, b].map((path) => statSync(path, { throwIfNoEntry: false, bigint: true }))
  if (one === undefined || other === undefined) return resolve(a) === resolve(b)
  return one.dev === other.dev && one.ino === other.ino
}

function temporaryFor(path: string): string {
  return join(dirname(path), `.${basename(path)}.${process.pid}.tmp`)
}

// Permissions alone do not tell: a file system may be read-only or full.
function tryToCreate(path: string): void {
  const temporary = temporaryFor(resolve(path))
  writeFileSync(temporary, '', { flag: 'wx' })
  rmSync(temporary)
}
