/** Bytes of a ring of 256 entries, its cells and buffers. */
export const BARE_BYTES: number = 1 << 20
const SIZE = 256

/**
 * A split ring as bare as it can be: descriptors are written once, and from then on a batch costs the available entries,
 * the index, a doorbell where the device wants one, and looks at the used index. No checks, no ids, no mapping.
 */
export class BareRing {
  readonly size = SIZE
  readonly areas: { readonly descriptor: number; readonly driver: number; readonly device: number }
  /** Where cells and buffers may lie: an offset in the memory. */
  readonly free: number
  private readonly u16: Uint16Array
  private readonly u32: Uint32Array
  private readonly at: number
  private readonly available: number
  private readonly used: number
  private next = 0

  constructor(memory: ArrayBuffer, at: number, device: number) {
    this.u16 = new Uint16Array(memory)
    this.u32 = new Uint32Array(memory)
    this.at = at
    this.available = at + 16 * SIZE
    this.used = at + 8192
    this.free = at + 16_384
    this.areas = { descriptor: device + at, driver: device + this.available, device: device + this.used }
    // No interrupts.
    this.u16[this.available >> 1] = 1
  }

  describe(index: number, address: number, length: number, flags: number, next: number): void {
    const word = (this.at + 16 * index) >> 2
    this.u32[word] = address >>> 0
    this.u32[word + 1] = Math.floor(address / 2 ** 32)
    this.u32[word + 2] = length
    this.u16[(word << 1) + 6] = flags
    this.u16[(word << 1) + 7] = next
  }

  /** Makes `count` chains available, of which number i has the head `stride` × i, counted on from the last call. */
  offer(count: number, stride: number, heads: number): void {
    const ring = (this.available >> 1) + 2
    for (let i = 0; i < count; i++) {
      this.u16[ring + (this.next & (SIZE - 1))] = (this.next % heads) * stride
      this.next = (this.next + 1) & 0xffff
    }
    Atomics.store(this.u16, (this.available >> 1) + 1, this.next)
  }

  get wantsDoorbell(): boolean {
    return (Atomics.load(this.u16, this.used >> 1) & 1) === 0
  }

  /** The device's used index. */
  get done(): number {
    return Atomics.load(this.u16, (this.used >> 1) + 1)
  }

  /** What was offered so far. */
  get offered(): number {
    return this.next
  }
}
