import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8')

test('the README says what it is: a quick start of at most 20 lines that runs as written and prints what it says', () => {
  const [, code, output] =
    /```ts\n([^`]*(?:`[^`]+`[^`]*)*?)\n```\n\nIt prints\n\n```\n([\s\S]*?)\n```/.exec(readme) ?? []
  expect(code).toBeDefined()
  expect(code.split('\n').length).toBeLessThanOrEqual(20)
  const printed = execFileSync(process.execPath, ['--input-type=module-typescript', '--eval', code], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    encoding: 'utf8',
  })
  expect(printed.trim()).toBe(output)
})
