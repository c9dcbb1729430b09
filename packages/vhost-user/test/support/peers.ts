import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { EventFd } from '@guestdma/node'

/** Why tests over real descriptors cannot run here; empty where they can. */
export const missingSystem: string = (() => {
  try {
    EventFd.create().close()
    return ''
  } catch (error) {
    return (error as { code: string }).code === 'NODE_KOFFI' ? 'koffi is not installed' : 'this is not 64-bit Linux'
  }
})()

/** Why tests with a peer cannot run here; empty where they can. `source` says how to get it. */
export function missingPeer(command: string, source: string): string {
  if (missingSystem !== '') return missingSystem
  const found = (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, command), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
  return found ? '' : `${command} is not installed: ${source}`
}

/** `title`, and why it is skipped where it is. */
export function titled(title: string, missing: string): string {
  return missing === '' ? title : `${title} (skipped: ${missing})`
}
