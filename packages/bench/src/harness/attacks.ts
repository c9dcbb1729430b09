import type { BenchFailure, ExposureResult } from '../contract/result.ts'
import { askInTurn, type WorkerOptions } from './processes.ts'
import type { AttackCase } from './worker.ts'

/** What came of attacks. */
export interface Attacked {
  readonly exposure: readonly ExposureResult[]
  readonly failures: readonly BenchFailure[]
}

/**
 * Attacks in a process of its own, one after the other: its clock is a virtual one, so nothing of it depends on time.
 *
 * @param onProgress called with how much is done, from 0 to 1
 * @throws Error if no process can be started
 */
export async function runAttacks(
  options: WorkerOptions,
  attacks: readonly AttackCase[],
  onProgress: (latest: AttackCase, fraction: number) => void,
): Promise<Attacked> {
  const exposure: ExposureResult[] = []
  const failures: BenchFailure[] = []
  let done = 0
  await askInTurn(
    options,
    attacks,
    (pending) => ({ what: 'attacks', attacks: pending }),
    (latest, answer) => {
      if ('exposure' in answer) exposure.push(answer.exposure)
      onProgress(latest, ++done / attacks.length)
    },
    (latest, message) => {
      const { driver, operation, backend, mode, ring, bytes } = latest
      const subject = { driver, operation, backend, mode, ring, bytes, batch: 1, buffers: 'warm' } as const
      failures.push({ subject, message: `attack: ${message}` })
      onProgress(latest, ++done / attacks.length)
    },
  )
  return { exposure, failures }
}
