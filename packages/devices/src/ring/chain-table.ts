import { clear, copy, type Region } from '@guestdma/memory'

const FIRST_CAPACITY = 64
/**
 * Pieces that a device keeps of its current chains. A chain of queue-size descriptors fits many times over; a platform
 * that maps by the page may cut a long buffer into more.
 */
export const MAX_SEGMENTS = 65536

/**
 * Columns of a row in {@link ChainTable.columns}, and how many elements a row takes. The first holds the head, and from
 * bit 16 on the position in the available ring. A row's segments end where those of the next begin. Four elements to a
 * row, so that its place is a shift.
 */
export const ROW_HEAD = 0
export const ROW_FIRST = 1
export const ROW_WRITE = 2
export const ROW = 4
/** In the third column: the row is one segment, and its length says how many bytes there are. */
export const ONE_READABLE = -1
export const ONE_WRITABLE = -2

/**
 * The chains that a device is working on, as columns: rows (one per chain) over segments (contiguous pieces of memory,
 * resolved through the port). Device-readable segments of a row come first. Rows are valid until the next `take`,
 * segments for as long as the port's epoch.
 */
export class ChainTable {
  /** Rows in use; segments in use. */
  rows = 0
  segments = 0

  // Replaced by grow(). Segment s begins at offsets[s] of its region, and at a device address
  // that addresses[2 s] and addresses[2 s + 1] hold, its low and its high half.
  declare regions: Region[]
  declare lengths: Uint32Array
  declare offsets: Float64Array
  declare addresses: Int32Array

  /**
   * All columns of the rows in one array, and their two byte counts (readable, writable) in another: a chain is put
   * down with few loads.
   */
  declare readonly columns: Int32Array
  declare readonly bytes: Float64Array

  constructor(rows: number, region: Region) {
    this.columns = new Int32Array(rows * ROW)
    this.bytes = new Float64Array(rows * 2)
    this.regions = new Array<Region>(FIRST_CAPACITY).fill(region)
    this.lengths = new Uint32Array(FIRST_CAPACITY)
    this.offsets = new Float64Array(FIRST_CAPACITY)
    this.addresses = new Int32Array(FIRST_CAPACITY * 2)
  }

  head(row: number): number {
    return this.columns[row * ROW + ROW_HEAD] & 0xffff
  }

  /** Where in the available ring the chain stood, modulo 2^16. */
  position(row: number): number {
    return this.columns[row * ROW + ROW_HEAD] >>> 16
  }

  /** Segments [first, write) of a row are device-readable, [write, end) device-writable. */
  first(row: number): number {
    return this.columns[row * ROW + ROW_FIRST]
  }

  write(row: number): number {
    const write = this.columns[row * ROW + ROW_WRITE]
    return write >= 0 ? write : this.first(row) + (write === ONE_READABLE ? 1 : 0)
  }

  end(row: number): number {
    return row + 1 < this.rows ? this.columns[(row + 1) * ROW + ROW_FIRST] : this.segments
  }

  /** Bytes in the device-readable part of a row. */
  readable(row: number): number {
    const write = this.columns[row * ROW + ROW_WRITE]
    if (write >= 0) return this.bytes[row * 2]
    return write === ONE_READABLE ? this.lengths[this.first(row)] : 0
  }

  /** Bytes in the device-writable part of a row. */
  writable(row: number): number {
    const write = this.columns[row * ROW + ROW_WRITE]
    if (write >= 0) return this.bytes[row * 2 + 1]
    return write === ONE_WRITABLE ? this.lengths[this.first(row)] : 0
  }

  /** Where a segment begins in its region. */
  offset(segment: number): number {
    return this.offsets[segment]
  }

  /** The device address of a segment. */
  address(segment: number): number {
    const { addresses } = this
    return (addresses[segment * 2 + 1] >>> 0) * 2 ** 32 + (addresses[segment * 2] >>> 0)
  }

  /** For the walker: appends a row over the segments [first, end) and returns it. */
  add(
    head: number,
    position: number,
    first: number,
    write: number,
    end: number,
    readable: number,
    writable: number,
  ): number {
    const row = this.rows++
    const columns = this.columns
    const at = row * ROW
    columns[at + ROW_HEAD] = (position << 16) | head
    columns[at + ROW_FIRST] = first
    columns[at + ROW_WRITE] = write
    const bytes = this.bytes
    bytes[row * 2] = readable
    bytes[row * 2 + 1] = writable
    this.segments = end
    return row
  }

  /** Doubles the segment columns; false at the bound. */
  grow(): boolean {
    const { addresses, lengths, offsets } = this
    const old = lengths.length
    if (old >= MAX_SEGMENTS) return false
    this.regions = this.regions.concat(this.regions)
    this.lengths = new Uint32Array(old * 2)
    this.offsets = new Float64Array(old * 2)
    this.addresses = new Int32Array(old * 4)
    this.lengths.set(lengths)
    this.offsets.set(offsets)
    this.addresses.set(addresses)
    return true
  }

  /** Copies `length` device-readable bytes of a row, from byte `skip` on, to `to`. They must exist. */
  gather(row: number, skip: number, to: Region, toOffset: number, length: number): void {
    const lengths = this.lengths
    let segment = this.first(row)
    while (skip >= lengths[segment] && length > 0) skip -= lengths[segment++]
    while (length > 0) {
      const piece = Math.min(lengths[segment] - skip, length)
      copy(to, toOffset, this.regions[segment], this.offset(segment) + skip, piece)
      toOffset += piece
      length -= piece
      skip = 0
      segment++
    }
  }

  /**
   * Copies `length` bytes to the device-writable part of a row, from byte `skip` of it on. They must fit. Returns whether
   * somebody wants to be told: then {@link report} follows.
   */
  scatter(row: number, skip: number, from: Region, fromOffset: number, length: number): boolean {
    const lengths = this.lengths
    let listened = false
    let segment = this.write(row)
    while (skip >= lengths[segment] && length > 0) skip -= lengths[segment++]
    while (length > 0) {
      const piece = Math.min(lengths[segment] - skip, length)
      const region = this.regions[segment]
      copy(region, this.offset(segment) + skip, from, fromOffset, piece)
      if (region.onDeviceWrite !== null) listened = true
      fromOffset += piece
      length -= piece
      skip = 0
      segment++
    }
    return listened
  }

  /** Writes zeros as {@link scatter} copies bytes. */
  scatterZeros(row: number, skip: number, length: number): boolean {
    const lengths = this.lengths
    let listened = false
    let segment = this.write(row)
    while (skip >= lengths[segment] && length > 0) skip -= lengths[segment++]
    while (length > 0) {
      const piece = Math.min(lengths[segment] - skip, length)
      const region = this.regions[segment]
      clear(region, this.offset(segment) + skip, piece)
      if (region.onDeviceWrite !== null) listened = true
      length -= piece
      skip = 0
      segment++
    }
    return listened
  }

  /**
   * Tells who listens that bytes [skip, skip + length) of the device-writable part of a row were written. The last that a
   * device does for a row: it runs foreign code, which may grow a memory, reset the device, or call it.
   */
  report(row: number, skip: number, length: number): void {
    const { lengths, offsets, regions } = this
    let segment = this.write(row)
    while (length > 0) {
      const bytes = lengths[segment]
      if (skip >= bytes) skip -= bytes
      else {
        const piece = Math.min(bytes - skip, length)
        const region = regions[segment]
        if (region.onDeviceWrite !== null) region.onDeviceWrite(offsets[segment] + skip, piece)
        length -= piece
        skip = 0
      }
      segment++
    }
  }
}
