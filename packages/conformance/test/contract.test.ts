import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { bouncingScheme, describeDmaScheme } from '../src/index.ts'

const TAG = /\[([a-z]+(?:-[a-z]+)*)\]/g

function tagsIn(text: string): Set<string> {
  return new Set([...text.matchAll(TAG)].map(([, tag]) => tag))
}

test('each tag in the text of DmaBackend has a test in the suite, and each tagged test a line in the text', () => {
  const source = readFileSync(new URL('../../dma/src/backend.ts', import.meta.url), 'utf8')
  const contract = source.slice(source.indexOf('The guest half of a scheme'))
  const names: string[] = []
  describeDmaScheme(
    { expect, describe: (_name, body) => body(), test: (name) => void names.push(name) },
    bouncingScheme(),
    { failNext: () => {} },
  )
  const [inText, inTests] = [tagsIn(contract), tagsIn(names.join(' '))]
  expect([...inTests].sort()).toEqual([...inText].sort())
  expect(inText.size).toBeGreaterThan(10)
})
