import { relative } from 'node:path'
import { createVitest, type TestModule } from 'vitest/node'
import { repository } from './workspace.ts'

/** A test that names sentences as its tags. */
export interface SentenceTest {
  /** From the root of the repository. */
  readonly file: string
  readonly title: string
  readonly keys: readonly string[]
  /** A test that is skipped checks nothing. */
  readonly skipped: boolean
}

/**
 * The unit tests that have tags, in the order of files and lines, each once however many cases it has. Nothing is run.
 * Files are parsed; only those whose tests come from a suite elsewhere are imported.
 */
export async function collectSentenceTests(): Promise<{ tests: SentenceTest[]; problems: string[] }> {
  const options = { root: repository, watch: false, project: ['unit'], reporters: [] }
  const parser = await createVitest('test', options)
  const importer = await createVitest('test', options)
  try {
    const parsed = await parser.parseSpecifications(await parser.getRelevantTestSpecifications())
    const suites = parsed.filter((module) => module.children.size === 0).map((module) => module.moduleId)
    const specifications = await importer.getRelevantTestSpecifications(suites)
    const { testModules } = await importer.collectTests(specifications)
    const modules = [...parsed.filter((module) => module.children.size > 0), ...testModules]
    const tests = modules.flatMap(taggedTests).sort((a, b) => (a.file < b.file ? -1 : a.file > b.file ? 1 : 0))
    return { tests, problems: modules.flatMap(loadingProblems) }
  } finally {
    await parser.close()
    await importer.close()
  }
}

// Of an unknown tag vitest lists all that are known, in lines of their own.
function loadingProblems(module: TestModule): string[] {
  return module.errors().map(({ message }) => `${relative(repository, module.moduleId)}: ${message.split('\n')[0]}`)
}

function taggedTests(module: TestModule): SentenceTest[] {
  const file = relative(repository, module.moduleId)
  return [...module.children.allTests()]
    .filter((test) => test.tags.length > 0)
    .map((test) => {
      const skipped = test.options.mode === 'skip' || test.options.mode === 'todo'
      return { file, title: test.name, keys: test.tags, skipped }
    })
}
