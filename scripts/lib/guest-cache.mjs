// What is built or fetched for guests lies outside of the repository, in a folder named by the hash of its inputs.
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'

/** An error for whoever typed the command. */
export class GuestError extends Error {
  /** @param {string} code stable @param {string} text what was asked for, what is wrong, and what would be right */
  constructor(code, text) {
    super(`${text} (${code})`)
    this.code = code
  }
}

/** `$GUESTDMA_CACHE`, else `guestdma` in `$XDG_CACHE_HOME` or `~/.cache`. */
function cacheFolder({ GUESTDMA_CACHE, XDG_CACHE_HOME } = process.env) {
  return GUESTDMA_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'guestdma')
}

/**
 * The folder `<kind>/<name>-<hash>` of the cache. Where it is missing, `make` fills a folder of its own, which takes the
 * name once it is whole: whoever makes the same thing meanwhile is not disturbed. With `only` a missing one is refused.
 *
 * @param {{ kind: string, name: string, hash: string, only: boolean }} entry
 * @param {(folder: string, work: string) => Promise<void>} make gets the folder to fill, and one for what is not kept
 * @returns {Promise<{ folder: string, made: boolean }>}
 */
export async function cached({ kind, name, hash, only }, make) {
  const folder = join(cacheFolder(), kind, `${name}-${hash}`)
  const made = !existsSync(folder)
  if (made && only)
    throw new GuestError('GUEST_UNMADE', `${name}: there is no ${folder} yet; without --made it is made`)
  if (made) {
    mkdirSync(dirname(folder), { recursive: true })
    const work = mkdtempSync(join(dirname(folder), `.making-${name}-`))
    try {
      const fresh = join(work, 'entry')
      mkdirSync(fresh)
      await make(fresh, work)
      publish(fresh, folder)
    } finally {
      rmSync(work, { recursive: true, force: true })
    }
  }
  return { folder, made }
}

function publish(fresh, folder) {
  try {
    renameSync(fresh, folder)
  } catch (error) {
    // Somebody else was faster, with the same inputs.
    if (!existsSync(folder)) throw error
  }
}
