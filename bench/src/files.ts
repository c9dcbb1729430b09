import type { BenchFailure, Environment } from '@guestdma/bench'

/** What one case allocates on the JavaScript heap. */
export interface HeapFigure {
  readonly base: number
  readonly operation: string
  readonly backend: string
  readonly mode: string
  readonly ring: string
  readonly bytesPerOperation: number
}

/** The file that `bench heap --json` writes. */
export interface HeapReport {
  readonly schema: 'guestdma-heap-1'
  readonly complete: boolean
  readonly environment: Environment
  readonly figures: readonly HeapFigure[]
  readonly failures: readonly BenchFailure[]
}

/** The file that a command of figures writes with `--json`: `bench peers` and others, each with a schema of its own. */
export interface FigureReport<Figure> {
  readonly schema: string
  readonly complete: boolean
  readonly environment: Environment
  readonly figures: readonly Figure[]
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
