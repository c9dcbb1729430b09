import { DMA_OK, type DmaBackend, type DmaMappings } from '@guestdma/dma'
import { VirtqueueError } from './errors.ts'
import { QUEUE_BROKEN } from './virtqueue.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const OK = DMA_OK

/**
 * A queue's view of its backend, which is somebody else's code: where that throws, or answers what is no status, the
 * queue breaks and nobody else's. Every method returns a status, and throws nothing.
 */
export class GuardedBackend {
  /** The first call that threw, or answered what is no status. */
  misuse: VirtqueueError | null = null
  /** Of the last {@link mapEach}. */
  status: number = OK

  declare private readonly backend: DmaBackend
  declare private readonly mappings: DmaMappings
  declare private readonly queue: string
  declare private readonly index: number
  declare private readonly broken: (error: VirtqueueError) => void

  /** `name` and `index` of the queue; `broken` is told of each misuse. */
  constructor(
    backend: DmaBackend,
    mappings: DmaMappings,
    { name, index, broken }: { name: string; index: number; broken: (error: VirtqueueError) => void },
  ) {
    this.backend = backend
    this.mappings = mappings
    this.queue = name
    this.index = index
    this.broken = broken
  }

  /** The backend's name. */
  get name(): string {
    return this.backend.name
  }

  map(row: number): number {
    try {
      const status = this.backend.map(this.mappings, row)
      return status === OK ? OK : this.judge('map', status)
    } catch (error) {
      return this.blame('map', error)
    }
  }

  /** Maps the first `count` rows of a list. Returns how many could be: {@link status} says why not all. */
  mapEach(rows: Uint16Array, count: number): number {
    const { backend, mappings } = this
    this.status = OK
    let n = 0
    try {
      for (; n < count; n++) {
        const status = backend.map(mappings, rows[n])
        if (status !== OK) {
          this.status = this.judge('map', status)
          break
        }
      }
    } catch (error) {
      this.status = this.blame('map', error)
    }
    return n
  }

  unmap(row: number, written: number): number {
    try {
      const status = this.backend.unmap(this.mappings, row, written)
      return status === OK ? OK : this.judge('unmap', status)
    } catch (error) {
      return this.blame('unmap', error)
    }
  }

  commitMaps(): number {
    try {
      const status = this.backend.commitMaps()
      return status === OK ? OK : this.judge('commitMaps', status)
    } catch (error) {
      return this.blame('commitMaps', error)
    }
  }

  commitUnmaps(): number {
    try {
      const status = this.backend.commitUnmaps()
      return status === OK ? OK : this.judge('commitUnmaps', status)
    } catch (error) {
      return this.blame('commitUnmaps', error)
    }
  }

  private judge(method: string, status: number): number {
    return status < 0 ? status : this.blame(method, `${status}, which is no status,`)
  }

  private blame(method: string, error: unknown): number {
    const what = error instanceof Error ? `threw: ${error.message}` : `answered ${String(error)}`
    const { backend, index, queue } = this
    const details = { queue: index, backend: backend.name, method }
    this.misuse ??= new VirtqueueError(
      'VIRTQUEUE_BACKEND',
      queue,
      `${backend.name}.${method}() ${what}`,
      details,
      error instanceof Error ? { cause: error } : {},
    )
    this.broken(this.misuse)
    return QUEUE_BROKEN
  }
}
