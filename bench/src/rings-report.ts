import { formatTable, textColumns, wrap } from '@guestdma/bench/program'
import type { FigureProgram } from './figure-program.ts'
import type { RingFigure } from './rings.ts'

const FEATURES: readonly RingFigure['feature'][] = ['in-order', 'indirect', 'barriers']
const RUNS = (['split', 'packed'] as const).flatMap((ring) => FEATURES.map((feature) => [ring, feature]))

export const RINGS: FigureProgram<RingFigure> = {
  name: 'rings',
  schema: 'guestdma-rings-1',
  what: 'what features of a ring cost: IN_ORDER, indirect tables, barriers',
  total: RUNS.length,
  runs: RUNS,
  format: formatRings,
}

/** What each kind of work is. */
export const RING_WORK: Readonly<Record<RingFigure['feature'], string>> = {
  'in-order': 'IN_ORDER, one used element for a batch: a frame of 64 bytes is sent, in batches of 32',
  indirect: 'INDIRECT_DESC: a request of three descriptors to write 512 bytes, in batches of 32',
  barriers: 'the barriers of a frame that is sent alone: there, and without what they take by themselves',
}

function formatRings(figures: readonly RingFigure[]): string {
  const columns = textColumns()
  const titles = [
    { title: 'ring' },
    { title: 'feature' },
    { title: 'with, ns', decimals: 1 },
    { title: 'without', decimals: 1 },
    { title: 'ratio', decimals: 2 },
  ]
  const rows = figures.map((one) => [one.ring, one.feature, one.with, one.without, one.with / one.without])
  const legend = FEATURES.map((feature) => wrap(`${feature}: ${RING_WORK[feature]}.`, columns)).join('')
  return `${formatTable(titles, rows)}\n${legend}`
}
