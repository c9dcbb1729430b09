import { libc } from '../../src/system/libc.ts'

/** Why tests of the system layer cannot run here; empty where they can. */
export const missing: string = (() => {
  try {
    libc()
    return ''
  } catch (error) {
    return (error as { code: string }).code === 'NODE_KOFFI' ? 'koffi is not installed' : 'this is not 64-bit Linux'
  }
})()

/** `title`, and why it is skipped where it is. */
export function titled(title: string): string {
  return missing === '' ? title : `${title} (skipped: ${missing})`
}

/**
 * Can a Node of its own load the sources of this package? The oldest that the package supports cannot; there it runs
 * compiled.
 */
export const loadsSources: boolean = Boolean(process.features.typescript)
