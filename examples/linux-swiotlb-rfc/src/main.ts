// Linux with the guest half of the SWIOTLB RFC, on devices that reach only their own memory. Run it with
//   npx -y pnpm@12.21.0 exec node examples/linux-swiotlb-rfc/src/main.ts
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { showProgram } from '@guestdma/example-v86-guest'
import { shows, totals } from './shows.ts'

const HELP = `Usage: npx -y pnpm@12.21.0 exec node examples/linux-swiotlb-rfc/src/main.ts [--show NAME]

Boots Linux in v86. Its disk and its network card bring memory along, behind a BAR each, and reach nothing
else. With the patches in this folder Linux follows the SWIOTLB RFC of April 2025: rings, tables and data lie
in that memory. Exit code 0 if all is as it is said here, 1 if not.

${shows.map(({ name, what }) => `  --show ${name.padEnd(9)} ${what}`).join('\n')}
  --json           one JSON object instead of text
  --results FILE   also writes what was counted, for docs/rfc-findings.md
  --help           this text

Kernels come from scripts/guest-kernel.mjs, which builds each once.
`

await showProgram('linux-swiotlb-rfc', async () => {
  const { values } = parseArgs({
    options: {
      show: { type: 'string', default: 'works' },
      json: { type: 'boolean' },
      results: { type: 'string' },
      help: { type: 'boolean' },
    },
  })
  if (values.help === true) return HELP
  const show = shows.find(({ name }) => name === values.show)
  if (show === undefined) {
    throw new Error(`--show ${values.show}: must be one of ${shows.map(({ name }) => name).join(', ')}`)
  }
  return {
    json: values.json === true,
    what: show.what,
    async run(print) {
      const shown = await show.run(print)
      const results = shown.runs.map(({ kernel, devices }) => ({ kernel, ...totals(devices) }))
      const complete = shown.checks.every(({ ok }) => ok)
      if (values.results !== undefined) {
        writeFileSync(values.results, `${JSON.stringify({ show: show.name, complete, results }, null, 2)}\n`)
      }
      return shown
    },
  }
})
