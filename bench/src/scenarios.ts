import { guestScenarios, MEASURED, type Scenario } from '@guestdma/bench'
import { loadCrowd } from './crowd.ts'

/** All that this repository measures; with a crowd of other schemes where a run asks for it. */
export const SCENARIOS: readonly Scenario[] = guestScenarios(MEASURED).map((scenario) => ({
  ...scenario,
  async prepare(variant) {
    if (variant.crowded) await loadCrowd(variant.base)
    return scenario.prepare(variant)
  },
}))
