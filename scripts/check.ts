import { parseArgs } from 'node:util'
import { pnpm, runSteps } from './lib/run.ts'
import { lintTarballs, packAll, temporaryDirectory } from './lib/tarballs.ts'

const usage = `Every static check: types, lint and format, what nothing uses, the pages of errors and of normative sentences,
figures in texts, publint on freshly built and packed tarballs.

  pnpm check
  pnpm check --json    one JSON object instead of a line of text`

const { values } = parseArgs({ options: { json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } })
if (values.help) {
  console.log(usage)
} else {
  await runSteps(
    'check',
    [
      ['types', () => pnpm(['--silent', 'typecheck'])],
      ['lint', () => pnpm(['--silent', 'lint'])],
      ['unused', () => pnpm(['--silent', 'unused'])],
      ['errors', () => pnpm(['--silent', 'errors', '--check'])],
      ['conformance', () => pnpm(['--silent', 'conformance', '--check'])],
      ['figures', () => pnpm(['--silent', 'figures', '--check'])],
      ['publint', async () => lintTarballs(await packAll(temporaryDirectory()))],
    ],
    values.json,
  )
}
