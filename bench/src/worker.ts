import { runWorker } from '@guestdma/bench'
import { SCENARIOS } from './scenarios.ts'

await runWorker(SCENARIOS)
