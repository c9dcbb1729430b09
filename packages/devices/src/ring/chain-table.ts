import { type BusPort, clear, copy, type Region } from '@guestdma/memory'

// Multiplying by this moves the high half of an address down; it is exact, and cheaper than a division.
const HIGH_HALF = 2 ** -32

const FIRST_CAPACITY = 256
// Chains that are loaded from a ring together, at most.
const BATCH = 64
/**
 * Segments that are kept of all chains that a device works on together, beside descriptors that are segments where they
 * stand. A chain of queue-size descriptors fits; a platform that maps by the page may cut a long buffer into more.
 */
export const MAX_SEGMENTS = 65536

/**
 * Words of a row in {@link ChainTable.columns}. `ID` and `FETCHED`, the first of its descriptors, are what a ring format
 * loaded. `WRITE` is the first device-writable segment of a chain that was taken; or {@link ONE_READABLE} or
 * {@link ONE_WRITABLE}, where its one descriptor is its one segment. Otherwise its segments are those from `FIRST` to
 * before `END`.
 */
export const ROW_ID = 0
export const ROW_FETCHED = 1
export const ROW_WRITE = 2
const FIRST = 3
const END = 4
/** Words of a row: its place is a shift. */
export const ROW = 8
export const ONE_READABLE = -1
export const ONE_WRITABLE = -2

/**
 * Words of a segment in {@link ChainTable.words}. A ring format fills the first four in, as it loaded them: address, low
 * and high, length, and the flags NEXT, WRITE and INDIRECT. Then come low and high half of where the bytes are in the
 * region.
 */
export const SEGMENT_LENGTH = 2
export const SEGMENT_FLAGS = 3
export const SEGMENT_OFFSET = 4
/** Words of a segment. */
export const SEGMENT = 8

// The engine folds constants that are not exported into its code; others it loads at each use.
const ID = ROW_ID
const FETCHED = ROW_FETCHED
const WRITE = ROW_WRITE
const STRIDE = ROW
const ALL_READABLE = ONE_READABLE
const ALL_WRITABLE = ONE_WRITABLE
const LENGTH = SEGMENT_LENGTH
const OFFSET = SEGMENT_OFFSET
const WORDS = SEGMENT

/**
 * The chains of one queue that a device is working on, in private memory: rows, one for each chain, over segments.
 *
 * A ring format loads chains to the end of the table ({@link to}, {@link segments}), each word of shared memory once. The
 * walker then takes chains in their order, and resolves each buffer through the port: a segment is a piece of memory that
 * is contiguous where the device reaches it. A descriptor that is granted in one piece becomes a segment where it stands;
 * else the chain's segments are put down behind everything.
 *
 * Rows [`row0`, `next`) were taken and are those that a device works on: it counts them from 0. Rows [`next`, `to`) were
 * loaded and not taken. Device-readable segments of a row come first. Rows are valid until the next `take`, segments for
 * as long as the port's epoch.
 */
export class ChainTable {
  row0 = 0
  next = 0
  to = 0
  /** Descriptors and segments, also of rows that were given back. Behind what was loaded stands what the walker put down. */
  segments = 0
  private loaded = 0
  /** Of these, segments that were put down, and entries of indirect tables, since rows were last forgotten. */
  extra = 0
  // Number of row 0 of the columns among all chains since the start, modulo 2^16.
  private number = 0

  // Replaced by reserve().
  declare words: Int32Array
  declare regions: Region[]

  declare readonly columns: Int32Array
  declare private readonly nowhere: Region
  // Pairs: readable and writable bytes of rows with several segments.
  declare private readonly bytes: Float64Array

  constructor(queueSize: number, nowhere: Region) {
    // A queue has no more chains than entries. Before them may stand those of one load that are done, and nearly as many
    // again before they are moved; behind them one that is taken again.
    const rows = queueSize + 2 * BATCH + 1
    this.columns = new Int32Array(rows * STRIDE)
    this.bytes = new Float64Array(rows * 2)
    this.nowhere = nowhere
    this.words = new Int32Array(FIRST_CAPACITY * WORDS)
    this.regions = new Array<Region>(FIRST_CAPACITY).fill(nowhere)
  }

  /** For the walker: of a queue that was just enabled, or reset. */
  clear(): void {
    this.row0 = this.next = this.to = this.segments = this.loaded = this.extra = this.number = 0
    if (this.regions.length > FIRST_CAPACITY) this.allocate(FIRST_CAPACITY)
  }

  /** For the walker: forgets the rows that were taken. */
  forget(): void {
    this.extra = 0
    if (this.next === this.to) {
      this.number = this.numberOf(this.next)
      this.next = this.to = this.segments = this.loaded = 0
    } else {
      this.segments = this.loaded
      if (this.next >= BATCH) this.shift()
    }
    this.row0 = this.next
  }

  // Moves the chains that were not taken to the front.
  private shift(): void {
    const { columns, loaded, next, to } = this
    const first = columns[next * STRIDE + FETCHED]
    this.words.copyWithin(0, first * WORDS, loaded * WORDS)
    columns.copyWithin(0, next * STRIDE, to * STRIDE)
    this.number = this.numberOf(next)
    this.next = 0
    this.to = to - next
    this.segments = this.loaded = loaded - first
    for (let row = 0; row < this.to; row++) columns[row * STRIDE + FETCHED] -= first
  }

  /** For the walker: how many more chains may be loaded. */
  get room(): number {
    return Math.min(BATCH, this.columns.length / STRIDE - 1 - this.to)
  }

  /** For a format: `chains` more rows were filled in, and descriptors up to `end`. */
  add(chains: number, end: number): void {
    this.to += chains
    this.segments = this.loaded = end
  }

  /** Makes room for segments up to `end`. */
  reserve(end: number): void {
    let capacity = this.regions.length
    if (end <= capacity) return
    while (capacity < end) capacity *= 2
    const { regions, words } = this
    this.allocate(capacity)
    this.words.set(words)
    for (let segment = 0; segment < regions.length; segment++) this.regions[segment] = regions[segment]
  }

  private allocate(capacity: number): void {
    this.words = new Int32Array(capacity * WORDS)
    this.regions = new Array<Region>(capacity).fill(this.nowhere)
  }

  /** For the walker: takes `count` segments behind all others. Returns the first of them. */
  claim(count: number): number {
    const first = this.segments
    this.segments += count
    this.extra += count
    this.reserve(this.segments)
    return first
  }

  /** For the walker: moves all segments from `first` on to where `to` is, over those between. */
  drop(to: number, first: number): void {
    this.words.copyWithin(to * WORDS, first * WORDS, this.segments * WORDS)
    for (let i = 0; first + i < this.segments; i++) this.regions[to + i] = this.regions[first + i]
    this.unclaim(this.segments - (first - to))
  }

  /** For the walker: gives back what was claimed since {@link segments} was so many: of a chain that was not taken. */
  unclaim(segments: number): void {
    this.extra -= this.segments - segments
    this.segments = segments
  }

  /** For the walker: puts a segment down behind all others: where the port stands, `length` bytes. */
  put(port: BusPort, length: number): void {
    const segment = this.claim(1)
    const { words } = this
    const at = segment * WORDS
    const address = port.request[0]
    words[at] = address | 0
    words[at + 1] = (address * HIGH_HALF) | 0
    words[at + LENGTH] = length | 0
    this.place(segment, port)
  }

  /** For the walker: a segment is where the port found it. */
  place(segment: number, { offset, region }: BusPort): void {
    const at = segment * WORDS + OFFSET
    this.words[at] = offset | 0
    this.words[at + 1] = (offset * HIGH_HALF) | 0
    // Comparing costs less than the store's write barrier.
    if (this.regions[segment] !== region) this.regions[segment] = region
  }

  /** For the walker: copies segments [first, end) behind all others. Returns where the first of them is now. */
  move(first: number, end: number): number {
    const moved = this.claim(end - first)
    this.words.copyWithin(moved * WORDS, first * WORDS, end * WORDS)
    for (let i = 0; first + i < end; i++) this.regions[moved + i] = this.regions[first + i]
    return moved
  }

  /** For the walker: the segments of row `index` of the columns, and their bytes. */
  describe(index: number, first: number, write: number, end: number, readable: number, writable: number): void {
    const { bytes, columns } = this
    const at = index * STRIDE
    columns[at + WRITE] = write
    columns[at + FIRST] = first
    columns[at + END] = end
    bytes[2 * index] = readable
    bytes[2 * index + 1] = writable
  }

  /** The number of row `index` of the columns among all chains of the queue, modulo 2^16. */
  numberOf(index: number): number {
    return (this.number + index) & 0xffff
  }

  /** The chain's id: in a split ring its head. */
  head(row: number): number {
    return this.columns[(this.row0 + row) * STRIDE + ID]
  }

  /** As how many-th the chain was made available, modulo 2^16. */
  position(row: number): number {
    return this.numberOf(this.row0 + row)
  }

  /** Segments [first, write) of a row are device-readable, [write, end) device-writable. */
  first(row: number): number {
    const at = (this.row0 + row) * STRIDE
    return this.columns[at + (this.columns[at + WRITE] < 0 ? FETCHED : FIRST)]
  }

  write(row: number): number {
    const at = (this.row0 + row) * STRIDE
    const write = this.columns[at + WRITE]
    if (write >= 0) return write
    return this.columns[at + FETCHED] + (write === ALL_READABLE ? 1 : 0)
  }

  end(row: number): number {
    const at = (this.row0 + row) * STRIDE
    return this.columns[at + WRITE] < 0 ? this.columns[at + FETCHED] + 1 : this.columns[at + END]
  }

  /** Bytes in the device-readable part of a row. */
  readable(row: number): number {
    const index = this.row0 + row
    const write = this.columns[index * STRIDE + WRITE]
    if (write >= 0) return this.bytes[2 * index]
    return write === ALL_READABLE ? this.length(this.columns[index * STRIDE + FETCHED]) : 0
  }

  /** Bytes in the device-writable part of a row. */
  writable(row: number): number {
    const index = this.row0 + row
    const write = this.columns[index * STRIDE + WRITE]
    if (write >= 0) return this.bytes[2 * index + 1]
    return write === ALL_WRITABLE ? this.length(this.columns[index * STRIDE + FETCHED]) : 0
  }

  /** Bytes of a segment. */
  length(segment: number): number {
    return this.words[segment * WORDS + LENGTH] >>> 0
  }

  /** Where a segment begins in its region. */
  offset(segment: number): number {
    const at = segment * WORDS + OFFSET
    const low = this.words[at]
    const high = this.words[at + 1]
    // An integer to the engine too, where it can be one.
    return high === 0 && low >= 0 ? low : high * 2 ** 32 + (low >>> 0)
  }

  /** The device address of a segment. */
  address(segment: number): number {
    const { words } = this
    const at = segment * WORDS
    return (words[at + 1] >>> 0) * 2 ** 32 + (words[at] >>> 0)
  }

  /** Copies `length` device-readable bytes of a row, from byte `skip` on, to `to`. They must exist. */
  gather(row: number, skip: number, to: Region, toOffset: number, length: number): void {
    const { regions, words } = this
    for (let segment = this.first(row); length > 0; segment++) {
      const left = (words[segment * WORDS + LENGTH] >>> 0) - skip
      if (left > 0) {
        const piece = left < length ? left : length
        copy(to, toOffset, regions[segment], this.offset(segment) + skip, piece)
        toOffset += piece
        length -= piece
      }
      skip = left < 0 ? -left : 0
    }
  }

  /**
   * Copies `length` bytes to the device-writable part of a row, from byte `skip` of it on. They must fit. Returns whether
   * somebody wants to be told: then {@link report} follows.
   */
  scatter(row: number, skip: number, from: Region, fromOffset: number, length: number): boolean {
    const { regions, words } = this
    let listened = false
    for (let segment = this.write(row); length > 0; segment++) {
      const left = (words[segment * WORDS + LENGTH] >>> 0) - skip
      if (left > 0) {
        const piece = left < length ? left : length
        const region = regions[segment]
        copy(region, this.offset(segment) + skip, from, fromOffset, piece)
        if (region.onDeviceWrite !== null) listened = true
        fromOffset += piece
        length -= piece
      }
      skip = left < 0 ? -left : 0
    }
    return listened
  }

  /** Writes zeros as {@link scatter} copies bytes. */
  scatterZeros(row: number, skip: number, length: number): boolean {
    const { regions, words } = this
    let listened = false
    for (let segment = this.write(row); length > 0; segment++) {
      const left = (words[segment * WORDS + LENGTH] >>> 0) - skip
      if (left > 0) {
        const piece = left < length ? left : length
        const region = regions[segment]
        clear(region, this.offset(segment) + skip, piece)
        if (region.onDeviceWrite !== null) listened = true
        length -= piece
      }
      skip = left < 0 ? -left : 0
    }
    return listened
  }

  /**
   * Tells who listens that bytes [skip, skip + length) of the device-writable part of a row were written. The last that a
   * device does for a row: it runs foreign code, which may grow a memory, reset the device, or call it.
   */
  report(row: number, skip: number, length: number): void {
    const { regions, words } = this
    for (let segment = this.write(row); length > 0; segment++) {
      const left = (words[segment * WORDS + LENGTH] >>> 0) - skip
      if (left > 0) {
        const piece = left < length ? left : length
        const region = regions[segment]
        if (region.onDeviceWrite !== null) region.onDeviceWrite(this.offset(segment) + skip, piece)
        length -= piece
      }
      skip = left < 0 ? -left : 0
    }
  }
}
