import { parseArgs } from 'node:util'
import { build } from './lib/build.ts'
import { runSteps } from './lib/run.ts'

const usage = `Compiles every package into packages/*/dist, from scratch.

  pnpm build
  pnpm build --json    one JSON object instead of a line of text`

const { values } = parseArgs({ options: { json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } })
if (values.help) console.log(usage)
else await runSteps('build', [['tsc', build]], values.json)
