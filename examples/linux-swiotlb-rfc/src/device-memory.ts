// Memory that a device brings along, and a port that reaches this memory and nothing else.
import { BusWindows, type PciFunction } from '@guestdma/devices'
import { type MemoryWindow, Meter, Region } from '@guestdma/memory'

/** Where `PciFunction` puts memory for bounce buffers. */
const BAR = 2

export class DeviceMemory {
  readonly port: BusWindows
  /** For the BAR: what the guest loads and stores there is counted. */
  readonly window: MemoryWindow
  readonly meter = new Meter()
  /** Where the guest put the BAR; empty while it is not decoded. */
  spans: readonly { readonly base: number; readonly length: number }[] = []
  private readonly region: Region

  constructor(name: string, length: number) {
    const memory = new ArrayBuffer(length)
    // The device's own accesses are its own affair, so it has a view that counts nothing.
    this.region = new Region(memory, `${name} memory`)
    const behindBar = new Region(memory, `${name} memory behind its BAR`)
    behindBar.meter = this.meter
    this.window = { region: behindBar, offset: 0, length }
    this.port = new BusWindows(`${name} port`)
  }

  /** All of it. */
  get bytes(): Uint8Array {
    return this.region.u8
  }

  /** The guest moved or disabled the BAR: so does the port. */
  follow(pci: PciFunction): void {
    const { address = 0, enabled = false } = pci.range(BAR) ?? {}
    const { length } = this.window
    this.spans = enabled ? [{ base: address, length }] : []
    this.port.setWindows(this.spans.map((span) => ({ ...span, region: this.region })))
  }

  /** Bytes at a device address, or `null` where they are not this memory. */
  lookup(address: number, length: number): MemoryWindow | null {
    const [span] = this.spans
    if (span === undefined || address < span.base || address + length > span.base + span.length) return null
    return { region: this.region, offset: address - span.base, length }
  }
}
