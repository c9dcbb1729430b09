/** What one measurement was of. The names are stable: results of different days and machines are compared by them. */
export interface Subject {
  /** What is driven: `net` and `blk` here, or a name of one's own. */
  readonly driver: string
  /** `transmit`, `receive`, `ping-pong`, `read` and `write` here, or a name of one's own. */
  readonly operation: string
  /** A scheme's id, or `none`: the harness's own loop, with neither driver nor device. */
  readonly backend: string
  /** How buffers are lent: `map`, `pool` and `pool-header` here, or a name of one's own. */
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
  readonly nsPerOperation: Quantiles
  readonly samples: number
  /**
   * The median of each process that measured this case, in ns for one operation, in the order in which they ran. A
   * comparison takes these: samples of one process depend on each other. Absent in older files.
   */
  readonly processMedians?: readonly number[]
  /**
   * The share of the time that is the driver's (0 to 1); the rest is the device's. What an IOMMU does in answer to a
   * request of the driver's is the driver's time, since it waits for that. Absent where a scenario does not know, and in
   * older files.
   */
  readonly driverShare?: number
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

/** Whose bytes a device could reach although they were not lent to it, or not lent any more, or not for this access. */
export type ExposureClass =
  /** Memory of the guest that was never lent to this device. */
  | 'foreign'
  /** Memory of the guest that was never lent to it either, in a granule of which a part is or was lent. */
  | 'slack'
  /** Bytes that were lent, were taken back, and serve something else by now. */
  | 'stale'
  /** The guest's own bytes that are lent for the other access alone: to be read, and the device can write them. */
  | 'direction'
  /** Bytes of a transfer that completed, which its owner reads while the device can still change them. Writes only. */
  | 'mutable'
  /** What another device is lent, was lent before, or uses for itself. */
  | 'other-devices'
  /**
   * What this same device was lent before, left in its memory. Read, it is information that the device had already;
   * written, nobody reads it.
   */
  | 'own-residue'
  /** The device's own rings, tables and cells, which are not the payload of anybody. */
  | 'metadata'

/** What a hostile device reached while traffic ran, by one scheme in one mode. Bytes are averages over virtual time. */
export interface ExposureResult {
  readonly driver: string
  readonly operation: string
  readonly backend: string
  readonly mode: string
  readonly ring: 'split' | 'packed'
  readonly bytes: number
  /**
   * What the averages were taken for: bytes of guest RAM, operations per second, how full the ring was at most (0 to 1),
   * seconds on a virtual clock. All but the first are what came about, where the driver had no room for what was asked.
   */
  readonly setting: {
    readonly ramBytes: number
    readonly perSecond: number
    readonly ringFill: number
    readonly seconds: number
  }
  readonly readable: Readonly<Record<ExposureClass, number>>
  readonly writable: Readonly<Record<ExposureClass, number>>
  /** The guest's bytes within reach before the driver took hold of the device: before an IOMMU was attached, say. */
  readonly beforeAttach: { readonly readable: number; readonly writable: number }
  /**
   * How often the device's port was asked, how many bytes were read and written through it, and how often it refused.
   */
  readonly probes: { readonly tried: number; readonly read: number; readonly written: number; readonly refused: number }
}

/** Frames with the device in a thread of its own, beside both halves on one core. */
export interface ThreadResult {
  readonly backend: string
  readonly ring: 'split' | 'packed'
  readonly bytes: number
  readonly batch: number
  /** Frames per second. */
  readonly oneCore: number
  readonly twoCores: number
  /** Nanoseconds from the call that sends one frame to its completion, one frame at a time. */
  readonly latencyOneCore: Quantiles
  readonly latencyTwoCores: Quantiles
  /**
   * Nanoseconds for a word that goes to the other thread and comes back, while both look for it all the time: what a
   * handshake costs at least.
   */
  readonly handshake: Quantiles
  /** The same, where either thread sleeps until the other one wakes it. */
  readonly handshakeAsleep: Quantiles
}

/** What one operation costs as something grows. */
export interface ScaleResult {
  readonly what: 'live-mappings' | 'queue-size' | 'devices' | 'domains' | 'memory'
  readonly backend: string
  /** Tells rows of one `what` and `backend` apart: `hot`, `random`, `transmit`. */
  readonly detail: string
  /** How many of `what`. */
  readonly size: number
  readonly value: number
  readonly unit: 'ns' | 'bytes'
  /** `value` divided by that of the smallest size. */
  readonly ratio: number
}

export interface Quantiles {
  readonly median: number
  readonly p05: number
  readonly p95: number
}

export const REPORT_SCHEMA = 'guestdma-bench-3'

/** Part `index`, from 1 on, of `of` parts that a run was split into; each measures other cases of the same `total`. */
export interface Shard {
  readonly index: number
  readonly of: number
  readonly total: number
}

/** The file that `--json` writes. A part that was not asked for is absent. */
export interface BenchReport {
  readonly schema: typeof REPORT_SCHEMA
  /** False while the run goes on, after it was stopped, and where a case failed: results are missing then. */
  readonly complete: boolean
  readonly environment: Environment
  readonly shard?: Shard
  readonly results: readonly BenchResult[]
  readonly failures: readonly BenchFailure[]
  readonly exposure?: readonly ExposureResult[]
  readonly threads?: readonly ThreadResult[]
  readonly scale?: readonly ScaleResult[]
}

/** Names a subject: two reports have results of the same case where this text is the same. */
export function subjectKey({ driver, operation, mode, buffers, bytes, batch, ring, backend }: Subject): string {
  return [driver, operation, mode, buffers, bytes, batch, ring, backend].join(' ')
}

/** Names the process that measures a subject: what the compiler learned from one case there is shared by the others. */
export function processKey({ driver, operation, backend, mode, ring }: Subject): string {
  return [driver, operation, backend, mode, ring].join(' ')
}
