/** What one measurement was of. The names are stable: results of different days and machines are compared by them. */
export interface Subject {
  /** What is driven: `net` and `blk` here, or a name of one's own. */
  readonly driver: string
  /** `transmit`, `receive`, `ping-pong`, `read` and `write` here, or a name of one's own. */
  readonly operation: string
  /** A scheme's id, or `none`: the harness's own loop, with neither driver nor device. */
  readonly backend: string
  /** How buffers are lent: `map` and `pool` here, or a name of one's own. */
  readonly mode: string
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

/** A case that has no result, since its process ended before. */
export interface BenchFailure {
  readonly subject: Subject
  /** What the process printed to its standard error, and how it ended. */
  readonly message: string
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
  readonly schema: 'guestdma-bench-2'
  /** False while the run goes on, after it was stopped, and where a case failed: results are missing then. */
  readonly complete: boolean
  readonly environment: Environment
  readonly results: readonly BenchResult[]
  readonly failures: readonly BenchFailure[]
}

/** Names a subject: two reports have results of the same case where this text is the same. */
export function subjectKey({ driver, operation, mode, buffers, bytes, batch, ring, backend }: Subject): string {
  return [driver, operation, mode, buffers, bytes, batch, ring, backend].join(' ')
}
