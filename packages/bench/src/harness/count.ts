import type { Prepared } from '../contract/scenario.ts'

// What a first lap does, such as to fill pools and rings, is no part of an operation.
const WARM_ROUNDS = 64
const ROUNDS = 64
const OPERATIONS = 2048

/**
 * What one operation counts: exact, and the same on every machine. To the counters of a scenario come `barriers`, which
 * are stores behind which nothing may be reordered, and `orderedLoads`.
 */
export function count(prepared: Prepared): Record<string, number> {
  for (let i = 0; i < WARM_ROUNDS; i++) prepared.round()
  const ordered = { stores: 0, loads: 0 }
  const before = prepared.counters()
  const restore = watchAtomics(ordered)
  let operations = 0
  try {
    for (let i = 0; i < ROUNDS || operations < OPERATIONS; i++) operations += prepared.round()
  } finally {
    restore()
  }
  const after = prepared.counters()
  const each = Object.entries(after).map(([name, value]) => [name, (value - (before[name] ?? 0)) / operations])
  return {
    ...Object.fromEntries(each),
    barriers: ordered.stores / operations,
    orderedLoads: ordered.loads / operations,
  }
}

// An atomic access is what the engine makes a barrier of. To count them in place would cost time in every measurement.
function watchAtomics(ordered: { stores: number; loads: number }): () => void {
  const { load, store } = Atomics
  const watched = Atomics as { load: unknown; store: unknown }
  watched.load = (...args: Parameters<typeof load>) => {
    ordered.loads++
    return load(...args)
  }
  watched.store = (...args: Parameters<typeof store>) => {
    ordered.stores++
    return store(...args)
  }
  return () => Object.assign(watched, { load, store })
}
