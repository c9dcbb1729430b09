import type { DmaBackend, DmaRegion } from './backend.ts'
import { BUFFER_ALIGN, Buffers, bufferStride } from './buffers.ts'
import { DmaError } from './errors.ts'
import type { DmaDirection } from './status.ts'

/**
 * Buffers that already live where the device can see them: acquire one, fill it in place, submit it, and release it
 * when it comes back. Nothing is copied and nothing is revoked: the device can change a buffer while it is being read.
 * Works on every backend whose payload is plain.
 *
 * @example
 * const pool = new BufferPool(backend, { name: 'net0 transmit', count: 256, bytes: 2048, direction: TO_DEVICE })
 * const buffer = pool.acquire() // -1 where none is left
 */
export class BufferPool extends Buffers {
  /** Device address of each buffer. */
  declare readonly device: Float64Array

  declare private readonly backend: DmaBackend
  declare private readonly memory: DmaRegion

  /** @throws DmaError `DMA_POOL_TRANSFORMED`, `DMA_BUFFER_SIZE`, `DMA_ALLOC` */
  constructor(backend: DmaBackend, options: { name: string; count: number; bytes: number; direction: DmaDirection }) {
    const { name, count, bytes, direction } = options
    if (backend.traits.payload !== 'plain') {
      throw new DmaError(
        'DMA_POOL_TRANSFORMED',
        name,
        `${backend.name} transforms payload, so a buffer cannot be shared in place; map it instead`,
      )
    }
    const stride = bufferStride(name, count, bytes)
    const memory = backend.alloc(stride * count, BUFFER_ALIGN, direction, 'payload')
    const places = (base: number): Float64Array => Float64Array.from({ length: count }, (_, i) => base + i * stride)
    super(name, count, bytes, memory.region, places(memory.offset))
    this.backend = backend
    this.memory = memory
    this.device = places(memory.device)
  }

  dispose(): void {
    this.backend.free(this.memory)
  }
}
