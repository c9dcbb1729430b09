import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const main = fileURLToPath(new URL('../src/main.ts', import.meta.url))

interface Result {
  readonly ok: boolean
  readonly said: readonly string[]
  readonly checks: readonly { readonly what: string; readonly ok: boolean }[]
  readonly machines: readonly { readonly sleeps: number }[]
}

test('a guest that is saved with a request under way ends well elsewhere, and one that is reset boots again', async () => {
  // A wake-up that is lost leaves the program with nothing to do: it ends with exit code 13, and this rejects.
  const { stdout } = await promisify(execFile)(process.execPath, [main, '--json'])
  const { ok, said, checks, machines } = JSON.parse(stdout) as Result
  expect(checks.filter((check) => !check.ok)).toEqual([])
  expect(ok).toBe(true)
  expect(said.filter((line) => line === 'disk: read sector 0')).toHaveLength(2)
  expect(said.filter((line) => line === 'done')).toHaveLength(2)
  for (const { sleeps } of machines) expect(sleeps).toBeGreaterThan(0)
})
