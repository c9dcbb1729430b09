import type { MemoryWindow, RegisterBus } from '@guestdma/memory'
import { PCI_COMMAND_IO, PCI_COMMAND_MEMORY } from '@guestdma/spec'
import { cut } from '../device/access-width.ts'
import type { PciConfigSpace } from './configuration-space.ts'
import { type FaultOwner, pciFault } from './fault.ts'

/** A memory BAR is at least a page, so that each can be mapped by itself. */
export const MIN_MEMORY_BAR = 4096
const ADDRESS_END = 2 ** 53

/** Where a BAR is now, for a host bridge to decode. The same object until something of it changes. */
export interface PciRange {
  /** Where it begins; 0 while the driver's address and the size reach beyond 2^53, and then it is not enabled. */
  readonly address: number
  /** Bytes; a power of two. */
  readonly size: number
  readonly kind: 'memory' | 'io'
  /** Whether the function decodes it: PCI_COMMAND has the bit of its kind. */
  readonly enabled: boolean
}

/** What a {@link PciBar} is made of. */
export interface BarLayout {
  readonly index: number
  readonly kind: 'memory' | 'io'
  /** Bytes that are in use; the BAR is as large as the power of two above. */
  readonly bytes: number
  /** 64 bits wide: takes the register of the next BAR as well. */
  readonly wide: boolean
  readonly prefetchable: boolean
  /** What is behind it. Gets accesses inside the BAR only. */
  readonly inner: RegisterBus
}

/**
 * A base address register and what is behind it. While PCI_COMMAND does not enable its kind, a read gives all ones and
 * a write is lost; both are recorded.
 */
export class PciBar implements RegisterBus {
  declare readonly index: number
  declare readonly kind: 'memory' | 'io'
  declare readonly size: number
  declare private readonly wide: boolean
  declare private readonly inner: RegisterBus
  declare private readonly device: FaultOwner
  declare private readonly config: PciConfigSpace
  declare private readonly enable: number
  declare private current: PciRange

  constructor(device: FaultOwner, config: PciConfigSpace, layout: BarLayout) {
    const { index, kind, bytes, wide, prefetchable, inner } = layout
    let size = kind === 'io' ? 4 : MIN_MEMORY_BAR
    while (size < bytes) size *= 2
    this.device = device
    this.config = config
    this.index = index
    this.kind = kind
    this.size = size
    this.wide = wide
    this.inner = inner
    this.enable = kind === 'io' ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY
    config.addBar(index, kind, size, wide, prefetchable)
    this.current = { address: 0, size, kind, enabled: false }
  }

  get range(): PciRange {
    return this.current
  }

  /**
   * Looks at the registers, which may have changed. Returns whether what the function decodes changed with them: a BAR
   * that is not enabled may move unseen.
   */
  update(): boolean {
    const { size, kind, current } = this
    const at = this.config.address(this.index, this.wide)
    const reachable = at <= ADDRESS_END - size
    const address = reachable ? at : 0
    const enabled = reachable && (this.config.command & this.enable) !== 0
    if (address === current.address && enabled === current.enabled) return false
    this.current = { address, size, kind, enabled }
    return enabled || current.enabled
  }

  read(offset: number, size: 1 | 2 | 4): number {
    if ((this.config.command & this.enable) !== 0) return this.readInner(offset, size)
    pciFault(this.device, 'disabled', this.index, offset, size, null)
    return cut(0xffff_ffff, size)
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    value = cut(value, size)
    if ((this.config.command & this.enable) !== 0) this.writeInner(offset, size, value)
    else pciFault(this.device, 'disabled', this.index, offset, size, value)
  }

  /** As `read`, whatever PCI_COMMAND says: the access capability does not need the BAR decoded. */
  readInner(offset: number, size: 1 | 2 | 4): number {
    if (offset >= 0 && offset + size <= this.size) return this.inner.read(offset, size)
    return pciFault(this.device, 'unknown', this.index, offset, size, null)
  }

  writeInner(offset: number, size: 1 | 2 | 4, value: number): void {
    if (offset >= 0 && offset + size <= this.size) this.inner.write(offset, size, value)
    else pciFault(this.device, 'unknown', this.index, offset, size, value)
  }
}

/** A window of memory at an offset of a BAR. */
export interface PlacedWindow {
  readonly at: number
  readonly window: MemoryWindow
}

/** Memory behind a BAR, in any width and at any alignment. Each access counts on the region's meter. */
export class PciMemory implements RegisterBus {
  declare private readonly device: FaultOwner
  declare private readonly bar: number
  declare private readonly placed: readonly PlacedWindow[]

  constructor(device: FaultOwner, bar: number, placed: readonly PlacedWindow[]) {
    this.device = device
    this.bar = bar
    this.placed = placed
  }

  read(offset: number, size: 1 | 2 | 4): number {
    const found = this.find(offset, size)
    if (found === undefined) return pciFault(this.device, 'unknown', this.bar, offset, size, null)
    const { region } = found.window
    region.refresh()
    const at = found.window.offset + (offset - found.at)
    if (region.meter !== null) region.meter.load(size, 1)
    if (size === 1) return region.u8[at]
    return size === 2 ? region.view.getUint16(at, true) : region.view.getUint32(at, true)
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    const found = this.find(offset, size)
    if (found === undefined) {
      pciFault(this.device, 'unknown', this.bar, offset, size, value)
      return
    }
    const { region } = found.window
    region.refresh()
    const at = found.window.offset + (offset - found.at)
    if (region.meter !== null) region.meter.store(size, 1)
    if (size === 1) region.u8[at] = value
    else if (size === 2) region.view.setUint16(at, value, true)
    else region.view.setUint32(at, value, true)
  }

  private find(offset: number, size: number): PlacedWindow | undefined {
    for (const placed of this.placed) {
      if (offset >= placed.at && offset + size <= placed.at + placed.window.length) return placed
    }
    return undefined
  }
}
