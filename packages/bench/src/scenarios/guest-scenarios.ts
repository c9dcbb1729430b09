import type { Scenario } from '../contract/scenario.ts'
import { requests } from './blk.ts'
import type { Schemes } from './machines.ts'
import { pingPong, receive, transmit } from './net.ts'

/** What a guest does with a network device and a disk, over the schemes that `backend` of a variant names. */
export function guestScenarios(schemes: Schemes): readonly Scenario[] {
  return [transmit(schemes), receive(schemes), pingPong(schemes), requests('read', schemes), requests('write', schemes)]
}
