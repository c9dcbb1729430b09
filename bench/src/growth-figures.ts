import { type BenchReport, markdownTable, type Quantiles, type ScaleResult } from '@guestdma/bench'
import { millions, whole } from './numbers.ts'

/** What texts quote of two cores, and of what grows. Throws where a result is missing. */
export function growthFigures(report: BenchReport): Readonly<Record<string, string>> {
  const { scale = [], threads = [] } = report
  const grown = (what: ScaleResult['what'], backend: string, detail: string, size: number): number => {
    const found = scale.find((one) => {
      return one.what === what && one.backend === backend && one.detail === detail && one.size === size
    })
    return found?.value ?? missing(`${what} ${backend} ${detail} ${size}`)
  }
  const mapping = (backend: string, detail: string, live: number): number =>
    grown('live-mappings', backend, detail, live)
  return {
    'threads-speed': threadsTable(report),
    'threads-handshake': whole(middle(threads.map(({ handshake }) => handshake)).median),
    'threads-handshake-asleep': whole(middle(threads.map(({ handshakeAsleep }) => handshakeAsleep)).median),
    scale: scaleTable(scale),
    'scale-touch-ratio': whole(mapping('none', 'random', 1e6) / mapping('none', 'random', 1e2)),
    'scale-bytes': whole(grown('memory', 'virtio-iommu', 'each mapping', 1e6)),
  }
}

function threadsTable({ threads = [] }: BenchReport): string {
  return markdownTable(
    ['scheme', 'ring', 'one core', 'two cores', 'ns of one, one core', 'ns of one, two cores'],
    threads.map(({ backend, ring, oneCore, twoCores, latencyOneCore, latencyTwoCores }) => [
      `\`${backend}\``,
      ring,
      millions(oneCore),
      millions(twoCores),
      whole(latencyOneCore.median),
      whole(latencyTwoCores.median),
    ]),
  )
}

// The smallest and the largest size of each, since what is between them is between them.
function scaleTable(scale: readonly ScaleResult[]): string {
  const lines = new Map<string, ScaleResult[]>()
  for (const one of scale) {
    const name = `${one.what} ${one.backend} ${one.detail}`
    lines.set(name, [...(lines.get(name) ?? []), one])
  }
  return markdownTable(
    ['what grows', 'backend', 'work', 'from', 'to', 'at first', 'in the end', '×'],
    [...lines.values()].map((line) => {
      const sorted = [...line].sort((a, b) => a.size - b.size)
      const [first, last] = [sorted[0], sorted[sorted.length - 1]]
      const value = (one: ScaleResult): string => `${whole(one.value)} ${one.unit}`
      return [
        first.what,
        `\`${first.backend}\``,
        first.detail,
        whole(first.size),
        whole(last.size),
        value(first),
        value(last),
        (last.value / first.value).toFixed(2),
      ]
    }),
  )
}

// The processes of all schemes measure the same, and where their threads run differs.
function middle(all: readonly Quantiles[]): Quantiles {
  const sorted = [...all].sort((a, b) => a.median - b.median)
  return sorted[sorted.length >> 1] ?? missing('two threads')
}

function missing(what: string): never {
  throw new Error(`there is no result for ${what}; measure anew: pnpm figures --measure`)
}
