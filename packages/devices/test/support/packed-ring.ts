import type { Element, Ram } from './guest.ts'

export const AVAILABLE = 0x80
export const USED = 0x8000

/** The driver's side of a packed ring, naive and explicit: virtio 1.4 §2.8. */
export class PackedRing {
  readonly ram: Ram
  readonly size: number
  readonly desc: number
  /** The event suppression structures of the driver and of the device. */
  readonly avail: number
  readonly used: number
  /** Entries, counted from the start: the next to be made available, and the next to be looked at. */
  next = 0
  seen = 0
  /** Entries that a chain takes, by id. */
  private readonly counts = new Map<number, number>()

  constructor(ram: Ram, size: number) {
    this.ram = ram
    this.size = size
    this.desc = ram.alloc(16 * size, 16)
    this.avail = ram.alloc(4, 4)
    this.used = ram.alloc(4, 4)
  }

  at(entry: number): number {
    return this.desc + 16 * (entry % this.size)
  }

  /** Offset and wrap counter of an entry, as events name it. */
  place(entry: number): number {
    return (entry % this.size) | (this.lap(entry) === 0 ? 0x8000 : 0)
  }

  /** Writes an entry whose marks make it available. */
  describe(entry: number, address: number, length: number, id: number, flags: number): void {
    const at = this.at(entry)
    this.ram.set64(at, address)
    this.ram.set32(at + 8, length)
    this.ram.set16(at + 12, id)
    this.ram.set16(at + 14, flags | (this.lap(entry) === 0 ? AVAILABLE : USED))
  }

  /** Makes a chain available. Its first entry last, as the text wants it. */
  offer(id: number, ...elements: readonly Element[]): void {
    const first = this.next
    this.next += elements.length
    this.counts.set(id, elements.length)
    elements.toReversed().forEach(({ address, length, w }, i) => {
      const entry = first + elements.length - 1 - i
      this.describe(entry, address, length, id, (w === true ? 2 : 0) | (i > 0 ? 1 : 0))
    })
  }

  /** Makes a chain in a table available. */
  offerTable(id: number, ...elements: readonly Element[]): void {
    const table = this.ram.alloc(16 * elements.length, 16)
    elements.forEach(({ address, length, w }, i) => {
      this.ram.set64(table + 16 * i, address)
      this.ram.set32(table + 16 * i + 8, length)
      this.ram.set16(table + 16 * i + 14, w === true ? 2 : 0)
    })
    this.counts.set(id, 1)
    this.describe(this.next++, table, 16 * elements.length, id, 4)
  }

  /** What became used since the last call: id and length. */
  reap(): [id: number, length: number][] {
    const found: [number, number][] = []
    for (;;) {
      const at = this.at(this.seen)
      const both = this.lap(this.seen) === 0 ? AVAILABLE | USED : 0
      if ((this.ram.u16(at + 14) & (AVAILABLE | USED)) !== both) return found
      const id = this.ram.u16(at + 12)
      found.push([id, this.ram.u32(at + 8)])
      this.seen += this.counts.get(id) ?? 1
    }
  }

  /** When the device is to interrupt: 0 always, 1 never, 2 at an entry. */
  event(flags: 0 | 1 | 2, entry = 0): void {
    this.ram.set16(this.avail, this.place(entry))
    this.ram.set16(this.avail + 2, flags)
  }

  private lap(entry: number): number {
    return Math.floor(entry / this.size) % 2
  }
}
