import { homedir } from 'node:os'
import { join } from 'node:path'

/** What scripts made for guests, by name. `scripts/guest-kernel.mjs --help` tells where it is. */
export function made(kind: 'kernels' | 'programs', name: string): string {
  const { GUESTDMA_CACHE, XDG_CACHE_HOME } = process.env
  return join(GUESTDMA_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'guestdma'), kind, name)
}
