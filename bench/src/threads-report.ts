import { formatTable, textColumns, wrap } from '@guestdma/bench/program'
import type { FigureProgram } from './figure-program.ts'
import type { ThreadFigure } from './threads.ts'

const SCHEMES = ['direct', 'shared-pool', 'on-device']

export const THREADS: FigureProgram<ThreadFigure> = {
  name: 'threads',
  schema: 'guestdma-threads-1',
  what: 'frames per second with the device in a worker, on a core of\nits own, beside both on one core',
  // Both ring formats; a process for each scheme.
  total: 2 * SCHEMES.length,
  runs: SCHEMES.map((scheme) => [scheme]),
  format: formatThreads,
}

/** One line for each scheme and ring format. */
function formatThreads(figures: readonly ThreadFigure[]): string {
  const columns = textColumns()
  const rows = figures.map(({ scheme, format, oneCore, twoCores }) => {
    return [scheme, format, Math.round(oneCore), Math.round(twoCores), twoCores / oneCore]
  })
  const titles = ['scheme', 'ring', 'one core', 'two cores'].map((title) => ({ title }))
  const head = 'Frames of 64 bytes per second, sent in batches of 32, driver and device on one core and on two.'
  const legend = 'On two cores the device is in a worker, which was given the memory of its scheme and no other.'
  const table = formatTable([...titles, { title: 'ratio', decimals: 2 }], rows)
  return `${wrap(head, columns)}\n${table}\n${wrap(legend, columns)}`
}
