// A file system that the host makes and checks with its own tools.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const env = { ...process.env, PATH: `${process.env.PATH}:/sbin:/usr/sbin` }

/** An ext4 of 24 MiB that holds `source`. */
export function makeExt4(source: Uint8Array): Uint8Array<ArrayBuffer> {
  return inFolder((dir) => {
    mkdirSync(join(dir, 'files'))
    writeFileSync(join(dir, 'files/source'), source)
    call('mkfs.ext4', ['-q', '-F', '-d', join(dir, 'files'), join(dir, 'fs'), '24M'])
    return new Uint8Array(readFileSync(join(dir, 'fs')))
  })
}

/** Throws an Error unless e2fsck finds the file system clean; returns one file of it. */
export function fileOfExt4(image: Uint8Array, name: string): Uint8Array {
  return inFolder((dir) => {
    writeFileSync(join(dir, 'fs'), image)
    call('e2fsck', ['-fn', join(dir, 'fs')])
    call('debugfs', ['-R', `dump /${name} ${join(dir, 'file')}`, join(dir, 'fs')])
    return new Uint8Array(readFileSync(join(dir, 'file')))
  })
}

function inFolder<T>(work: (dir: string) => T): T {
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-ext4-'))
  try {
    return work(dir)
  } finally {
    rmSync(dir, { recursive: true })
  }
}

function call(program: string, args: readonly string[]): void {
  const { status, error, stdout, stderr } = spawnSync(program, args, { env, encoding: 'utf8' })
  if (error !== undefined) throw new Error(`${program} cannot be run (${error.message}): apt-get install e2fsprogs`)
  if (status !== 0) throw new Error(`${program} says: ${(stdout + stderr).trim()}`)
}
