import { describe, expect, test } from 'vitest'
import { codePage, codeProblems, collectCodes, type PackageCodes, packageSources } from '../lib/error-codes.ts'
import { repository } from '../lib/workspace.ts'

const row = (code: string) => ({ code, meaning: 'It broke.', advice: 'Mend it.', class: 'ToyError' })
const toys: PackageCodes = { name: 'toys', table: 'TOY_CODES', codes: [row('TOY_LOST'), row('TOY_PART_WHEEL')] }
const source = (text: string) => [{ path: 'packages/toys/src/toy.ts', text }]
const THROWS = "throw new ToyError('TOY_LOST'); throw new ToyError('TOY_PART_WHEEL')"

describe('the check of error codes', () => {
  test('takes a table whose codes are all used, also one that is put together', () => {
    expect(codeProblems([toys], source(THROWS))).toEqual([])
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is source text
    expect(codeProblems([toys], source("f('TOY_LOST', `TOY_PART_${part}`)"))).toEqual([])
  })

  test('names a code that nothing uses', () => {
    expect(codeProblems([toys], source("f('TOY_LOST')"))).toEqual(['TOY_PART_WHEEL of TOY_CODES is used nowhere'])
  })

  test('names a code that is in no table, with its file', () => {
    expect(codeProblems([toys], source(`${THROWS}; f('TOY_STRAY', 'OTHER_WORD')`))).toEqual([
      "packages/toys/src/toy.ts: 'TOY_STRAY' is in no table of codes",
    ])
  })

  test('names a code that is in two tables', () => {
    const more: PackageCodes = { name: 'more', table: 'MORE_CODES', codes: [row('TOY_LOST')] }
    expect(codeProblems([toys, more], source(THROWS))).toEqual(['TOY_LOST is in TOY_CODES and in MORE_CODES'])
  })

  test('finds the class of a code, and the subclass that is made for one alone', async () => {
    const all = (await collectCodes(repository, packageSources(repository))).flatMap(({ codes }) => codes)
    const classOf = (code: string) => all.find((one) => one.code === code)?.class
    expect(classOf('DMA_ALLOC')).toBe('DmaError')
    expect(classOf('DMA_CONFLICT')).toBe('DmaConflictError')
    expect(classOf('TRANSPORT_LOST')).toBe('TransportLostError')
  })

  test('writes one row per code', () => {
    expect(codePage([toys])).toContain('| `TOY_LOST` | It broke. | Mend it. | `ToyError` |\n')
  })
})
