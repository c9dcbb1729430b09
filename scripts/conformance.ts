import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { sentenceProblems } from './lib/sentence-check.ts'
import { sentencePage, standing } from './lib/sentence-page.ts'
import { collectSentenceTests } from './lib/sentence-tests.ts'
import { repository } from './lib/workspace.ts'
import { chapters, sentences } from './sentences/index.ts'
import { reasons } from './sentences/reasons.ts'

const usage = `Writes docs/conformance.md: each normative sentence of virtio 1.4 with its tests, or why it has none.

  pnpm conformance            write the page
  pnpm conformance --check    fail where the page is out of date, or a sentence has neither test nor reason, or both
  pnpm conformance --json     print the sentences and their tests`

const page = join(repository, 'docs/conformance.md')

const { values } = parseArgs({
  options: { check: { type: 'boolean' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
})
if (values.help) {
  console.log(usage)
} else {
  const { tests, problems } = await collectSentenceTests()
  problems.push(...sentenceProblems(sentences, reasons, tests, readFileSync(join(repository, 'README.md'), 'utf8')))
  const text = sentencePage(chapters, reasons, tests)
  if (values.json) {
    const rows = sentences.map((sentence) => ({
      ...sentence,
      standing: standing(sentence, reasons),
      tests: tests.filter(({ keys }) => keys.includes(sentence.key)).map(({ file, title }) => ({ file, title })),
    }))
    console.log(JSON.stringify(rows, null, 2))
  } else if (values.check) {
    if (!existsSync(page) || readFileSync(page, 'utf8') !== text)
      problems.push('docs/conformance.md is out of date: run pnpm conformance')
  } else {
    writeFileSync(page, text)
  }
  for (const problem of problems) console.error(problem)
  if (problems.length > 0) process.exitCode = 1
}
