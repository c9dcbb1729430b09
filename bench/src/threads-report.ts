import { formatTable, textColumns, wrap } from '@guestdma/bench/program'
import type { ThreadFigure } from './threads.ts'

/** The schemes that are measured, each in a process of its own. */
export const THREAD_SCHEMES = ['direct', 'shared-pool', 'on-device'] as const
/** What is printed in all: both ring formats for each scheme. */
export const THREAD_FIGURES: number = 2 * THREAD_SCHEMES.length

/** One line for each scheme and ring format. */
export function formatThreads(figures: readonly ThreadFigure[]): string {
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
