import type { Region } from '@guestdma/memory'
import { DmaError } from './errors.ts'

/** States of a buffer in {@link Buffers.held}. */
export const BUFFER_FREE = 0
export const BUFFER_ACQUIRED = 1
/** With the device; whoever lent it releases it when it comes back. */
export const BUFFER_LENT = 2

// The engine folds constants that are not exported into its code; others it loads at each use.
const FREE = BUFFER_FREE
const ACQUIRED = BUFFER_ACQUIRED

/**
 * Buffers of equal size in one region, named by index, with a stack of free ones: the buffer used last is still in the
 * caches and is used next.
 */
export abstract class Buffers {
  declare readonly name: string
  declare readonly count: number
  /** Bytes of each buffer. */
  declare readonly bytes: number
  declare readonly region: Region
  /** Byte offset of each buffer in {@link region}. */
  declare readonly offset: Float64Array
  /** `BUFFER_FREE`, `BUFFER_ACQUIRED` or `BUFFER_LENT`, by index. A driver marks what it lends. */
  declare readonly held: Uint8Array

  declare private readonly free: Uint32Array
  private freeCount = 0

  constructor(name: string, count: number, bytes: number, region: Region, offset: Float64Array) {
    this.name = name
    this.count = count
    this.bytes = bytes
    this.region = region
    this.offset = offset
    this.held = new Uint8Array(count)
    this.free = Uint32Array.from({ length: count }, (_, i) => count - 1 - i)
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
    this.held[buffer] = ACQUIRED
    return buffer
  }

  /** As `count` calls of {@link acquire}: fills rows 0 and up, and returns how many there were. */
  acquireEach(into: Uint32Array, count: number): number {
    const { free, freeCount, held } = this
    const n = count < freeCount ? count : freeCount
    for (let i = 0; i < n; i++) {
      const buffer = free[(freeCount - 1 - i) | 0]
      held[buffer] = ACQUIRED
      into[i] = buffer
    }
    this.freeCount = freeCount - n
    return n
  }

  /** Gives a buffer back. Throws `DMA_BUFFER_RELEASE` for one that is not held. */
  release(buffer: number): void {
    if (!(this.held[buffer] > FREE)) this.refuse(buffer)
    this.held[buffer] = FREE
    this.free[this.freeCount++] = buffer
  }

  /** As {@link release} of rows `from` to `to` - 1. */
  releaseEach(buffers: Uint32Array, from: number, to: number): void {
    const { free, held } = this
    let { freeCount } = this
    let i = from
    for (; i < to; i++) {
      const buffer = buffers[i]
      if (!(held[buffer] > FREE)) break
      held[buffer] = FREE
      free[freeCount] = buffer
      freeCount = (freeCount + 1) | 0
    }
    this.freeCount = freeCount
    if (i < to) this.refuse(buffers[i])
  }

  private refuse(buffer: number): never {
    const { count, name } = this
    const message = `buffer ${buffer} is not held (there are ${count})`
    throw new DmaError('DMA_BUFFER_RELEASE', name, message, { buffer, count })
  }

  /** Gives the memory back. The device must no longer know of any buffer. */
  abstract dispose(): void
}

/** Where buffers begin: a cache line, so that two never share one. */
export const BUFFER_ALIGN = 64

/** Bytes from one buffer to the next. Throws `DMA_BUFFER_SIZE`. */
export function bufferStride(name: string, count: number, bytes: number): number {
  if (!Number.isInteger(count) || count < 1 || !Number.isInteger(bytes) || bytes < 1) {
    throw new DmaError('DMA_BUFFER_SIZE', name, `${count} buffers of ${bytes} bytes: both must be at least 1`, {
      count,
      bytes,
    })
  }
  return Math.ceil(bytes / BUFFER_ALIGN) * BUFFER_ALIGN
}
