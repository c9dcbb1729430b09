import { accessCounter, type BenchReport, type BenchResult, WIDTHS } from '@guestdma/bench'

/** Every counter that a cause needs, each with a value of its own. */
export function allCounters(): Record<string, number> {
  const counters: Record<string, number> = {
    bytesCopiedToDevice: 76,
    bytesCopiedFromDevice: 24,
    bytesCleared: 100,
    notified: 0.5,
    interrupts: 0.25,
    mapRequests: 0.5,
    unmapRequests: 0.125,
    synchronousCommits: 0.0625,
    iotlbMisses: 2,
    pageConversions: 3,
    linesTransferred: 5,
    bytesReadByDma: 128,
  }
  for (const side of ['driver', 'device'] as const)
    for (const kind of ['Loads', 'Stores'] as const)
      for (const width of WIDTHS) counters[accessCounter(side, kind, width)] = width
  return counters
}

/** Counters of a scheme without an IOMMU whose memory is not on the device. */
export const PLAIN: Readonly<Record<string, number>> = {
  bytesCopiedToDevice: 0,
  bytesCopiedFromDevice: 0,
  bytesCleared: 0,
  notified: 0,
}

/** The accesses of one frame that is sent from memory on the device: 8 words of payload, rings beside. */
export const ACCESSES: Readonly<Record<string, number>> = {
  ...Object.fromEntries(
    (['driver', 'device'] as const).flatMap((side) =>
      (['Loads', 'Stores'] as const).flatMap((kind) => WIDTHS.map((width) => [accessCounter(side, kind, width), 0])),
    ),
  ),
  driverLoads4: 2,
  driverStores8: 10,
  deviceLoads8: 8,
}

export function row(part: Partial<BenchResult> = {}): BenchResult {
  return {
    driver: 'net',
    operation: 'transmit',
    backend: 'direct',
    mode: 'map',
    ring: 'split',
    bytes: 64,
    batch: 32,
    buffers: 'warm',
    nsPerOperation: { median: 100, p05: 90, p95: 110 },
    samples: 10,
    bytesAllocatedPerOperation: 0,
    counters: PLAIN,
    ...part,
  }
}

export function reportOf(results: readonly BenchResult[]): BenchReport {
  return {
    schema: 'guestdma-bench-3',
    complete: true,
    environment: {
      date: '2026-01-01T00:00:00.000Z',
      node: '26.0.0',
      v8: '14',
      platform: 'linux x64',
      cpu: 'a CPU',
      cores: 2,
      lastLevelCacheBytes: 1,
    },
    results,
    failures: [],
  }
}
