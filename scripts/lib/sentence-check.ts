import type { Cause } from '../sentences/reasons.ts'
import type { Sentence } from '../sentences/sentence.ts'
import type { SentenceTest } from './sentence-tests.ts'

/** Everything that is wrong with the list of sentences, its reasons and its tests, a line for each. */
export function sentenceProblems(
  sentences: readonly Sentence[],
  reasons: Readonly<Record<string, Cause>>,
  tests: readonly SentenceTest[],
  readme: string,
): string[] {
  const problems: string[] = []
  const known = new Map<string, Sentence>()
  for (const sentence of sentences) {
    if (known.has(sentence.key)) problems.push(`${sentence.key} stands in the list twice`)
    known.set(sentence.key, sentence)
  }
  const tested = new Set<string>()
  for (const { file, title, keys, skipped } of tests) {
    for (const key of keys) {
      if (!known.has(key)) problems.push(`${file}: "${title}" names ${key}, which is no sentence of the list`)
      if (!skipped) tested.add(key)
    }
  }
  for (const { key, reason, count } of sentences) {
    if (reason === undefined && !tested.has(key)) problems.push(`${key} has neither a test nor a reason`)
    if (reason !== undefined && tested.has(key)) problems.push(`${key} has a test, and "${reason}" as a reason why not`)
    if (reason !== undefined && !Object.hasOwn(reasons, reason)) problems.push(`${key}: there is no reason "${reason}"`)
    if (reason === undefined && count !== 1) problems.push(`${key} stands for ${count} sentences, but has no reason`)
  }
  const rows = notSupported(readme)
  for (const [name, { readme: place }] of Object.entries(reasons)) {
    if (!sentences.some(({ reason }) => reason === name)) problems.push(`no sentence has the reason "${name}"`)
    if (place && !rows.get(place[0])?.includes(place[1])) {
      problems.push(`reason "${name}": the README's row "${place[0]}" of what is not supported has no "${place[1]}"`)
    }
  }
  return problems
}

/** The rows of the README's table of what is not supported, by their names. */
function notSupported(readme: string): Map<string, string> {
  const table = readme.split('\nNot supported:\n')[1]?.split(/\n#/)[0] ?? ''
  const rows = table.matchAll(/^\| ([^|]+) \| (.+) \|$/gm)
  return new Map([...rows].map(([, name, words]) => [name!, words!]))
}
