import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SkippedCase } from '../matrix/case.ts'

/** What runs in every guest. It is no module, so the compiled package takes it from the sources. */
const INIT = fileURLToPath(new URL('../../src/guests/init.sh', import.meta.url))

/** What QEMU boots. */
export interface BootFiles {
  readonly kernel: string
  readonly initrd: string
}

/**
 * Makes an initramfs in which `init.sh` runs.
 *
 * @param dir for the file and what it is made of
 * @param programs paths of programs that need no libraries; busybox is one of them
 * @param modules paths, in the order in which they are loaded
 * @returns its path
 * @throws SkippedCase where `cpio` or a program is missing
 */
export function makeInitramfs(dir: string, programs: readonly string[], modules: readonly string[] = []): string {
  const root = join(dir, 'root')
  for (const folder of ['bin', 'lib', 'dev', 'proc', 'sys', 'mnt']) mkdirSync(join(root, folder), { recursive: true })
  for (const path of programs) {
    try {
      copyFileSync(path, join(root, 'bin', basename(path)))
    } catch {
      throw new SkippedCase(`there is no ${path}: apt-get install busybox-static`)
    }
  }
  for (const path of modules) copyFileSync(path, join(root, 'lib', basename(path)))
  writeFileSync(join(root, 'modules'), `${modules.map((path) => basename(path)).join('\n')}\n`)
  copyFileSync(INIT, join(root, 'init'))
  shell(dir, 'chmod 755 root/init && cd root && find . | cpio -o -H newc --quiet > ../initrd')
  return join(dir, 'initrd')
}

/** Runs a line of shell, whose `$1` and so on are `args`. Throws SkippedCase where a program is missing, else Error. */
export function shell(cwd: string, line: string, ...args: readonly string[]): void {
  const { status, stderr } = spawnSync('/bin/sh', ['-ec', line, 'sh', ...args], { cwd, encoding: 'utf8' })
  if (status === 127) throw new SkippedCase(`a program is missing (apt-get install cpio dpkg tar): ${stderr.trim()}`)
  if (status !== 0) throw new Error(`'${line}' failed: ${stderr.trim()}`)
}
