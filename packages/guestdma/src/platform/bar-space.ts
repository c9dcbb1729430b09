import { ADDRESS_LIMIT, type GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { MachineError } from '../config/errors.ts'

/** Bytes of bus address space for the BARs of a machine's devices, in each of the two places. */
const BYTES = 0x400_0000
/** Above this come the doorbell and what else a PC has there. */
const LOW_TOP = 0xf800_0000
const HIGH_BYTES = 2 ** 40

/** Where on the bus the BARs of a machine's PCI functions lie: clear of guest memory, 32-bit BARs below 4 GiB. */
export class BarSpace {
  private readonly low: SpanAllocator | null
  private readonly high: SpanAllocator | null

  constructor(memory: GuestMemory) {
    const { ranges } = memory
    let base = LOW_TOP - BYTES
    while (base >= 0 && ranges.some((range) => range.base < base + BYTES && range.end > base)) base -= BYTES
    this.low = base < 0 ? null : new SpanAllocator(guestAddress(base), BYTES, 'the bus below 4 GiB')
    // Above all memory where there is room, or in the highest gap.
    let high = Math.ceil(Math.max(2 ** 32, ranges[ranges.length - 1].end) / HIGH_BYTES) * HIGH_BYTES
    if (high + HIGH_BYTES > ADDRESS_LIMIT) {
      high = ADDRESS_LIMIT - HIGH_BYTES
      while (high > 0 && ranges.some((range) => range.base < high + HIGH_BYTES && range.end > high)) high -= HIGH_BYTES
    }
    this.high = high <= 0 ? null : new SpanAllocator(guestAddress(high), HIGH_BYTES, 'the bus')
  }

  /** Takes `size` bytes, a power of two, aligned to it. Throws `MACHINE_BAR_SPACE` where there is no room. */
  take(device: string, size: number, is64: boolean): number {
    const space = is64 ? this.high : this.low
    try {
      if (space !== null) return space.allocate(size, Math.min(size, 2 ** 30))
    } catch {
      // Said below, with what can be done.
    }
    const where = is64 ? 'on the bus' : 'below 4 GiB beside guest memory'
    const message = `no room ${where} for a BAR of ${size} bytes; leave some of it free or use the mmio transport`
    throw new MachineError('MACHINE_BAR_SPACE', device, message, { size })
  }
}
