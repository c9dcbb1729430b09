import { type BlockRequest, type BlockStore, MemoryBlockStore } from '@guestdma/devices'

/** A store in memory that does something else besides, in the middle of a device's poll. */
export class GrowingStore extends MemoryBlockStore {
  private readonly besides: () => void

  constructor(bytes: Uint8Array, besides: () => void) {
    super(bytes)
    this.besides = besides
  }

  override read(request: BlockRequest): void {
    this.besides()
    super.read(request)
  }

  override write(request: BlockRequest): void {
    this.besides()
    super.write(request)
  }
}

/**
 * A store in memory that answers when it is told to, in an order that a seed decides, and whose last sector is broken.
 * What it was given while the device is reset it still executes.
 */
export class LateStore implements BlockStore {
  readonly inner: MemoryBlockStore
  private readonly below: (limit: number) => number
  private readonly held: (() => void)[] = []

  constructor(bytes: Uint8Array, below: (limit: number) => number) {
    this.inner = new MemoryBlockStore(bytes)
    this.below = below
  }

  get capacity(): number {
    return this.inner.capacity
  }

  get waiting(): number {
    return this.held.length
  }

  read(request: BlockRequest): void {
    this.hold(request, () => this.inner.read(request))
  }

  write(request: BlockRequest): void {
    this.hold(request, () => this.inner.write(request))
  }

  flush(request: BlockRequest): void {
    this.held.push(() => this.inner.flush(request))
  }

  /** Ends up to `count` of the requests. */
  answer(count: number): void {
    for (let left = count; left > 0 && this.held.length > 0; left--) {
      const [request] = this.held.splice(this.below(this.held.length), 1)
      request()
    }
  }

  private hold(request: BlockRequest, execute: () => void): void {
    const last = request.sector * 512 + request.data.length
    this.held.push(last === this.capacity ? () => request.done(1) : execute)
  }
}
