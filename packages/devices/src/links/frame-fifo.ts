import { copy, Region } from '@guestdma/memory'
import { DeviceError } from '../faults/errors.ts'
import { FRAMES, Frames } from './frames.ts'
import { MAX_FRAME_BYTES } from './net-link.ts'

const DEFAULT_FRAMES = 64
const DEFAULT_FRAME_BYTES = 1522
const MAX_BYTES = 2 ** 30

/** Bounds of the queue in which a link keeps frames that its receiver has no buffer for. */
export interface FifoOptions {
  /** Frames per direction (or port). Defaults to 64. */
  readonly frames?: number
  /**
   * Bytes of the longest frame that can wait: 14 more than the largest MTU in use, and 4 more for each VLAN tag. Defaults
   * to 1522: an MTU of 1500 and two tags.
   */
  readonly frameBytes?: number
}

/** A bounded queue of frames in memory that is allocated once. */
export class FrameFifo {
  declare readonly capacity: number
  declare readonly frameBytes: number
  length = 0
  declare private readonly region: Region
  declare private readonly offsets: Int32Array
  declare private readonly lengths: Int32Array
  declare private readonly oldest: Frames
  // A frame keeps its offset modulo 8, since a copy is fastest so.
  declare private readonly stride: number
  private first = 0

  /** @throws DeviceError `LINK_OPTION` */
  constructor(part: string, { frames = DEFAULT_FRAMES, frameBytes = DEFAULT_FRAME_BYTES }: FifoOptions) {
    if (!Number.isInteger(frames) || frames < 1 || frames > 65536) {
      throw new DeviceError('LINK_OPTION', part, `frames ${frames} must be an integer from 1 to 65536`, { frames })
    }
    if (!Number.isInteger(frameBytes) || frameBytes < 1 || frameBytes > MAX_FRAME_BYTES) {
      const message = `frameBytes ${frameBytes} must be an integer from 1 to ${MAX_FRAME_BYTES}`
      throw new DeviceError('LINK_OPTION', part, message, { frameBytes })
    }
    if (frames * (frameBytes + 16) > MAX_BYTES) {
      const message = `${frames} frames of ${frameBytes} bytes are too many: must be at most ${MAX_BYTES} bytes`
      throw new DeviceError('LINK_OPTION', part, message, { frames, frameBytes })
    }
    this.capacity = frames
    this.frameBytes = frameBytes
    this.stride = ((frameBytes + 7) & ~7) + 8
    this.region = new Region(new ArrayBuffer(frames * this.stride), part)
    this.offsets = new Int32Array(frames)
    this.lengths = new Int32Array(frames)
    this.oldest = new Frames(this.region)
  }

  get full(): boolean {
    return this.length === this.capacity
  }

  /** Copies frame i of a batch to the end. False: it is full, or the frame is longer than `frameBytes`. */
  push({ lengths, offsets, region }: Frames, i: number): boolean {
    const length = lengths[i]
    if (this.length === this.capacity || length > this.frameBytes) return false
    const slot = (this.first + this.length) % this.capacity
    const offset = slot * this.stride + (offsets[i] & 7)
    copy(this.region, offset, region, offsets[i], length)
    this.offsets[slot] = offset
    this.lengths[slot] = length
    this.length++
    return true
  }

  /** The oldest frames, up to `limit` of them; valid until {@link drop}. */
  front(limit: number): Frames {
    const { oldest } = this
    const count = Math.min(limit, this.length, FRAMES)
    for (let i = 0; i < count; i++) {
      const slot = (this.first + i) % this.capacity
      oldest.offsets[i] = this.offsets[slot]
      oldest.lengths[i] = this.lengths[slot]
    }
    oldest.count = count
    return oldest
  }

  /** Drops the `count` oldest frames. */
  drop(count: number): void {
    this.first = (this.first + count) % this.capacity
    this.length -= count
  }

  /** Drops everything; returns how many frames that were. */
  clear(): number {
    const dropped = this.length
    this.length = 0
    return dropped
  }
}
