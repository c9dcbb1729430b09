import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { ScaleResult } from '@guestdma/bench'

/** A figure before it is compared with that of the smallest size. */
export type Grown = Omit<ScaleResult, 'backend' | 'ratio'>

const WARM_MS = 200
const ROUNDS = 15
const ROUND_MS = 25

/**
 * Nanoseconds for one operation of a batch of `operations`: the fastest of some rounds, since a machine is only ever
 * slowed down.
 */
export function fastest(operations: number, batch: () => void): number {
  let batches = 0
  for (const end = performance.now() + WARM_MS; performance.now() < end || batches < 2; batches++) batch()
  const each = Math.max(1, Math.ceil((batches * ROUND_MS) / WARM_MS))
  let best = Infinity
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now()
    for (let i = 0; i < each; i++) batch()
    best = Math.min(best, performance.now() - start)
  }
  return (best * 1e6) / each / operations
}

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** Bytes of objects and typed arrays that are still used. */
export function bytesInUse(): number {
  // What a collection finds unused is given back by the next one.
  for (let i = 0; i < 3; i++) collect()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}
