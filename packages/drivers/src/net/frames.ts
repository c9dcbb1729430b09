import type { Region } from '@guestdma/memory'
import { NO_BUFFER } from '../driver/buffer-mode.ts'

/** A batch of frames on its way out: rows 0 to count - 1. Make one and reuse it. */
export class FrameBatch {
  declare readonly capacity: number
  /** Guest address of the frame, where `buffer` is `NO_BUFFER`. */
  declare readonly address: Float64Array
  /** A buffer of the driver's that holds the frame (`NetDriver.acquire`), or `NO_BUFFER`. */
  declare readonly buffer: Int32Array
  /** Bytes, from the Ethernet header on. */
  declare readonly length: Uint32Array
  /** The caller's own number for the frame; handed back once it was sent. */
  declare readonly token: Uint32Array
  count = 0
  /**
   * The 12 bytes before each frame at `address` are its virtio header, all zero as long as no offload is agreed: header
   * and frame then go out as one piece. Frames in buffers of the driver's always do.
   */
  headed = false

  constructor(capacity: number) {
    this.capacity = capacity
    this.address = new Float64Array(capacity)
    this.buffer = new Int32Array(capacity).fill(NO_BUFFER)
    this.length = new Uint32Array(capacity)
    this.token = new Uint32Array(capacity)
  }
}

/**
 * A batch of received frames: rows 0 to count - 1. Valid only until the observer returns; then the buffers are posted
 * again.
 */
export class ReceivedFrames {
  /** The frames' bytes are here. */
  declare readonly region: Region
  /** Where each frame begins in {@link region}. */
  declare readonly offset: Float64Array
  /** Bytes, from the Ethernet header on. */
  declare readonly length: Uint32Array
  count = 0

  constructor(region: Region, capacity: number) {
    this.region = region
    this.offset = new Float64Array(capacity)
    this.length = new Uint32Array(capacity)
  }

  /** A copy of frame `i`, which stays valid. */
  copy(i: number): Uint8Array<ArrayBuffer> {
    this.region.refresh()
    return new Uint8Array(this.region.u8.subarray(this.offset[i], this.offset[i] + this.length[i]))
  }
}
