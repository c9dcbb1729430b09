import type { Scenario, ScenarioModule } from '../contract/scenario.ts'
import { guestScenarios } from '../scenarios/guest-scenarios.ts'
import type { Schemes } from '../scenarios/machines.ts'
import { MEASURED } from '../scenarios/schemes.ts'
import { schemesIn } from './own-schemes.ts'

/** Modules that a worker loads, by their addresses. */
export interface Modules {
  /** Of scenarios of one's own, in place of what guests do. */
  readonly scenarios?: string
  /** Of schemes of one's own, beside those that come along. */
  readonly schemes: readonly string[]
}

/** What a worker can be asked to do. */
export interface Work {
  readonly scenarios: readonly Scenario[]
  /** What can be attacked. */
  readonly schemes: Schemes
}

/** Loads what a worker works with. */
export async function loadWork({ scenarios, schemes }: Modules): Promise<Work> {
  if (scenarios !== undefined)
    return { scenarios: ((await import(scenarios)) as ScenarioModule).scenarios, schemes: MEASURED }
  const own = await Promise.all(
    schemes.map(async (address) => schemesIn((await import(address)) as Record<string, unknown>, address)),
  )
  const known = Object.assign({}, MEASURED, ...own) as Schemes
  return { scenarios: guestScenarios(known), schemes: known }
}
