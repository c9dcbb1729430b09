import type { RegisterBus } from '@guestdma/memory'
import { PCI_CAP_BAR, PCI_CAP_OFFSET, PCI_CAP_SIZE, PCI_CFG_CAP_DATA } from '@guestdma/spec'

/**
 * One structure that a capability names: `length` bytes of a BAR from `offset` on. Whoever accesses it stays below
 * `length`.
 */
export class PciStructure implements RegisterBus {
  readonly offset: number
  readonly length: number
  private readonly bus: RegisterBus

  constructor(bus: RegisterBus, offset: number, length: number) {
    this.bus = bus
    this.offset = offset
    this.length = length
  }

  read(at: number, size: 1 | 2 | 4): number {
    return this.bus.read(this.offset + at, size)
  }

  write(at: number, size: 1 | 2 | 4, value: number): void {
    this.bus.write(this.offset + at, size, value)
  }
}

/**
 * A BAR through configuration space: the PCI configuration access capability (virtio 1.4 §4.1.4.9). Four accesses for
 * each one, so only for a BAR that is not mapped. Offsets are below 2^32 and multiples of the size, inside a structure
 * that another capability names; callers see to that.
 */
export class ConfigWindow implements RegisterBus {
  private readonly config: RegisterBus
  private readonly capability: number
  private readonly bar: number

  /** `capability`: where in configuration space the capability lies. */
  constructor(config: RegisterBus, capability: number, bar: number) {
    this.config = config
    this.capability = capability
    this.bar = bar
  }

  read(offset: number, size: 1 | 2 | 4): number {
    this.select(offset, size)
    return this.config.read(this.capability + PCI_CFG_CAP_DATA, size)
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    this.select(offset, size)
    this.config.write(this.capability + PCI_CFG_CAP_DATA, size, value)
  }

  // The length before the offset: an offset that is no multiple of the length in place must not be written (§4.1.4.9).
  private select(offset: number, size: 1 | 2 | 4): void {
    this.config.write(this.capability + PCI_CAP_BAR, 1, this.bar)
    this.config.write(this.capability + PCI_CAP_SIZE, 4, size)
    this.config.write(this.capability + PCI_CAP_OFFSET, 4, offset)
  }
}
