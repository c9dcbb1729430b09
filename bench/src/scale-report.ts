import type { ScaleResult } from '@guestdma/bench'
import { formatTable, textColumns, wrap } from '@guestdma/bench/program'
import type { FigureProgram } from './figure-program.ts'

export const SCALE: FigureProgram<ScaleResult> = {
  name: 'scale',
  schema: 'guestdma-scale-1',
  what: 'what grows with live mappings, queue sizes, devices on one pool\nand endpoints of one IOMMU',
  total: 192,
  runs: [
    ['mappings', 'none'],
    ['mappings', 'idle-iommu'],
    ['mappings', 'virtio-iommu'],
    ['mappings', 'shared-pool'],
    ['queues', 'direct'],
    ['queues', 'shared-pool'],
    ['queues', 'virtio-iommu'],
    ['devices', 'direct'],
    ['devices', 'shared-pool'],
    ['domains', 'virtio-iommu'],
  ],
  format: formatScale,
}

const HEADS: Readonly<Record<ScaleResult['what'], string>> = {
  'live-mappings': 'ns for one map and one unmap in batches of 32, by how many mappings are live.',
  memory: 'Bytes of backend, domain and device for each live mapping, by how many there are.',
  'queue-size': 'ns for a frame of 64 bytes, by entries of the queue.',
  devices: 'By devices of one machine, on one pool: ns for a frame, and bytes for each device.',
  domains: 'By endpoints behind one IOMMU: ns for a frame, and bytes for each endpoint.',
}

const LEGEND =
  '×: the largest size against the smallest. none: touching the rows of the table that a caller has. idle-iommu: an ' +
  'IOMMU that does nothing, at once. near: rows out of a hundred neighbours, where tables are as large and caches as ' +
  'warm. burst: 1,024 frames of one device before the next one sends.'

/** A table for each of what grows: a line for each kind of work, a column for each size. */
function formatScale(figures: readonly ScaleResult[]): string {
  const columns = textColumns()
  const tables = Object.entries(HEADS).flatMap(([what, head]) => {
    const of = figures.filter((figure) => figure.what === what)
    if (of.length === 0) return []
    const sizes = [...new Set(of.map(({ size }) => size))].sort((a, b) => a - b)
    const lines = new Map(of.map(({ backend, detail, unit }) => [`${backend} ${detail}`, { backend, detail, unit }]))
    const rows = [...lines.values()].map(({ backend, detail, unit }) => {
      const line = of.filter((figure) => figure.backend === backend && figure.detail === detail)
      const cells = sizes.map((size) => line.find((figure) => figure.size === size)?.value ?? '')
      return [backend, `${detail} (${unit})`, ...cells, line.at(-1)?.ratio ?? '']
    })
    const titles = [
      { title: 'backend' },
      { title: 'work' },
      ...sizes.map((size) => ({ title: size.toLocaleString('en'), decimals: 0 })),
      { title: '×', decimals: 2 },
    ]
    return [`${wrap(head, columns)}\n${formatTable(titles, rows)}`]
  })
  return `${tables.join('\n')}\n${wrap(LEGEND, columns)}`
}
