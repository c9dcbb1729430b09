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

/** `title`, and why it is skipped where it is. */
export function titled(title: string, missing: string): string {
  return missing === '' ? title : `${title} (skipped: ${missing})`
}
