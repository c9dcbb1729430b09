import { formatTable, textColumns, wrap } from '@guestdma/bench/program'
import type { FigureProgram } from './figure-program.ts'
import type { IovaFigure } from './iova.ts'

export const IOVA: FigureProgram<IovaFigure> = {
  name: 'iova',
  schema: 'guestdma-iova-1',
  what: 'what map and unmap cost behind an IOMMU with a thousand and\nwith a million live mappings',
  total: 12,
  format: formatIova,
}

/** One line for each domain and victim: few live mappings, many, and their ratio. */
function formatIova(figures: readonly IovaFigure[]): string {
  const columns = textColumns()
  const rows = (['table', 'none', 'virtio-iommu'] as const).flatMap((domain) =>
    (['hot', 'random'] as const).map((victim) => {
      const of = figures.filter((figure) => figure.domain === domain && figure.victim === victim)
      const few = of.find(({ live }) => live === 1e3)?.ns
      const many = of.find(({ live }) => live === 1e6)?.ns
      const ratio = few === undefined || many === undefined ? '' : many / few
      return [domain, victim, few ?? '', many ?? '', ratio]
    }),
  )
  const titles = [
    { title: 'IOMMU' },
    { title: 'victim' },
    { title: '10^3 live', decimals: 1 },
    { title: '10^6 live', decimals: 1 },
    { title: 'ratio', decimals: 2 },
  ]
  const head = 'ns for one map and one unmap in batches of 32, commits included.'
  const legend = "`table` touches a caller's own row and nothing else; `none` is an IOMMU that does nothing, at once."
  return `${wrap(head, columns)}\n${formatTable(titles, rows)}\n${wrap(legend, columns)}`
}
