// The kernel and the initramfs that v86 boots.
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type GuestFiles, makeInitrd } from './linux.ts'

const run = promisify(execFile)
const repository = new URL('../../../', import.meta.url)

/** A kernel that scripts/guest-kernel.mjs knows. */
export type KernelName = 'i386' | 'i386-swiotlb' | 'i386-swiotlb-1'

/**
 * Builds what is not in the cache yet: the kernel of this name, unless the caller has one, and an initramfs around
 * Debian's busybox for i386. Throws an Error that says what to install.
 */
export async function guestFiles(name: KernelName, kernel?: string): Promise<GuestFiles> {
  const script = (file: string, ...args: readonly string[]): Promise<string> =>
    run(process.execPath, [fileURLToPath(new URL(`scripts/${file}`, repository)), ...args]).then(
      ({ stdout }) => stdout.trim(),
      ({ stderr, message }: { stderr?: string; message: string }) => {
        throw new Error(`scripts/${file} ${args.join(' ')}: ${stderr?.trim() || message}`)
      },
    )
  const initrd = makeInitrd(await script('guest-programs.mjs', 'i386'))
  return { kernel: kernel ?? (await script('guest-kernel.mjs', name)), initrd }
}
