import { type ConfigReader, TransportError } from '@guestdma/transport'

/** A configuration space as bytes. Its methods throw TransportError `TRANSPORT_CONFIG_RANGE` for what is no field of it. */
export class ConfigBytes implements ConfigReader {
  private readonly part: string
  private readonly view: DataView

  /** Reads and writes `bytes` themselves. */
  constructor(part: string, bytes: Uint8Array) {
    this.part = part
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  readonly read8 = (offset: number): number => this.view.getUint8(this.field(offset, 1))
  readonly read16 = (offset: number): number => this.view.getUint16(this.field(offset, 2), true)
  readonly read32 = (offset: number): number => this.view.getUint32(this.field(offset, 4), true)

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    const at = this.field(offset, size)
    if (size === 1) this.view.setUint8(at, value)
    else if (size === 2) this.view.setUint16(at, value, true)
    else this.view.setUint32(at, value, true)
  }

  private field(offset: number, size: number): number {
    const { byteLength: length } = this.view
    if (Number.isInteger(offset) && offset >= 0 && offset % size === 0 && offset + size <= length) return offset
    const text = `the configuration has ${length} bytes, and no aligned field of ${size} at ${offset}`
    throw new TransportError('TRANSPORT_CONFIG_RANGE', this.part, text, { offset, size, length })
  }
}
