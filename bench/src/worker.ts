import { loadWork, type Modules, runWorker } from '@guestdma/bench'
import { loadCrowd } from './crowd.ts'

// With a crowd of other schemes where a run asks for it.
const work = await loadWork(JSON.parse(process.argv[3]) as Modules)
await runWorker({
  ...work,
  scenarios: work.scenarios.map((scenario) => ({
    ...scenario,
    async prepare(variant) {
      if (variant.crowded) await loadCrowd(variant.base)
      return scenario.prepare(variant)
    },
  })),
})
