import type { GuestAddress, GuestMemory, Region, SpanAllocator } from '@guestdma/memory'

/** A driver's own buffers, whatever they live in: named by index, a stack of free ones. `BufferPool` has the same shape. */
export interface Buffers {
  readonly count: number
  readonly available: number
  /** Byte offset of each buffer in {@link region}. */
  readonly offset: Float64Array
  readonly region: Region
  /** The index of a free buffer, or -1. */
  acquire(): number
  release(buffer: number): void
  dispose(): void
}

/** Buffers of equal size in guest RAM, which the virtqueue maps for each use: what `map` mode uses where `pool` mode uses a `BufferPool`. */
export class RamBuffers implements Buffers {
  declare readonly count: number
  /** Guest address of each buffer. */
  declare readonly guest: Float64Array
  declare readonly offset: Float64Array
  declare readonly region: Region

  declare private readonly ram: SpanAllocator
  declare private readonly base: GuestAddress
  declare private readonly free: Uint32Array
  declare private freeCount: number

  /** @param bytes of each buffer; they start at multiples of 64. Throws `MEMORY_EXHAUSTED`. */
  constructor(memory: GuestMemory, ram: SpanAllocator, count: number, bytes: number) {
    const stride = Math.ceil(bytes / ALIGN) * ALIGN
    this.ram = ram
    this.base = ram.allocate(stride * count, ALIGN)
    const { region, offset } = memory.window(this.base, stride * count)
    region.refresh()
    region.u8.fill(0, offset, offset + stride * count)
    this.count = count
    this.region = region
    this.guest = Float64Array.from({ length: count }, (_, i) => this.base + i * stride)
    this.offset = Float64Array.from({ length: count }, (_, i) => offset + i * stride)
    this.free = Uint32Array.from({ length: count }, (_, i) => count - 1 - i)
    this.freeCount = count
  }

  get available(): number {
    return this.freeCount
  }

  acquire(): number {
    return this.freeCount === 0 ? -1 : this.free[--this.freeCount]
  }

  release(buffer: number): void {
    this.free[this.freeCount++] = buffer
  }

  dispose(): void {
    this.ram.release(this.base)
  }
}

const ALIGN = 64
