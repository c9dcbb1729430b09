/** What one measurement was of. The names are stable: results of different days and machines are compared by them. */
export interface Subject {
  readonly driver: 'net' | 'blk'
  readonly operation: 'transmit' | 'receive' | 'ping-pong' | 'read' | 'write'
  /** A scheme's id, or `none`: the harness's own loop, with neither driver nor device. */
  readonly backend: string
  readonly mode: 'map' | 'pool'
  readonly ring: 'split' | 'packed'
  /** Bytes of a frame (virtio header not counted) or of a request's data. */
  readonly bytes: number
  /** Operations that are published together. */
  readonly batch: number
  /** `warm`: the same few buffers again and again. `cold`: cycling through four times the last-level cache. */
  readonly buffers: 'warm' | 'cold'
}

/** One measurement. Times are of whole round trips on one core: driver, device and driver again. */
export interface BenchResult extends Subject {
  readonly nsPerOperation: { readonly median: number; readonly p05: number; readonly p95: number }
  readonly samples: number
  /** JavaScript heap allocated for each operation, in bytes. */
  readonly bytesAllocatedPerOperation: number
  /** Counters of backend and queues, for each operation. */
  readonly counters: Readonly<Record<string, number>>
}

/** Where it was measured. */
export interface Environment {
  readonly date: string
  readonly node: string
  readonly v8: string
  readonly platform: string
  readonly cpu: string
  readonly cores: number
  readonly lastLevelCacheBytes: number
}

/** The file that `--json` writes. */
export interface BenchReport {
  readonly schema: 'guestdma-bench-1'
  readonly environment: Environment
  readonly results: readonly BenchResult[]
}
