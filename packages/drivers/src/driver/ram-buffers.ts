import { BUFFER_ALIGN, Buffers, bufferStride } from '@guestdma/dma'
import type { GuestAddress, GuestMemory, MemoryWindow, SpanAllocator } from '@guestdma/memory'

/**
 * Zeroed buffers in guest RAM, which the virtqueue maps for each use: what `map` mode uses where `pool` mode uses a
 * `BufferPool`.
 */
export class RamBuffers extends Buffers {
  /** Guest address of each buffer. */
  declare readonly guest: Float64Array

  declare private readonly ram: SpanAllocator
  declare private readonly base: GuestAddress

  /** Throws `DMA_BUFFER_SIZE`, `MEMORY_EXHAUSTED`, `MEMORY_OUTSIDE`. */
  constructor(memory: GuestMemory, ram: SpanAllocator, options: { name: string; count: number; bytes: number }) {
    const { name, count, bytes } = options
    const stride = bufferStride(name, count, bytes)
    const base = ram.allocate(stride * count, BUFFER_ALIGN)
    let window: MemoryWindow
    try {
      window = memory.window(base, stride * count)
    } catch (error) {
      ram.release(base)
      throw error
    }
    const { region, offset } = window
    region.refresh()
    region.u8.fill(0, offset, offset + stride * count)
    const places = (first: number): Float64Array => Float64Array.from({ length: count }, (_, i) => first + i * stride)
    super(name, count, bytes, region, places(offset))
    this.ram = ram
    this.base = base
    this.guest = places(base)
  }

  dispose(): void {
    this.ram.release(this.base)
  }
}
