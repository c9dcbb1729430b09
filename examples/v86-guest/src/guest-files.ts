// The kernel and the initramfs that v86 boots.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { type GuestFiles, makeInitrd } from './linux.ts'

const scripts = new URL('../../../scripts/', import.meta.url)

/** A kernel that scripts/guest-kernel.mjs knows. */
export type KernelName = 'i386' | 'i386-swiotlb' | 'i386-swiotlb-1'

/**
 * Builds what is not in the cache yet: the kernel of this name, unless the caller has one, and an initramfs around
 * Debian's busybox for i386. Throws an Error where that fails; the scripts say on standard error what to install.
 */
export function guestFiles(name: KernelName, kernel?: string): GuestFiles {
  const initrd = makeInitrd(script('guest-programs.mjs', 'i386'))
  return { kernel: kernel ?? script('guest-kernel.mjs', name), initrd }
}

// Its progress and its errors go to whoever waits; it prints a path.
function script(file: string, name: string): string {
  const args = [fileURLToPath(new URL(file, scripts)), name]
  const { status, stdout } = spawnSync(process.execPath, args, {
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`scripts/${file} ${name} failed, for the reason above`)
  return stdout.trim()
}
