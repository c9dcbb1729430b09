import { execFileSync } from 'node:child_process'

const INSTALLED = /^Status: install ok installed$/m
const VERSION = /^Version: (.*)$/m

/** The version of an installed package of Debian's, or null. */
export function packageVersion(name: string): string | null {
  try {
    const said = execFileSync('dpkg', ['--status', name], { encoding: 'utf8', stdio: 'pipe' })
    return INSTALLED.test(said) ? (VERSION.exec(said)?.[1] ?? 'unknown') : null
  } catch {
    return null
  }
}
