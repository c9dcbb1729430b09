import type { BenchResult, Subject } from '../contract/result.ts'

/** Results that differ in their scheme and in a few dimensions that a picture shows, and in nothing else. */
export interface Slice {
  /** What they have in common, such as `net, map, split, warm, batch 32`. */
  readonly name: string
  readonly results: readonly BenchResult[]
}

type Dimension = Exclude<keyof Subject, 'backend'>

const DIMENSIONS: readonly Dimension[] = ['driver', 'operation', 'mode', 'ring', 'bytes', 'batch', 'buffers']
/** The loop of the harness, which is no scheme. */
export const HARNESS = 'none'

/** A slice with this share of the results of the fullest one is about as full. */
const FULL = 0.6

/** All slices in which `free` dimensions differ. Among those that are about full comes first what is asked for most. */
export function slicesOf(results: readonly BenchResult[], free: readonly Dimension[]): Slice[] {
  const fixed = DIMENSIONS.filter((dimension) => !free.includes(dimension))
  const slices = new Map<string, BenchResult[]>()
  for (const result of results) {
    if (result.backend === HARNESS) continue
    const name = fixed.map((dimension) => nameOf(dimension, result)).join(', ')
    const found = slices.get(name)
    if (found === undefined) slices.set(name, [result])
    else found.push(result)
  }
  const all = [...slices].map(([name, found]) => ({ name, results: found }))
  const most = Math.max(...all.map((slice) => slice.results.length))
  const isFull = (slice: Slice): number => (slice.results.length >= FULL * most ? 1 : 0)
  return all.sort(
    (a, b) =>
      isFull(b) - isFull(a) ||
      (isFull(a) ? rank(b) - rank(a) : 0) ||
      b.results.length - a.results.length ||
      rank(b) - rank(a),
  )
}

/** Slices with a line to draw: some scheme was measured at two values of `along` at least. */
export function linesOf(results: readonly BenchResult[], along: 'bytes' | 'batch'): Slice[] {
  return slicesOf(results, [along, 'operation']).filter((slice) => {
    const seen = new Map<string, number>()
    return slice.results.some((result) => {
      const line = `${result.operation} ${result.backend}`
      const before = seen.get(line)
      seen.set(line, result[along])
      return before !== undefined && before !== result[along]
    })
  })
}

// What is asked for most: mapped, warm buffers over the split ring, sent in batches of 32, small.
function rank({ results: [{ mode, ring, buffers, operation, batch, bytes }] }: Slice): number {
  const wanted = [
    mode === 'map',
    ring === 'split',
    buffers === 'warm',
    batch === 32,
    operation === 'transmit',
    bytes === 64,
  ]
  return wanted.reduce((sum, is, i) => sum + (is ? 2 ** (wanted.length - i) : 0), 0)
}

function nameOf(dimension: Dimension, subject: Subject): string {
  if (dimension === 'bytes') return `${subject.bytes.toLocaleString('en')} bytes`
  return dimension === 'batch' ? `batch ${subject.batch}` : subject[dimension]
}
