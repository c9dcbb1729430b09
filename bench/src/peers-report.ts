import { formatTable, textColumns, wrap } from '@guestdma/bench/program'
import type { FigureProgram } from './figure-program.ts'
import type { PeerFigure } from './peers.ts'

export const PEERS: FigureProgram<PeerFigure> = {
  name: 'peers',
  schema: 'guestdma-peers-speed-1',
  what: 'devices of other processes, beside the bare ring',
  needs: 'qemu-storage-daemon and dpdk-testpmd (Debian: qemu-system-common,\ndpdk-dev)',
  total: 6,
  format: formatPeers,
}

/** One line for each kind of work. */
function formatPeers(figures: readonly PeerFigure[]): string {
  const columns = textColumns()
  const titles = ['peer', 'work', 'backend', 'bare', 'driver']
  const rows = figures.map(({ peer, work, backend, bare, driver, ratio }) => {
    return [peer, work, backend, Math.round(bare), Math.round(driver), ratio]
  })
  const head = 'Requests or frames per second over vhost-user, the bare ring and the driver in turns.'
  const legend = 'bare: the loads and stores of a ring on the same kind of connection, and nothing else.'
  const table = formatTable([...titles.map((title) => ({ title })), { title: 'ratio', decimals: 2 }], rows)
  return `${wrap(head, columns)}\n${table}\n${wrap(legend, columns)}`
}
