import type { RegisterBus } from '@guestdma/memory'
import {
  MSIX_CONTROL,
  MSIX_CONTROL_ENABLE,
  MSIX_CONTROL_MASK_ALL,
  MSIX_ENTRY_ADDRESS_HIGH,
  MSIX_ENTRY_ADDRESS_LOW,
  MSIX_ENTRY_BYTES,
  MSIX_ENTRY_CONTROL,
  MSIX_ENTRY_DATA,
  MSIX_ENTRY_MASKED,
} from '@guestdma/spec'
import type { PciAccess, PciBar } from './bars.ts'
import type { MsixCapability } from './capabilities.ts'
import { PciStructure } from './structure.ts'

/** Where message-signalled interrupts go: the write that arrives as message `vector`. The platform decides. */
export interface MessageRoutes {
  /** A bus address, a multiple of 4. */
  address(vector: number): number
  /** 32 bits */
  data(vector: number): number
}

/** The MSI-X table of a function (PCI 3.0 §6.8.2). Its entries survive a reset of the virtio device. */
export class MsixTable {
  readonly entries: number
  private readonly config: RegisterBus
  private readonly control: number
  private readonly table: PciStructure

  private constructor(config: RegisterBus, control: number, table: PciStructure, entries: number) {
    this.config = config
    this.control = control
    this.table = table
    this.entries = entries
  }

  /**
   * Null where the table is not inside a mapped BAR. The PCI configuration access capability does not reach it: that is
   * for structures that virtio capabilities name (virtio 1.4 §4.1.4.9).
   */
  static open(access: PciAccess, capability: MsixCapability, bars: readonly PciBar[]): MsixTable | null {
    const { at, entries, bar: index, offset } = capability
    const bytes = entries * MSIX_ENTRY_BYTES
    const bar = bars.find((candidate) => candidate.index === index)
    if (bar === undefined || bar.kind !== 'memory' || offset + bytes > bar.size) return null
    const bus = access.bar(index)
    return bus === null
      ? null
      : new MsixTable(access.config, at + MSIX_CONTROL, new PciStructure(bus, offset, bytes), entries)
  }

  /** Programs and unmasks the first `count` vectors, masks the others, and turns messages on. */
  enable(count: number, routes: MessageRoutes): void {
    // Masked as a whole meanwhile, so that no half-written entry is used.
    this.writeControl(MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK_ALL)
    for (let vector = 0; vector < this.entries; vector++) {
      const entry = vector * MSIX_ENTRY_BYTES
      // The reserved bits of the vector control are preserved: PCI 3.0 §6.8.2.9.
      const reserved = this.table.read(entry + MSIX_ENTRY_CONTROL, 4) & ~MSIX_ENTRY_MASKED
      this.table.write(entry + MSIX_ENTRY_CONTROL, 4, (reserved | MSIX_ENTRY_MASKED) >>> 0)
      if (vector >= count) continue
      const address = routes.address(vector)
      this.table.write(entry + MSIX_ENTRY_ADDRESS_LOW, 4, address >>> 0)
      this.table.write(entry + MSIX_ENTRY_ADDRESS_HIGH, 4, Math.floor(address / 2 ** 32))
      this.table.write(entry + MSIX_ENTRY_DATA, 4, routes.data(vector) >>> 0)
      this.table.write(entry + MSIX_ENTRY_CONTROL, 4, reserved >>> 0)
    }
    this.writeControl(MSIX_CONTROL_ENABLE)
  }

  /** Back to INTx. */
  disable(): void {
    this.writeControl(0)
  }

  private writeControl(bits: number): void {
    const others = this.config.read(this.control, 2) & 0xffff & ~(MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK_ALL)
    this.config.write(this.control, 2, others | bits)
  }
}
