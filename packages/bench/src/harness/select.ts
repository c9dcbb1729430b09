import { processKey, type Subject } from '../contract/result.ts'

const DIMENSIONS = ['driver', 'operation', 'backend', 'mode', 'ring', 'bytes', 'batch', 'buffers'] as const

/**
 * A pairwise covering: those cases that are wanted in any case, and as many others as it takes for each pair of values
 * that occurs in some case of an operation to occur in one that is chosen. Deterministic; in the order of `all`.
 */
export function selectPairwise(all: readonly Subject[], wanted: (subject: Subject) => boolean): Subject[] {
  const pairs = all.map(pairsOf)
  const missing = new Set(pairs.flat())
  const chosen = new Set<number>()
  const choose = (i: number): void => {
    chosen.add(i)
    for (const pair of pairs[i]) missing.delete(pair)
  }
  for (const [i, subject] of all.entries()) if (wanted(subject)) choose(i)
  // Gains only shrink, so a case whose gain still leads after it was looked at again is the best one.
  const gains = pairs.map((list) => list.length)
  while (missing.size > 0) {
    let best = 0
    let most = 0
    for (let i = 0; i < all.length; i++) {
      if (gains[i] <= most) continue
      gains[i] = pairs[i].reduce((gain, pair) => gain + (missing.has(pair) ? 1 : 0), 0)
      if (gains[i] <= most) continue
      best = i
      most = gains[i]
    }
    choose(best)
  }
  return all.filter((_, i) => chosen.has(i))
}

// Operations differ in what values they have, so each is covered by itself.
function pairsOf(subject: Subject): string[] {
  const { driver, operation } = subject
  return DIMENSIONS.slice(2).flatMap((a, i) =>
    DIMENSIONS.slice(3 + i).map((b) => `${driver} ${operation} ${a}=${subject[a]} ${b}=${subject[b]}`),
  )
}

/** Part `index` of `of`: whole groups of one process each, dealt out in turn, so that each part takes about as long. */
export function shardOf(subjects: readonly Subject[], index: number, of: number): Subject[] {
  const groups = [...new Set(subjects.map(processKey))]
  const mine = new Set(groups.filter((_, i) => i % of === index - 1))
  return subjects.filter((subject) => mine.has(processKey(subject)))
}
