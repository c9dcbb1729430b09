/** One field of a configuration space. A 64-bit field is accessed as two of 32 bits (virtio 1.4 §4.2.2.2). */
export interface ConfigField {
  readonly offset: number
  readonly width: 1 | 2 | 4
  readonly writable?: boolean
}

/**
 * The device-specific configuration space (virtio 1.4 §2.5): little-endian bytes, the fields that they form, and the
 * generation that changes with them.
 */
export class ConfigSpace {
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly fields: readonly ConfigField[]
  generation = 0
  private readonly view: DataView
  private readonly fieldAt: (ConfigField | undefined)[]

  constructor(length: number, fields: readonly ConfigField[]) {
    this.bytes = new Uint8Array(length)
    this.view = new DataView(this.bytes.buffer)
    this.fields = fields
    this.fieldAt = Array.from({ length }, (_, at) => fields.find(({ offset }) => offset === at))
  }

  /** The field that an access of this offset and width hits exactly, if any. */
  field(offset: number, width: number): ConfigField | undefined {
    const field = this.fieldAt[offset]
    return field !== undefined && field.width === width ? field : undefined
  }

  read(offset: number, width: 1 | 2 | 4): number {
    if (width === 1) return this.view.getUint8(offset)
    return width === 2 ? this.view.getUint16(offset, true) : this.view.getUint32(offset, true)
  }

  /** Stores a value; whether the driver may is the caller's affair. */
  write(offset: number, width: 1 | 2 | 4, value: number): void {
    if (width === 1) this.view.setUint8(offset, value)
    else if (width === 2) this.view.setUint16(offset, value, true)
    else this.view.setUint32(offset, value, true)
  }

  /** Stores a 64-bit value below 2^53. */
  write64(offset: number, value: number): void {
    this.view.setUint32(offset, value % 2 ** 32, true)
    this.view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true)
  }
}
