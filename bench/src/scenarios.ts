import type { Scenario } from '@guestdma/bench'
import { read, write } from './blk-scenarios.ts'
import { pingPong, receive, transmit } from './net-scenarios.ts'

/** All that this repository measures. */
export const SCENARIOS: readonly Scenario[] = [transmit, receive, pingPong, read, write]
