// How fast a Linux guest reads a disk of ours, beside one of QEMU's own. A program of its own, run on the built packages by
// `bench guests`. Prints a line of JSON for each figure.
import { endWithParent } from '@guestdma/bench/program'
import { measureGuests } from '@guestdma/peers'

endWithParent()
try {
  for await (const figure of measureGuests()) process.stdout.write(`${JSON.stringify(figure)}\n`)
} catch (error) {
  // Such as a kernel that is to be built first.
  process.stderr.write(`${(error as Error).message}\n`)
  process.exit(1)
}
process.exit()
