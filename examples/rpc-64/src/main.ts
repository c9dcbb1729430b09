// Measures the workload of rpc-64.ts over four schemes. Run it with
//   npx -y pnpm@12.21.0 exec node examples/rpc-64/src/main.ts
// It is what `npx @guestdma/bench run rpc-64.ts --quick` does; --help and --json FILE go through.
import { fileURLToPath } from 'node:url'
import { guestdmaBench } from '@guestdma/bench'
import { runProgram } from '@guestdma/bench/program'

const scenarios = fileURLToPath(new URL('rpc-64.ts', import.meta.url))

await runProgram((args) => guestdmaBench(['run', scenarios, '--quick', ...args]))
