// The worker of `guestdma-bench run`: its second argument is the address of the module with the scenarios.
import type { ScenarioModule } from './harness/scenario.ts'
import { runWorker } from './harness/worker.ts'

const { scenarios } = (await import(process.argv[3])) as ScenarioModule
await runWorker(scenarios)
