import type { BenchResult } from '@guestdma/bench'

/** What our reports tell of a case beside its times, with direct as the measure. */
export const EXTRA = {
  columns: [{ title: '× direct', decimals: 2 }, { title: 'copied B' }, { title: 'cleared B' }],
  cells: ({ nsPerOperation, counters }: BenchResult, all: readonly BenchResult[]): (string | number)[] => {
    const direct = all.find(({ backend }) => backend === 'direct')
    return [
      direct === undefined ? '' : nsPerOperation.median / direct.nsPerOperation.median,
      (counters.bytesCopiedToDevice ?? 0) + (counters.bytesCopiedFromDevice ?? 0),
      counters.bytesCleared ?? 0,
    ]
  },
}
