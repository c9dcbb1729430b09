import { guestScenarios } from '../scenarios/guest-scenarios.ts'
import { MEASURED } from '../scenarios/schemes.ts'
import { schemesIn } from './own-schemes.ts'
import type { Scenario, ScenarioModule } from './scenario.ts'

/** Modules that a worker loads, by their addresses. */
export interface Modules {
  /** Of scenarios of one's own, in place of what guests do. */
  readonly scenarios?: string
  /** Of schemes of one's own, beside those that come along. */
  readonly schemes: readonly string[]
}

/** The scenarios that a worker runs. */
export async function scenariosOf({ scenarios, schemes }: Modules): Promise<readonly Scenario[]> {
  if (scenarios !== undefined) return ((await import(scenarios)) as ScenarioModule).scenarios
  const own = await Promise.all(
    schemes.map(async (address) => schemesIn((await import(address)) as Record<string, unknown>, address)),
  )
  return guestScenarios(Object.assign({}, MEASURED, ...own) as typeof MEASURED)
}
