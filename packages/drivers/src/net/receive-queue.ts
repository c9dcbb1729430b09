import { BUFFER_FREE, type Buffers, DMA_EXHAUSTED, DMA_OK } from '@guestdma/dma'
import { NET_HEADER_SIZE } from '@guestdma/spec'
import type { Virtqueue } from '@guestdma/virtqueue'
import type { NetDriverCounters } from './counters.ts'
import { type FrameBuffers, HEADROOM } from './frame-buffers.ts'
import { ReceivedFrames } from './frames.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const HEADER = NET_HEADER_SIZE
const OK = DMA_OK

// Flag NEEDS_CSUM, and all of gso_type, which is the next byte.
const OFFLOADS = 0xff01

/** The receive queue of a driver, and its buffers: those that are not free are with the device. */
export class ReceiveQueue {
  declare readonly queue: Virtqueue
  declare readonly buffers: Buffers
  /** What the last {@link reap} found. */
  declare readonly frames: ReceivedFrames

  // An armed queue stays so until something completes.
  private armed = false
  declare private readonly counters: NetDriverCounters
  // The kind of a segment in a buffer, and by buffer where its frame begins.
  declare private readonly place: number
  declare private readonly base: Float64Array
  // By buffer: where its frame begins, in bytes of the region, and its header, in halves of a word.
  declare private readonly frameOffset: Float64Array
  declare private readonly headerHalf: Uint32Array | Float64Array
  // By id: the buffer that was posted.
  declare private readonly posted: Uint32Array
  // Of a batch: the buffers that are posted, their addresses and bytes, and the buffers that came back.
  declare private readonly posting: Uint32Array
  declare private readonly address: Float64Array
  declare private readonly length: Uint32Array
  declare private readonly returned: Uint32Array

  /** `bytes`: of a frame that a buffer holds. `place`: the kind of a segment in a buffer. */
  constructor(
    queue: Virtqueue,
    { buffers, address }: FrameBuffers,
    place: number,
    bytes: number,
    counters: NetDriverCounters,
  ) {
    const { size } = queue
    this.queue = queue
    this.buffers = buffers
    this.counters = counters
    this.place = place
    this.base = address
    this.frameOffset = buffers.offset.map((offset) => offset + HEADROOM)
    const halves = this.frameOffset.map((offset) => (offset - HEADER) / 2)
    this.headerHalf = halves.some((half) => half > 0xffff_ffff) ? halves : Uint32Array.from(halves)
    this.frames = new ReceivedFrames(buffers.region, size)
    this.posted = new Uint32Array(size)
    this.posting = new Uint32Array(size)
    this.address = new Float64Array(size)
    this.length = new Uint32Array(size).fill(bytes)
    this.returned = new Uint32Array(size)
  }

  /** Asks for an interrupt at the next frame. Returns whether frames are there already. */
  arm(): boolean {
    if (this.armed) return false
    this.armed = true
    return this.queue.arm()
  }

  /** Takes up to `budget` buffers back, and returns how many: {@link frames} are valid until as many are recycled. */
  reap(budget: number): number {
    const { queue } = this
    const n = queue.hasUsed ? queue.reap(budget) : 0
    if (n === 0) return 0
    this.armed = false
    this.collect(n)
    return n
  }

  /** The frames of the last {@link reap}, which returned `n`, were read. */
  recycle(n: number): void {
    this.buffers.releaseEach(this.returned, 0, n)
    this.queue.recycle()
  }

  /** Posts all free buffers. One that cannot be posted now stays free, and is tried again at the next call. */
  post(): void {
    let wanted = this.buffers.available
    // Where the backend has no room for all of them, it may have it for some.
    while (wanted > 0 && this.postUpTo(wanted) === DMA_EXHAUSTED) wanted = this.queue.undone >> 1
  }

  /** The queue was reset alone: all buffers are free. */
  drop(): void {
    const { buffers } = this
    this.armed = false
    for (let buffer = 0; buffer < buffers.held.length; buffer++) {
      if (buffers.held[buffer] !== BUFFER_FREE) buffers.release(buffer)
    }
  }

  // Turns completed chains into frames. The header is loaded once: in memory that the device still sees it may change.
  private collect(n: number): void {
    const { id: ids, written: lengths, status } = this.queue.completed
    const { offset, length } = this.frames
    const { counters, frameOffset, headerHalf, posted, returned } = this
    const u16 = this.buffers.region.u16
    let frames = 0
    let bytes = 0
    for (let i = 0; i < n; i++) {
      const written = lengths[i]
      const buffer = posted[ids[i]]
      returned[i] = buffer
      // NEEDS_CSUM and any gso_type would be an offload that nobody agreed on; other flags are ignored (virtio 1.4
      // §5.1.9.4.2).
      if (status[i] !== OK || written <= HEADER || (u16[headerHalf[buffer]] & OFFLOADS) !== 0) {
        counters.malformed++
        continue
      }
      offset[frames] = frameOffset[buffer]
      length[frames] = written - HEADER
      bytes += written - HEADER
      frames++
    }
    this.frames.count = frames
    counters.framesReceived += frames
    counters.bytesReceived += bytes
  }

  private postUpTo(wanted: number): number {
    const { address, base, buffers, posted, posting, queue } = this
    buffers.acquireEach(posting, wanted)
    for (let i = 0; i < wanted; i++) address[i] = base[posting[i]]
    const n = queue.addEach(wanted, address, this.length, HEADER, this.place, true)
    const { added } = queue
    for (let i = 0; i < n; i++) posted[added[i]] = posting[i]
    buffers.releaseEach(posting, n, wanted)
    this.counters.unposted = buffers.available
    const published = queue.publish()
    if (published === OK) return OK
    for (let i = 0; i < queue.undone; i++) buffers.release(posted[queue.undoneId[i]])
    this.counters.unposted = buffers.available
    return published
  }
}
