import { type Modules, runWorker, scenariosOf } from '@guestdma/bench'
import { loadCrowd } from './crowd.ts'

// With a crowd of other schemes where a run asks for it.
const scenarios = await scenariosOf(JSON.parse(process.argv[3]) as Modules)
await runWorker(
  scenarios.map((scenario) => ({
    ...scenario,
    async prepare(variant) {
      if (variant.crowded) await loadCrowd(variant.base)
      return scenario.prepare(variant)
    },
  })),
)
