import { DeviceError } from '../faults/errors.ts'
import { MAX_FRAME_BYTES } from './net-link.ts'

const DEFAULT_FRAMES = 64
const DEFAULT_FRAME_BYTES = 1522

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
  declare private readonly bytes: Uint8Array<ArrayBuffer>
  declare private readonly lengths: Uint32Array
  private readonly views: (Uint8Array<ArrayBuffer> | null)[]
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
    this.capacity = frames
    this.frameBytes = frameBytes
    this.bytes = new Uint8Array(frames * frameBytes)
    this.lengths = new Uint32Array(frames)
    this.views = new Array<Uint8Array<ArrayBuffer> | null>(frames).fill(null)
  }

  get full(): boolean {
    return this.length === this.capacity
  }

  /** Copies a frame to the end. False: it is full, or the frame is longer than `frameBytes`. */
  push(frame: Uint8Array<ArrayBuffer>): boolean {
    if (this.length === this.capacity || frame.length > this.frameBytes) return false
    const slot = (this.first + this.length) % this.capacity
    this.bytes.set(frame, slot * this.frameBytes)
    this.lengths[slot] = frame.length
    this.length++
    return true
  }

  /** The oldest frame; valid until `pop`. Only while `length` is above 0. */
  front(): Uint8Array<ArrayBuffer> {
    const slot = this.first
    const length = this.lengths[slot]
    const kept = this.views[slot]
    if (kept !== null && kept.length === length) return kept
    const view = new Uint8Array(this.bytes.buffer, slot * this.frameBytes, length)
    this.views[slot] = view
    return view
  }

  pop(): void {
    this.first = (this.first + 1) % this.capacity
    this.length--
  }

  /** Drops everything; returns how many frames that were. */
  clear(): number {
    const dropped = this.length
    this.length = 0
    return dropped
  }
}
