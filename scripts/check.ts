import { parseArgs } from 'node:util'
import { pnpm, runSteps } from './lib/run.ts'
import { lintTarballs, packAll, temporaryDirectory } from './lib/tarballs.ts'

const usage = `Every static check: import arrows, types, error codes, lint and format, publint on freshly built and packed tarballs.

  pnpm check`

const { values } = parseArgs({ options: { help: { type: 'boolean', short: 'h' } } })
if (values.help) {
  console.log(usage)
} else {
  await runSteps('check', [
    ['arrows', () => pnpm(['--silent', 'arrows'])],
    ['types', () => pnpm(['--silent', 'typecheck'])],
    ['errors', () => pnpm(['--silent', 'errors', '--check'])],
    ['lint', () => pnpm(['--silent', 'lint'])],
    ['publint', async () => lintTarballs(await packAll(temporaryDirectory()))],
  ])
}
