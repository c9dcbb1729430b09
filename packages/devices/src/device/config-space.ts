import { isPart } from './access-width.ts'

/** One field of a configuration space. A 64-bit field is accessed as two of 32 bits (virtio 1.4 §4.2.2.2). */
export interface ConfigField {
  readonly offset: number
  readonly width: 1 | 2 | 4
  readonly writable?: boolean
}

/**
 * The device-specific configuration space (virtio 1.4 §2.5): little-endian bytes, the fields that they form, and the
 * generation, which changes whenever a field does, whoever changed it (§2.5.1).
 */
export class ConfigSpace {
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly fields: readonly ConfigField[]
  generation = 0
  private readonly view: DataView
  // By byte: the field that it belongs to.
  private readonly fieldAt: (ConfigField | undefined)[]

  constructor(length: number, fields: readonly ConfigField[]) {
    this.bytes = new Uint8Array(length)
    this.view = new DataView(this.bytes.buffer)
    this.fields = fields
    this.fieldAt = Array.from({ length }, (_, at) =>
      fields.find(({ offset, width }) => at >= offset && at < offset + width),
    )
  }

  /** The field that an access of this offset and width hits exactly, if any. */
  field(offset: number, width: number): ConfigField | undefined {
    const field = this.fieldAt[offset]
    return field !== undefined && field.offset === offset && field.width === width ? field : undefined
  }

  /** Whether a read gives a field or an aligned part of one. */
  readable(offset: number, width: 1 | 2 | 4): boolean {
    const field = this.fieldAt[offset]
    return field !== undefined && isPart(offset, width, field.offset, field.width)
  }

  read(offset: number, width: 1 | 2 | 4): number {
    if (width === 1) return this.view.getUint8(offset)
    return width === 2 ? this.view.getUint16(offset, true) : this.view.getUint32(offset, true)
  }

  /** Stores a value; whether the driver may is the caller's affair. */
  write(offset: number, width: 1 | 2 | 4, value: number): void {
    const before = this.read(offset, width)
    if (width === 1) this.view.setUint8(offset, value)
    else if (width === 2) this.view.setUint16(offset, value, true)
    else this.view.setUint32(offset, value, true)
    if (this.read(offset, width) !== before) this.generation = (this.generation + 1) >>> 0
  }

  /** Stores a 64-bit value below 2^53. */
  write64(offset: number, value: number): void {
    this.write(offset, 4, value % 2 ** 32)
    this.write(offset + 4, 4, Math.floor(value / 2 ** 32))
  }
}
