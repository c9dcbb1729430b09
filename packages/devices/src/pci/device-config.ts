import type { RegisterBus } from '@guestdma/memory'
import type { VirtioDevice } from '../device/virtio-device.ts'
import type { RegisterFaultReason } from '../faults/faults.ts'
import { pciFault } from './fault.ts'

/**
 * The device-specific configuration behind a BAR (virtio 1.4 §4.1.4.6), and the generation that it shows (§4.1.4.3.1).
 * Read in any width inside it; a read that is neither a field nor a part of one is recorded as well. Written in the
 * width of the field only.
 *
 * The generation has 8 bits, so counting changes could bring it back to what the driver saw. It is counted where a read
 * finds that something changed since the read before.
 */
export class PciDeviceConfig implements RegisterBus {
  /** config_generation as the driver sees it. */
  generation = 0
  /** The device's own generation when its configuration was last read. */
  seen = 0
  declare private readonly device: VirtioDevice
  declare private readonly bar: number
  declare private readonly base: number

  /** The structure begins at `base` of BAR `bar`; accesses come relative to it, faults are recorded in the BAR. */
  constructor(device: VirtioDevice, bar: number, base: number) {
    this.device = device
    this.bar = bar
    this.base = base
  }

  read(offset: number, size: 1 | 2 | 4): number {
    const { config } = this.device
    if (offset + size > config.bytes.length) return this.fault('unknown', offset, size, null)
    if (!config.readable(offset, size)) this.fault('width', offset, size, null)
    if (config.generation !== this.seen) {
      this.seen = config.generation
      this.generation = (this.generation + 1) & 0xff
    }
    return config.read(offset, size)
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    const reason = this.set(offset, size, value)
    if (reason !== null) this.fault(reason, offset, size, value)
  }

  private set(offset: number, size: 1 | 2 | 4, value: number): RegisterFaultReason | null {
    const { device } = this
    if (offset + size > device.config.bytes.length) return 'unknown'
    const field = device.config.field(offset, size)
    if (field === undefined) return 'width'
    if (field.writable !== true) return 'read-only'
    if (!device.configWritable) return 'order'
    return device.writeConfig(offset, size, value) ? null : 'feature'
  }

  private fault(reason: RegisterFaultReason, offset: number, size: number, value: number | null): 0 {
    return pciFault(this.device, reason, this.bar, this.base + offset, size, value)
  }
}
