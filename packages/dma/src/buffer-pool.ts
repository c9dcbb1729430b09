import type { Region } from '@guestdma/memory'
import type { DmaBackend, DmaRegion } from './backend.ts'
import { DmaError } from './errors.ts'
import type { DmaDirection } from './status.ts'

/**
 * Buffers that already live where the device can see them: acquire one, fill it in place, submit it, and release it when it comes back.
 * Nothing is copied and nothing is revoked: the device can change a buffer while it is being read.
 *
 * Works on every backend whose payload is plain. Buffers are equal in size, aligned to 64 bytes, and named by their index.
 *
 * @example
 * const pool = new BufferPool(backend, { name: 'net0 transmit', count: 256, bytes: 2048, direction: TO_DEVICE })
 * const buffer = pool.acquire() // -1 where none is left
 */
export class BufferPool {
  declare readonly name: string
  declare readonly count: number
  /** Bytes of each buffer. */
  declare readonly bytes: number
  /** Device address of each buffer. */
  declare readonly device: Float64Array
  /** Byte offset of each buffer in {@link region}. */
  declare readonly offset: Float64Array
  declare readonly region: Region

  declare private readonly backend: DmaBackend
  declare private readonly memory: DmaRegion
  // A stack, so that the buffer used last, which is still in the caches, is used next.
  declare private readonly free: Uint32Array
  declare private readonly held: Uint8Array
  declare private freeCount: number

  /** @throws DmaError `DMA_POOL_TRANSFORMED`, `DMA_POOL_SIZE`, `DMA_ALLOC` */
  constructor(backend: DmaBackend, options: { name: string; count: number; bytes: number; direction: DmaDirection }) {
    const { name, count, bytes, direction } = options
    if (backend.traits.payload !== 'plain') {
      throw new DmaError('DMA_POOL_TRANSFORMED', name, `${backend.name} transforms payload, so a buffer cannot be shared in place; map it instead`)
    }
    if (!Number.isInteger(count) || count < 1 || !Number.isInteger(bytes) || bytes < 1) {
      throw new DmaError('DMA_POOL_SIZE', name, `${count} buffers of ${bytes} bytes: both must be at least 1`, { count, bytes })
    }
    const stride = Math.ceil(bytes / ALIGN) * ALIGN
    this.name = name
    this.count = count
    this.bytes = bytes
    this.backend = backend
    this.memory = backend.alloc(stride * count, ALIGN, direction, 'payload')
    this.region = this.memory.region
    this.device = Float64Array.from({ length: count }, (_, i) => this.memory.device + i * stride)
    this.offset = Float64Array.from({ length: count }, (_, i) => this.memory.offset + i * stride)
    this.free = Uint32Array.from({ length: count }, (_, i) => count - 1 - i)
    this.held = new Uint8Array(count)
    this.freeCount = count
  }

  /** Buffers that can be acquired. */
  get available(): number {
    return this.freeCount
  }

  /** The index of a free buffer, or -1. */
  acquire(): number {
    if (this.freeCount === 0) return -1
    const buffer = this.free[--this.freeCount]
    this.held[buffer] = 1
    return buffer
  }

  /** Gives a buffer back. Throws `DMA_POOL_RELEASE` for one that is not held. */
  release(buffer: number): void {
    if (this.held[buffer] !== 1) throw new DmaError('DMA_POOL_RELEASE', this.name, `buffer ${buffer} is not held (there are ${this.count})`, { buffer })
    this.held[buffer] = 0
    this.free[this.freeCount++] = buffer
  }

  /** Gives the memory back to the backend. The device must no longer know of any buffer. */
  dispose(): void {
    this.backend.free(this.memory)
  }
}

// A cache line: two buffers never share one.
const ALIGN = 64
