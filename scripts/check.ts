import { parseArgs } from 'node:util'
import { pnpm, runSteps } from './lib/run.ts'
import { lintTarballs, packAll, temporaryDirectory } from './lib/tarballs.ts'

const usage = `Every static check: types, lint and format, what nothing uses, the pages of errors and of normative sentences,
publint on freshly built and packed tarballs.

  pnpm check`

const { values } = parseArgs({ options: { help: { type: 'boolean', short: 'h' } } })
if (values.help) {
  console.log(usage)
} else {
  await runSteps('check', [
    ['types', () => pnpm(['--silent', 'typecheck'])],
    ['errors', () => pnpm(['--silent', 'errors', '--check'])],
    ['lint', () => pnpm(['--silent', 'lint'])],
    ['unused', () => pnpm(['--silent', 'unused'])],
    ['conformance', () => pnpm(['--silent', 'conformance', '--check'])],
    ['publint', async () => lintTarballs(await packAll(temporaryDirectory()))],
  ])
}
