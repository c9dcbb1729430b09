import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { codePage, codeProblems, collectCodes, packageSources } from './lib/error-codes.ts'
import { repository } from './lib/workspace.ts'

const usage = `Writes docs/errors.md: each error code with its meaning, what to do about it, and its class.

  pnpm errors            write the page
  pnpm errors --check    fail where the page is out of date, a code is in no table, or nothing uses it
  pnpm errors --json     print the tables`

const page = join(repository, 'docs/errors.md')

const { values } = parseArgs({
  options: { check: { type: 'boolean' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
})
if (values.help) {
  console.log(usage)
} else {
  const sources = packageSources(repository)
  const packages = await collectCodes(repository, sources)
  const problems = codeProblems(packages, sources)
  const text = codePage(packages)
  if (values.json) {
    console.log(JSON.stringify(packages, null, 2))
  } else if (values.check) {
    if (!existsSync(page) || readFileSync(page, 'utf8') !== text)
      problems.push('docs/errors.md is out of date: run pnpm errors')
  } else {
    writeFileSync(page, text)
  }
  for (const problem of problems) console.error(problem)
  if (problems.length > 0) process.exitCode = 1
}
