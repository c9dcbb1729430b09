// Linux in v86 drives device models of guestdma, in one process. Run it with
//   npx -y pnpm@12.21.0 exec node examples/v86-guest/src/main.ts
import { parseArgs } from 'node:util'
import { showProgram } from './show.ts'
import { shows } from './shows.ts'

const HELP = `Usage: npx -y pnpm@12.21.0 exec node examples/v86-guest/src/main.ts [--json] [--help]

Boots Linux in v86, an emulator of PCs in JavaScript. Its disk and its network card are device models
of guestdma on v86's PCI bus. Linux reads the disk, writes into an ext4 there, and pings its host. In
the middle of the disk's work the machine is saved; a second machine goes on from there. Then the host
checks the file system. Exit code 0 if all is well, 1 if not.

  --kernel FILE   a bzImage for i386, in place of the one that scripts/guest-kernel.mjs builds
  --json          one JSON object instead of text
  --help          this text
`

await showProgram('v86-guest', async () => {
  const options = { kernel: { type: 'string' }, json: { type: 'boolean' }, help: { type: 'boolean' } } as const
  const { values } = parseArgs({ options })
  if (values.help === true) return HELP
  const [{ what, run }] = shows
  return { json: values.json === true, what, run: (print) => run(print, values.kernel) }
})
