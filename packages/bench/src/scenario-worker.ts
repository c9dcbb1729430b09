// The worker of `guestdma-bench run`: its second argument is the address of the module with the scenarios.
import type { ScenarioModule } from './scenario.ts'
import { runWorker } from './worker.ts'

const { scenarios } = (await import(process.argv[3])) as ScenarioModule
await runWorker(scenarios)
