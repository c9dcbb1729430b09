import { parseArgs } from 'node:util'
import { type ArrowTable, checkArrows } from './lib/arrows.ts'
import { fixManifests } from './lib/manifests.ts'
import { run } from './lib/run.ts'
import { packagesIn, readJson, repository } from './lib/workspace.ts'

const usage = `Checks every import in packages/, bench/ and examples/ against scripts/arrows.json, and every package's
dependencies against its imports.

  pnpm arrows          one line per problem, exit code 1 if there is any
  pnpm arrows --fix    first writes the workspace dependencies and build references that the imports need;
                       run \`pnpm install\` afterwards
  pnpm arrows --json   the problems as one JSON list`

const { values } = parseArgs({
  options: { help: { type: 'boolean', short: 'h' }, fix: { type: 'boolean' }, json: { type: 'boolean' } },
})
if (values.help) {
  console.log(usage)
} else {
  if (values.fix) {
    fixManifests(repository)
    const written = ['package.json', 'tsconfig.build.json']
    await run('biome', [
      'format',
      '--write',
      ...packagesIn(repository, 'packages').flatMap(({ dir }) => written.map((file) => `${dir}/${file}`)),
    ])
  }
  const problems = checkArrows(repository, readJson<ArrowTable>(`${repository}/scripts/arrows.json`))
  if (values.json) console.log(JSON.stringify(problems))
  else for (const problem of problems) console.error(problem)
  if (problems.length > 0) process.exitCode = 1
}
