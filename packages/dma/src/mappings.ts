/**
 * The mappings of one queue: a table with a row per descriptor, as typed-array columns. An address that is passed as an
 * argument or kept in an object's field is a heap number from 2^30 or 2^31 on, so it travels by row. Rows are made once
 * and reused.
 *
 * The queue fills `guest`, `length` and `direction`; the backend's `map` fills `device`, `deviceLength` and, for its
 * own use, `token`. Nobody changes a column of a live row: a ring reads `device` and `deviceLength` when the chain is
 * published. Of rows that are not mapped (memory that the device always sees, an indirect table) the queue fills these
 * two in itself.
 */
export class DmaMappings {
  /** Guest address of the lent bytes. */
  declare readonly guest: Float64Array
  /** Device address that stands for them, valid from `map` to `unmap`. */
  declare readonly device: Float64Array
  /** Bytes lent. */
  declare readonly length: Uint32Array
  /** Bytes that the device sees: `length`, and up to `limits.overhead` more where a backend adds something. */
  declare readonly deviceLength: Uint32Array
  /** A {@link DmaDirection}. */
  declare readonly direction: Uint8Array
  /** The backend's own: which slot or table entry this row holds. */
  declare readonly token: Int32Array
  /**
   * True for buffers that wait for the outside world (posted receive buffers) rather than for a request of ours. A
   * backend with limited space lets them hold only a share of it, so that requests can always go on.
   */
  declare readonly standing: boolean

  constructor(rows: number, standing = false) {
    this.guest = new Float64Array(rows)
    this.device = new Float64Array(rows)
    this.length = new Uint32Array(rows)
    this.deviceLength = new Uint32Array(rows)
    this.direction = new Uint8Array(rows)
    this.token = new Int32Array(rows).fill(-1)
    this.standing = standing
  }

  get rows(): number {
    return this.guest.length
  }

  /** Does [offset, offset + length) lie within the bytes that `row` lends? What a backend asks before it syncs. */
  spans(row: number, offset: number, length: number): boolean {
    return offset >= 0 && length >= 0 && offset + length <= this.length[row]
  }
}
