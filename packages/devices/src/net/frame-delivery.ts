import { copyEach, type Region } from '@guestdma/memory'
import { NET_HEADER_SIZE } from '@guestdma/spec'
import { FRAMES, type Frames } from '../links/frames.ts'
import {
  type ChainTable,
  ONE_WRITABLE,
  ROW,
  ROW_FETCHED,
  ROW_WRITE,
  SEGMENT,
  SEGMENT_LENGTH,
  SEGMENT_OFFSET,
} from '../ring/chain-table.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const HEADER = NET_HEADER_SIZE
const STRIDE = ROW
const FETCHED = ROW_FETCHED
const WRITE = ROW_WRITE
const ALL_WRITABLE = ONE_WRITABLE
const WORDS = SEGMENT
const LENGTH = SEGMENT_LENGTH
const OFFSET = SEGMENT_OFFSET
// Below this an offset is an integer to the engine, with room for a header.
const NEAR = 0x7fff0000
// The last word of a header: one buffer.
const ONE_BUFFER = 1 << 16

/** Copies incoming frames to the driver's receive chains, each behind its header. */
export class FrameDelivery {
  /** By frame of the last {@link deliver}, from 0: bytes written, with the header. */
  readonly written: Int32Array = new Int32Array(FRAMES)
  /** Of the last {@link deliver}: bytes of the frames. */
  bytes = 0
  // By frame of a batch.
  private readonly places = new Int32Array(FRAMES)

  /**
   * Puts frames `from` to `to` - 1 into rows `first` to `end` - 1, one each, and ends before a frame or a chain that is
   * none of the usual ones: frames of at most `longest` bytes, chains of one descriptor that has room, in one region that
   * nobody listens to. Returns how many.
   */
  deliver(
    chains: ChainTable,
    first: number,
    end: number,
    frames: Frames,
    from: number,
    to: number,
    longest: number,
  ): number {
    this.bytes = 0
    if (first >= end || from >= to) return 0
    const { columns, regions, row0, words } = chains
    const region = regions[columns[(row0 + first) * STRIDE + FETCHED]]
    if (region.onDeviceWrite !== null) return 0
    const { lengths } = frames
    const { places, written } = this
    const { u32 } = region
    const left = to - from
    const room = end - first
    const rows = left < room ? left : room
    const count = from + rows > places.length ? places.length - from : rows
    let bytes = 0
    let n = 0
    // It calls nothing: the engine then keeps what it knows of the arrays.
    for (; n < count; n++) {
      const at = (row0 + first + n) * STRIDE
      const segment = columns[at + FETCHED]
      const k = segment * WORDS
      const header = words[k + OFFSET]
      const length = lengths[from + n]
      if (
        columns[at + WRITE] !== ALL_WRITABLE ||
        words[k + OFFSET + 1] !== 0 ||
        header < 0 ||
        header >= NEAR ||
        (header & 3) !== 0 ||
        length <= 0 ||
        length > longest ||
        words[k + LENGTH] < length + HEADER ||
        regions[segment] !== region
      )
        break
      // struct virtio_net_hdr without offloads.
      const word = header >>> 2
      u32[word] = 0
      u32[(word + 1) | 0] = 0
      u32[(word + 2) | 0] = ONE_BUFFER
      places[from + n] = header + HEADER
      written[n] = length + HEADER
      bytes += length
    }
    if (n === 0) return 0
    if (region.meter !== null) region.meter.store(4, 3 * n)
    copyEach(region, places, frames.region, frames.offsets, lengths, from, from + n)
    this.bytes = bytes
    return n
  }

  /** The header of a frame over `buffers` chains, of which row `row` is the first. Returns whether somebody listens. */
  putHeader(chains: ChainTable, row: number, buffers: number, scratch: Region): boolean {
    const segment = chains.write(row)
    if (chains.length(segment) < HEADER) {
      const { view } = scratch
      view.setUint32(0, 0, true)
      view.setUint32(4, 0, true)
      view.setUint32(8, buffers << 16, true)
      return chains.scatter(row, 0, scratch, 0, HEADER)
    }
    const region = chains.regions[segment]
    const offset = chains.offset(segment)
    const { view } = region
    view.setUint32(offset, 0, true)
    view.setUint32(offset + 4, 0, true)
    view.setUint32(offset + 8, buffers << 16, true)
    if (region.meter !== null) region.meter.store(4, 3)
    return region.onDeviceWrite !== null
  }
}
