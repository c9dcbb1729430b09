import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { SkippedCase } from '../matrix/case.ts'
import { expectIs, expectSame } from '../work/workloads.ts'

const env = { ...process.env, PATH: `${process.env.PATH}:/sbin:/usr/sbin` }

/** As `sha256sum` prints it. */
export function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/**
 * A file system with a journal, made by the host.
 *
 * @param dir for a file of the host's tools
 * @param length of the disk, in bytes
 * @throws SkippedCase where `mkfs.ext4` is missing
 */
export function emptyFileSystem(dir: string, length: number): Uint8Array {
  const path = join(dir, 'fs')
  writeFileSync(path, new Uint8Array(length))
  const { status } = spawnSync('mkfs.ext4', ['-q', '-F', path], { env })
  if (status !== 0) throw new SkippedCase('mkfs.ext4 cannot be run: apt-get install e2fsprogs')
  return new Uint8Array(readFileSync(path))
}

/** What the guest wrote, as the host's tools see it: a sound file system, and in it the file `copy` with these bytes. */
export function checkFileSystem(dir: string, disk: Uint8Array, copy: Uint8Array): void {
  const path = join(dir, 'fs')
  writeFileSync(path, disk)
  const check = spawnSync('e2fsck', ['-fn', path], { env, encoding: 'utf8' })
  expectIs(`e2fsck (${check.stdout.slice(-200)})`, check.status, 0)
  spawnSync('debugfs', ['-R', `dump /copy ${path}.copy`, path], { env })
  expectSame('the file that the guest wrote', new Uint8Array(readFileSync(`${path}.copy`)), copy)
}
