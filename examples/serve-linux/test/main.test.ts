import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { EventFd } from '@guestdma/node'
import { expect, test } from 'vitest'

const main = fileURLToPath(new URL('../src/main.ts', import.meta.url))

/** Sockets with descriptors are Linux's, and koffi is optional. */
const possible = ((): boolean => {
  try {
    EventFd.create().close()
    return true
  } catch {
    return false
  }
})()

test.skipIf(!possible)('a disk is served to a driver of the same process, which then ends by itself', async () => {
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [main])
  expect(stdout).toContain('sector 0 of 2048: served over vhost-user')
  expect(stderr).toContain('the front end is gone')
  expect(stderr).not.toContain('refused')
})
