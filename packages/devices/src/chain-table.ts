import { clear, copy, type Region } from '@guestdma/memory'

const FIRST_CAPACITY = 64
/** Pieces that a device keeps of its current chains. A chain of queue-size descriptors fits many times over; a platform that maps by the page may cut a long buffer into more. */
export const MAX_SEGMENTS = 65536

/**
 * The chains that a device is working on, as columns: rows (one per chain) over segments (contiguous pieces of memory, resolved through the
 * port). Device-readable segments of a row come first. Rows are valid until the next `take`, segments for as long as the port's epoch.
 */
export class ChainTable {
  /** Rows in use; segments in use. */
  rows = 0
  segments = 0

  readonly heads: Int32Array
  /** Where in the available ring the chain stood, modulo 2^16. */
  readonly positions: Int32Array
  /** Segments [firsts, writes) are device-readable, [writes, ends) device-writable. */
  readonly firsts: Int32Array
  readonly writes: Int32Array
  readonly ends: Int32Array
  /** Bytes in each of the two parts. */
  readonly readable: Float64Array
  readonly writable: Float64Array

  // Replaced by grow().
  regions: Region[]
  offsets: Float64Array
  lengths: Uint32Array
  addresses: Float64Array

  constructor(rows: number, region: Region) {
    this.heads = new Int32Array(rows)
    this.positions = new Int32Array(rows)
    this.firsts = new Int32Array(rows)
    this.writes = new Int32Array(rows)
    this.ends = new Int32Array(rows)
    this.readable = new Float64Array(rows)
    this.writable = new Float64Array(rows)
    this.regions = new Array<Region>(FIRST_CAPACITY).fill(region)
    this.offsets = new Float64Array(FIRST_CAPACITY)
    this.lengths = new Uint32Array(FIRST_CAPACITY)
    this.addresses = new Float64Array(FIRST_CAPACITY)
  }

  /** Doubles the segment columns; false at the bound. */
  grow(): boolean {
    const old = this.offsets.length
    if (old >= MAX_SEGMENTS) return false
    this.regions = this.regions.concat(this.regions)
    const { offsets, lengths, addresses } = this
    this.offsets = new Float64Array(old * 2)
    this.lengths = new Uint32Array(old * 2)
    this.addresses = new Float64Array(old * 2)
    this.offsets.set(offsets)
    this.lengths.set(lengths)
    this.addresses.set(addresses)
    return true
  }

  /** Copies `length` device-readable bytes of a row, from byte `skip` on, to `to`. They must exist. */
  gather(row: number, skip: number, to: Region, toOffset: number, length: number): void {
    const lengths = this.lengths
    let segment = this.firsts[row]
    while (skip >= lengths[segment] && length > 0) skip -= lengths[segment++]
    while (length > 0) {
      const piece = Math.min(lengths[segment] - skip, length)
      copy(to, toOffset, this.regions[segment], this.offsets[segment] + skip, piece)
      toOffset += piece
      length -= piece
      skip = 0
      segment++
    }
  }

  /** Copies `length` bytes to the device-writable part of a row, from byte `skip` of it on. They must fit. */
  scatter(row: number, skip: number, from: Region, fromOffset: number, length: number): void {
    const lengths = this.lengths
    let segment = this.writes[row]
    while (skip >= lengths[segment] && length > 0) skip -= lengths[segment++]
    while (length > 0) {
      const piece = Math.min(lengths[segment] - skip, length)
      const region = this.regions[segment]
      const offset = this.offsets[segment] + skip
      copy(region, offset, from, fromOffset, piece)
      if (region.onDeviceWrite !== null) region.onDeviceWrite(offset, piece)
      fromOffset += piece
      length -= piece
      skip = 0
      segment++
    }
  }

  /** Writes `length` zeros to the device-writable part of a row, from byte `skip` of it on. They must fit. */
  scatterZeros(row: number, skip: number, length: number): void {
    const lengths = this.lengths
    let segment = this.writes[row]
    while (skip >= lengths[segment] && length > 0) skip -= lengths[segment++]
    while (length > 0) {
      const piece = Math.min(lengths[segment] - skip, length)
      const region = this.regions[segment]
      const offset = this.offsets[segment] + skip
      clear(region, offset, piece)
      if (region.onDeviceWrite !== null) region.onDeviceWrite(offset, piece)
      length -= piece
      skip = 0
      segment++
    }
  }
}
