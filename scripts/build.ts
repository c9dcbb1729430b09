import { parseArgs } from 'node:util'
import { build } from './lib/build.ts'
import { runSteps } from './lib/run.ts'

const usage = `Compiles every package into packages/*/dist, from scratch.

  pnpm build`

const { values } = parseArgs({ options: { help: { type: 'boolean', short: 'h' } } })
if (values.help) console.log(usage)
else await runSteps('build', [['tsc', build]])
