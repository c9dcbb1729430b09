// The worker of `guestdma-bench run`: its second argument names modules with schemes, or one with scenarios.

import { loadWork, type Modules } from './harness/modules.ts'
import { loadTypeScriptApart } from './harness/own-schemes.ts'
import { runWorker } from './harness/worker.ts'

// Run from its sources this process has a compiler in it anyway.
if (import.meta.url.endsWith('.js')) loadTypeScriptApart()
await runWorker(await loadWork(JSON.parse(process.argv[3]) as Modules))
