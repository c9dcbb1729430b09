import { describe, expect, test } from 'vitest'
import { sentenceProblems } from '../lib/sentence-check.ts'
import { sentencePage } from '../lib/sentence-page.ts'
import type { SentenceTest } from '../lib/sentence-tests.ts'
import type { Cause } from '../sentences/reasons.ts'
import { type Chapter, type Sentence, sentencesOf } from '../sentences/sentence.ts'

const README =
  '# x\n\n| Virtqueue | packed ring |\n\nNot supported:\n\n| | |\n|---|---|\n| Virtqueue | packed ring; more |\n\n## y\n'
const REASONS: Record<string, Cause> = {
  administration: { kind: 'not built', why: 'There is none.', readme: ['Virtqueue', 'packed ring'] },
}

const sentence = (key: string, more: Partial<Sentence> = {}): Sentence => ({
  key,
  level: 'MUST',
  side: 'driver',
  asks: 'The driver does so.',
  reason: undefined,
  count: 1,
  ...more,
})
const tested = (...keys: string[]): SentenceTest => ({
  file: 'a/test/b.test.ts',
  title: 'does so',
  keys,
  skipped: false,
})
const packed = sentence('2.8/so', { reason: 'administration' })
const problems = (sentences: readonly Sentence[], tests: readonly SentenceTest[], readme = README): string[] =>
  sentenceProblems(sentences, REASONS, tests, readme)

describe('what pnpm conformance --check refuses', () => {
  test('nothing, where each sentence has either a test or a reason', () => {
    expect(problems([sentence('1/a'), packed], [tested('1/a')])).toEqual([])
  })

  test.each<[string, Sentence[], SentenceTest[], string]>([
    ['neither test nor reason', [sentence('1/a'), packed], [], '1/a has neither a test nor a reason'],
    ['a skipped test only', [sentence('1/a'), packed], [{ ...tested('1/a'), skipped: true }], '1/a has neither'],
    ['both', [packed], [tested('2.8/so')], '2.8/so has a test, and "administration"'],
    ['an unknown key', [packed], [tested('9/z')], 'names 9/z, which is no sentence'],
    ['one key twice', [packed, packed], [], '2.8/so stands in the list twice'],
    ['a reason without a sentence', [sentence('1/a')], [tested('1/a')], 'no sentence has the reason "administration"'],
    [
      'several sentences as one that is tested',
      [packed, sentence('1/a', { count: 2 })],
      [tested('1/a')],
      'for 2 sentences',
    ],
  ])('%s', (_, sentences, tests, problem) => {
    expect(problems(sentences, tests)).toEqual([expect.stringContaining(problem)])
  })

  test('a reason that the README does not name among what is not supported', () => {
    const moved = README.replace('packed ring; more', 'more')
    expect(problems([packed], [], moved)).toEqual([expect.stringContaining('row "Virtqueue"')])
  })
})

test('the page names the tests of a sentence by file and title, and the others by reason', () => {
  const chapter: Chapter = {
    title: 'Rings',
    sections: [
      {
        number: '2.7',
        title: 'Driver Requirements: x',
        side: 'driver',
        sentences: {
          so: ['MUST', 'The driver does so.'],
          not: ['SHOULD', 'The driver does not.', 'administration', 3],
        },
      },
    ],
  }
  const page = sentencePage([chapter], REASONS, [tested('2.7/so')])
  expect(page).toContain('| Rings | 4 | 1 | 3 | 0 |')
  expect(page).toContain('| so | MUST | The driver does so. | [a/b]: does so |')
  expect(page).toContain('- `2.7/not`, 3 sentences, SHOULD: The driver does not.')
  expect(page).toContain('[a/b]: ../a/test/b.test.ts')
  expect(sentencesOf(chapter.sections[0]!).map(({ key }) => key)).toEqual(['2.7/so', '2.7/not'])
})
