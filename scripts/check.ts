import { parseArgs } from 'node:util'
import { pnpm, runSteps } from './lib/run.ts'
import { lintTarballs, packAll, temporaryDirectory } from './lib/tarballs.ts'

const usage = `Every static check: import arrows, types, lint and format, the page of normative sentences, publint on freshly built and packed tarballs.

  pnpm check`

const { values } = parseArgs({ options: { help: { type: 'boolean', short: 'h' } } })
if (values.help) {
  console.log(usage)
} else {
  await runSteps('check', [
    ['arrows', () => pnpm(['--silent', 'arrows'])],
    ['types', () => pnpm(['--silent', 'typecheck'])],
    ['lint', () => pnpm(['--silent', 'lint'])],
    ['conformance', () => pnpm(['--silent', 'conformance', '--check'])],
    ['publint', async () => lintTarballs(await packAll(temporaryDirectory()))],
  ])
}
