import { formatTable, textColumns, wrap } from '@guestdma/bench/program'
import type { GuestSpeed } from '@guestdma/peers'
import type { FigureProgram } from './figure-program.ts'

export const GUESTS: FigureProgram<GuestSpeed> = {
  name: 'guests',
  schema: 'guestdma-guests-speed-1',
  what: 'how fast a Linux guest reads a served disk, beside one of QEMU\nitself, by four schemes',
  needs:
    'qemu-system-arm, cpio, device-tree-compiler and what\nscripts/guest-kernel.mjs arm64 and scripts/guest-programs.mjs arm64 make',
  total: 8,
  format: formatGuests,
}

/** One line for each scheme and kind of work. */
function formatGuests(figures: readonly GuestSpeed[]): string {
  const columns = textColumns()
  const titles = ['scheme', 'reads of']
  const decimals = ['ratio', 'least', 'most'].map((title) => ({ title, decimals: 2 }))
  const rows = figures.map(({ scheme, work, ratio, least, most }) => [scheme, work, ratio, least, most])
  const head = 'How fast a Linux guest under TCG reads a served disk, divided by how fast it reads one of QEMU itself.'
  const legend = 'ratio: of the medians of all rounds; least and most: of the ratios of single rounds.'
  const table = formatTable([...titles.map((title) => ({ title })), ...decimals], rows)
  return `${wrap(head, columns)}\n${table}\n${wrap(legend, columns)}`
}
