import type { BenchResult, ExposureResult, Subject } from '../contract/result.ts'
import type { Scenario } from '../contract/scenario.ts'
import { attack } from '../exposure/attack.ts'
import type { AttackOptions } from '../exposure/options.ts'
import { endWithParent, turn } from '../program/stop.ts'
import { count } from './count.ts'
import { type Effort, measure } from './measure.ts'
import type { Work } from './modules.ts'

/** An attack, as one process can be asked for it. */
export type AttackCase = Omit<AttackOptions, 'schemes'>

/** What one process is asked for. */
export type Job =
  | {
      /** Times, or exact counters: what counts would be in the times. */
      readonly what: 'times' | 'counters'
      readonly subjects: readonly Subject[]
      readonly effort: Effort
      readonly lastLevelCacheBytes: number
      readonly base: number
      readonly crowded: boolean
    }
  | { readonly what: 'attacks'; readonly attacks: readonly AttackCase[] }

/** What a process answers, line by line. */
export type Answer =
  | { readonly times: Omit<BenchResult, 'counters'> }
  | { readonly counters: BenchResult['counters'] }
  | { readonly exposure: ExposureResult }

/**
 * The body of a worker program: takes the job from the command line, runs it, prints an answer for each case as a line of
 * JSON. Ends when the runner does.
 */
export async function runWorker({ scenarios, schemes }: Work): Promise<void> {
  const job = JSON.parse(process.argv[2] ?? 'null') as Job | null
  if (job === null) throw new Error('a worker is started by the runner, with its job as argument')
  endWithParent()
  const answer = (text: Answer): void => void process.stdout.write(`${JSON.stringify(text)}\n`)
  if (job.what === 'attacks') {
    for (const one of job.attacks) {
      await turn()
      answer({ exposure: await attack({ ...one, schemes }) })
    }
    return
  }
  for (const subject of job.subjects) {
    await turn()
    const prepared = await scenarioOf(scenarios, subject).prepare({
      ...subject,
      lastLevelCacheBytes: job.lastLevelCacheBytes,
      base: job.base,
      crowded: job.crowded,
      counting: job.what === 'counters',
    })
    try {
      if (job.what === 'times') answer({ times: await measure(subject, prepared, job.effort) })
      else answer({ counters: count(prepared) })
    } finally {
      await prepared.close()
    }
  }
}

function scenarioOf(scenarios: readonly Scenario[], { driver, operation }: Subject): Scenario {
  const found = scenarios.find((scenario) => scenario.driver === driver && scenario.operation === operation)
  if (found !== undefined) return found
  throw new Error(`no scenario ${driver} ${operation}`)
}
