import { Region } from '@guestdma/memory'

/** Frames of one batch at most. */
export const FRAMES = 32

/**
 * A batch of Ethernet frames without their check sequences: frame i is the `lengths[i]` bytes from byte `offsets[i]` of
 * `region` on, for i below `count`. It belongs to whoever hands it over, is valid until that call returns, and is used
 * again.
 */
export class Frames {
  count = 0
  declare region: Region
  declare readonly offsets: Int32Array
  declare readonly lengths: Int32Array
  declare private readonly views: (Uint8Array<ArrayBuffer> | null)[]

  /** @param region an `ArrayBuffer` of at most 2 GiB */
  constructor(region: Region, capacity: number = FRAMES) {
    this.region = region
    this.offsets = new Int32Array(capacity)
    this.lengths = new Int32Array(capacity)
    this.views = new Array<Uint8Array<ArrayBuffer> | null>(capacity).fill(null)
  }

  /** A batch of copies, for who has frames one by one. */
  static of(...frames: readonly Uint8Array[]): Frames {
    // Each begins at a multiple of 8, as a copy is fastest.
    const bytes = frames.reduce((sum, { length }) => sum + ((length + 7) & ~7), 0)
    const batch = new Frames(new Region(new ArrayBuffer(bytes), 'frames'), frames.length)
    let offset = 0
    for (const frame of frames) {
      const i = batch.count++
      batch.offsets[i] = offset
      batch.lengths[i] = frame.length
      batch.region.u8.set(frame, offset)
      offset += (frame.length + 7) & ~7
    }
    return batch
  }

  /**
   * The bytes of frame i: valid until the call that it was handed over with returns. A view that was made for the same
   * place and length is used again.
   */
  bytes(i: number): Uint8Array<ArrayBuffer> {
    const { buffer } = this.region.u8
    const offset = this.offsets[i]
    const length = this.lengths[i]
    const kept = this.views[i]
    if (kept !== null && kept.length === length && kept.byteOffset === offset && kept.buffer === buffer) return kept
    const view = new Uint8Array(buffer as ArrayBuffer, offset, length)
    this.views[i] = view
    return view
  }
}

/** For a link that takes every frame: a `transmit` that hands them to `take` one by one. */
export function eachFrame(take: (frame: Uint8Array<ArrayBuffer>) => void): (frames: Frames) => number {
  return (frames) => {
    const { count } = frames
    for (let i = 0; i < count; i++) take(frames.bytes(i))
    return count
  }
}
