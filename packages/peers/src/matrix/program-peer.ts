import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { PeerProgram } from './case.ts'

const run = promisify(execFile)
const VERSION = /\d+(?:\.\d+)+/

/** A peer that is one program: installed where it answers `--version`, by default. */
export function programPeer(
  id: string,
  name: string,
  command: string,
  packages: readonly string[],
  versionArgs: readonly string[] = ['--version'],
): PeerProgram {
  return {
    id,
    name,
    packages,
    async version() {
      try {
        const { stdout, stderr } = await run(command, [...versionArgs], { timeout: 10_000 })
        return VERSION.exec(stdout + stderr)?.[0] ?? 'unknown'
      } catch (error) {
        // A program that is there and dislikes the question has told its version all the same.
        const { code, stdout = '', stderr = '' } = error as { code?: unknown; stdout?: string; stderr?: string }
        return code === 'ENOENT' ? null : (VERSION.exec(stdout + stderr)?.[0] ?? 'unknown')
      }
    },
  }
}
