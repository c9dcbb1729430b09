import { copy, copyEach, Region } from '@guestdma/memory'
import {
  ETHERNET_MTU,
  ETHERTYPE_VLAN,
  ETHERTYPE_VLAN_STACKED,
  NET_HDR_GSO_NONE,
  NET_HEADER_FLAGS,
  NET_HEADER_GSO_TYPE,
  NET_HEADER_SIZE,
  VLAN_TAG_SIZE,
  VLAN_TAGS_MAX,
} from '@guestdma/spec'
import { FRAMES, Frames } from '../links/frames.ts'
import {
  type ChainTable,
  ONE_READABLE,
  ROW,
  ROW_FETCHED,
  ROW_WRITE,
  SEGMENT,
  SEGMENT_LENGTH,
  SEGMENT_OFFSET,
} from '../ring/chain-table.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const HEADER = NET_HEADER_SIZE
const FLAGS_AT = NET_HEADER_FLAGS
const GSO_AT = NET_HEADER_GSO_TYPE
const GSO_NONE = NET_HDR_GSO_NONE
const TAG = VLAN_TAG_SIZE
const FETCHED = ROW_FETCHED
const WRITE = ROW_WRITE
const STRIDE = ROW
const WORDS = SEGMENT
const LENGTH = SEGMENT_LENGTH
const OFFSET = SEGMENT_OFFSET
const BATCH = FRAMES
const ALL_READABLE = ONE_READABLE
const TAGS = VLAN_TAG_SIZE * VLAN_TAGS_MAX

// Flags of a transmit header that ask for what is never negotiated here: NEEDS_CSUM, and UDP_TUNNEL_CSUM, which without
// a tunnel the device must not accept (§5.1.9.2.2). Other flags are ignored, as that section demands.
const OFFLOAD_FLAGS = 1 | 8
// The same as one 16-bit field: those flags, and any gso_type, which is the next byte.
const OFFLOADS = OFFLOAD_FLAGS | 0xff00
const ETHERTYPE_OFFSET = 12
// Below this an offset is an integer to the engine, with room for a header.
const NEAR = 0x7fff0000
const ALIGNMENTS = 8
// No offset, and 0 modulo 8.
const IN_PIECES = -8
/** Room for a batch of frames of the usual length. */
const USUAL_BYTES = FRAMES * (ETHERNET_MTU + 36)

/** What is wrong with a frame: its length. */
const BAD_LENGTH = -1
/** Its header asks for an offload. */
export const OFFLOAD = -2

/** Private memory for a batch of outgoing frames: what the link is shown no driver can change any more. */
export class FrameStaging {
  declare readonly frames: Frames
  /** Twelve bytes for a header that is in pieces. */
  readonly header: Region = new Region(new ArrayBuffer(16), 'frame header')
  declare private readonly size: number
  declare private found: Region
  // Where payloads are that are copied together, and how far the memory is filled.
  private readonly sources = new Int32Array(FRAMES)
  private end = 0
  /** Of the last {@link take}: what is wrong with the row that it ended before; 0 where nothing is. */
  refused = 0

  constructor(longest: number) {
    this.size = Math.max(longest + ALIGNMENTS, USUAL_BYTES)
    this.frames = new Frames(this.memory())
    this.found = this.header
  }

  /**
   * Copies the payloads of rows 0 to `rows` - 1, each behind its header, as frames of at most `longest` bytes and 4 more
   * for each VLAN tag. It ends where the batch is full, which one frame never makes it, and before a row that is no such
   * frame: {@link refused} says why. Returns how many rows that were.
   */
  take(chains: ChainTable, rows: number, longest: number): number {
    const { frames, size, sources } = this
    this.refused = 0
    // A link may take the memory away, by transferring what it was shown.
    if (frames.region.u8.length === 0) frames.region = this.memory()
    const { lengths: sizes, offsets: places, region: to } = frames
    const { columns, regions, row0, words } = chains
    this.end = 0
    let row = 0
    for (;;) {
      const first = row
      const from = row < rows ? regions[columns[(row0 + row) * STRIDE + FETCHED]] : to
      const { u16 } = from
      let { end } = this
      // Frames of one descriptor, in one region, without VLAN tags. It calls nothing: the engine then keeps what it knows
      // of the arrays.
      for (; row < rows && row < BATCH; row++) {
        const at = (row0 + row) * STRIDE
        const segment = columns[at + FETCHED]
        const k = segment * WORDS
        const header = words[k + OFFSET]
        const length = (words[k + LENGTH] - HEADER) | 0
        if (
          columns[at + WRITE] !== ALL_READABLE ||
          words[k + OFFSET + 1] !== 0 ||
          header < 0 ||
          header >= NEAR ||
          (header & 1) !== 0 ||
          length <= 0 ||
          length > longest ||
          regions[segment] !== from ||
          (u16[header >>> 1] & OFFLOADS) !== 0
        )
          break
        const payload = (header + HEADER) | 0
        // At the payload's own offset modulo 8, since a copy is fastest so.
        const place = (end + (payload & 7)) | 0
        if (place + length > size) break
        sources[row] = payload
        places[row] = place
        sizes[row] = length
        end = (place + length + 7) & ~7
      }
      copyEach(to, places, from, sources, sizes, first, row)
      this.end = end
      if (row === rows || row === BATCH || !this.other(chains, row, longest)) break
      row++
    }
    frames.count = row
    return row
  }

  // Any other frame. False: the batch is full, or `refused` says what is wrong with it.
  private other(chains: ChainTable, row: number, longest: number): boolean {
    const { frames, size } = this
    const length = chains.readable(row) - HEADER
    // VLAN tags are looked for in what was copied.
    if (length <= 0 || length > longest + TAGS) return this.refuse(BAD_LENGTH)
    const payload = this.locate(chains, row, length)
    if (payload === OFFLOAD) return this.refuse(OFFLOAD)
    const place = (this.end + (payload & 7)) | 0
    if (place + length > size) return false
    if (payload < 0) chains.gather(row, HEADER, frames.region, place, length)
    else copy(frames.region, place, this.found, payload, length)
    frames.offsets[row] = place
    frames.lengths[row] = length
    if (length > longest && tooLong(frames, row, longest)) return this.refuse(BAD_LENGTH)
    this.end = (place + length + 7) & ~7
    return true
  }

  private refuse(why: number): false {
    this.refused = why
    return false
  }

  // Where the payload is of a row: right behind its header, at its offset in `found`; in pieces,
  // some number of below 0 that is 0 modulo 8. The offsets are integers, since a double that is passed on is an allocation.
  private locate(chains: ChainTable, row: number, length: number): number {
    const segment = chains.first(row)
    const first = chains.length(segment)
    if (first < HEADER || chains.offset(segment) >= NEAR) {
      chains.gather(row, 0, this.header, 0, HEADER)
      return asksForOffload(this.header, 0) ? OFFLOAD : IN_PIECES
    }
    if (asksForOffload(chains.regions[segment], chains.offset(segment) | 0)) return OFFLOAD
    if (first === HEADER + length) {
      this.found = chains.regions[segment]
      return (chains.offset(segment) | 0) + HEADER
    }
    // Usual as well: one descriptor for the header, and one for the rest.
    if (first > HEADER || chains.length(segment + 1) !== length || chains.offset(segment + 1) >= NEAR) return IN_PIECES
    this.found = chains.regions[segment + 1]
    return chains.offset(segment + 1) | 0
  }

  private memory(): Region {
    return new Region(new ArrayBuffer(this.size), 'frame staging')
  }
}

/** Whether frame i is longer than `longest` and 4 bytes more for each VLAN tag, of which two are the most. */
export function tooLong({ lengths, offsets, region }: Frames, i: number, longest: number): boolean {
  const over = lengths[i] - longest
  if (over <= 0) return false
  if (over > TAGS) return true
  let tags = 0
  while (tags < TAGS && isTag(region.u8, offsets[i] + ETHERTYPE_OFFSET + tags)) tags += TAG
  return over > tags
}

// The header's two fields that matter, each loaded once: together where they lie on an even offset.
function asksForOffload(region: Region, header: number): boolean {
  if ((header & 1) === 0) return (region.u16[header >>> 1] & OFFLOADS) !== 0
  const bytes = region.u8
  return (bytes[header + FLAGS_AT] & OFFLOAD_FLAGS) !== 0 || bytes[header + GSO_AT] !== GSO_NONE
}

function isTag(bytes: Uint8Array, at: number): boolean {
  const type = (bytes[at] << 8) | bytes[at + 1]
  return type === ETHERTYPE_VLAN || type === ETHERTYPE_VLAN_STACKED
}
