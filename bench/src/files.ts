import type { BenchFailure, Environment } from '@guestdma/bench'
import type { IovaFigure } from './iova.ts'
import type { PeerFigure } from './peers.ts'
import type { ThreadFigure } from './threads.ts'

/** What one case allocates on the JavaScript heap. */
export interface HeapFigure {
  readonly base: number
  readonly operation: string
  readonly backend: string
  readonly mode: string
  readonly bytesPerOperation: number
}

/** The file that `bench --heap --json` writes. */
export interface HeapReport {
  readonly schema: 'guestdma-heap-1'
  readonly complete: boolean
  readonly environment: Environment
  readonly figures: readonly HeapFigure[]
  readonly failures: readonly BenchFailure[]
}

/** The file that `bench --iova --json` writes. */
export interface IovaReport {
  readonly schema: 'guestdma-iova-1'
  readonly complete: boolean
  readonly environment: Environment
  readonly figures: readonly IovaFigure[]
}

/** The file that `bench --peers --json` writes. */
export interface PeersSpeedReport {
  readonly schema: 'guestdma-peers-speed-1'
  readonly complete: boolean
  readonly environment: Environment
  readonly figures: readonly PeerFigure[]
}

/** The file that `bench --threads --json` writes. */
export interface ThreadsReport {
  readonly schema: 'guestdma-threads-1'
  readonly complete: boolean
  readonly environment: Environment
  readonly figures: readonly ThreadFigure[]
}

/** The file that `examples/linux-swiotlb-rfc` writes: what a Linux guest did with the memory of its devices. */
export interface RfcReport {
  readonly complete: boolean
  readonly results: readonly {
    readonly kernel: string
    /** Copies of the line that the guest had freed, in buffers that a device was to fill. */
    readonly secrets: number
    /** Loads and stores of the guest, and their bytes. */
    readonly accesses: number
    readonly bytes: number
  }[]
}

export function toJson(report: object): string {
  return `${JSON.stringify(report, null, 2)}\n`
}
