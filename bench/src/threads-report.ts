import type { Quantiles, ThreadResult } from '@guestdma/bench'
import { formatTable, textColumns, wrap } from '@guestdma/bench/program'
import type { FigureProgram } from './figure-program.ts'

const SCHEMES = ['direct', 'shared-pool', 'on-device']

export const THREADS: FigureProgram<ThreadResult> = {
  name: 'threads',
  schema: 'guestdma-threads-2',
  what: 'frames per second and latency with the device in a worker, on a\ncore of its own, beside both on one core',
  // Both ring formats; a process for each scheme.
  total: 2 * SCHEMES.length,
  runs: SCHEMES.map((scheme) => [scheme]),
  format: formatThreads,
}

/** Frames per second, then how long one takes, for each scheme and ring format; then the handshakes of each process. */
function formatThreads(figures: readonly ThreadResult[]): string {
  const columns = textColumns()
  const speeds = formatTable(
    [...['backend', 'ring', 'one core', 'two cores'].map((title) => ({ title })), { title: 'ratio', decimals: 2 }],
    figures.map(({ backend, ring, oneCore, twoCores }) => {
      return [backend, ring, Math.round(oneCore), Math.round(twoCores), twoCores / oneCore]
    }),
  )
  const quantiles = [{ title: 'median' }, { title: '5 %' }, { title: '95 %' }]
  const latencies = formatTable(
    [{ title: 'backend' }, { title: 'ring' }, { title: 'cores' }, ...quantiles],
    figures.flatMap(({ backend, ring, latencyOneCore, latencyTwoCores }) => [
      [backend, ring, 1, ...cells(latencyOneCore)],
      [backend, ring, 2, ...cells(latencyTwoCores)],
    ]),
  )
  const handshakes = formatTable(
    [{ title: 'backend' }, { title: 'handshake' }, ...quantiles],
    figures
      .filter(({ ring }) => ring === 'split')
      .flatMap(({ backend, handshake, handshakeAsleep }) => [
        [backend, 'both look', ...cells(handshake)],
        [backend, 'both sleep', ...cells(handshakeAsleep)],
      ]),
  )
  return [
    wrap('Frames of 64 bytes per second, sent in batches of 32, driver and device on one core and on two.', columns),
    speeds,
    wrap('ns from the call that sends one such frame until it is completed, one frame at a time.', columns),
    latencies,
    wrap('ns for a word in shared memory that goes to the other core and comes back.', columns),
    handshakes,
    wrap('On two cores the device is in a worker, which was given the memory of its scheme and no other.', columns),
  ].join('\n')
}

function cells({ median, p05, p95 }: Quantiles): number[] {
  return [median, p05, p95].map(Math.round)
}
