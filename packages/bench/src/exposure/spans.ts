/** Sorted, disjoint half-open spans of bytes, flat: [begin, end, begin, end, …]. */
export type Spans = readonly number[]

export const NO_SPANS: Spans = []

/** The union of spans in any order, which may overlap. */
export function union(...parts: Spans[]): Spans {
  const begins: [number, number][] = []
  for (const spans of parts) for (let i = 0; i < spans.length; i += 2) begins.push([spans[i], spans[i + 1]])
  begins.sort((a, b) => a[0] - b[0])
  const merged: number[] = []
  for (const [begin, end] of begins) {
    if (end <= begin) continue
    const last = merged.length - 1
    if (last > 0 && begin <= merged[last]) merged[last] = Math.max(merged[last], end)
    else merged.push(begin, end)
  }
  return merged
}

export function intersection(a: Spans, b: Spans): Spans {
  const common: number[] = []
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const begin = Math.max(a[i], b[j])
    const end = Math.min(a[i + 1], b[j + 1])
    if (begin < end) common.push(begin, end)
    if (a[i + 1] < b[j + 1]) i += 2
    else j += 2
  }
  return common
}

/** What is in `a` and not in `b`. */
export function difference(a: Spans, b: Spans): Spans {
  const left: number[] = []
  let j = 0
  for (let i = 0; i < a.length; i += 2) {
    let begin = a[i]
    const end = a[i + 1]
    while (j < b.length && b[j + 1] <= begin) j += 2
    for (let k = j; k < b.length && b[k] < end; k += 2) {
      if (b[k] > begin) left.push(begin, b[k])
      begin = Math.max(begin, b[k + 1])
    }
    if (begin < end) left.push(begin, end)
  }
  return left
}

/** The whole blocks of `size` bytes that the spans touch. */
export function blocks(spans: Spans, size: number): Spans {
  return union(spans.map((at, i) => (i % 2 === 0 ? Math.floor(at / size) : Math.ceil(at / size)) * size))
}

export function bytesOf(spans: Spans): number {
  let bytes = 0
  for (let i = 0; i < spans.length; i += 2) bytes += spans[i + 1] - spans[i]
  return bytes
}
