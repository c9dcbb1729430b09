import type { RegisterBus } from '@guestdma/memory'
import { PCI_COMMON_BYTES, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA } from '@guestdma/spec'
import type { VirtioDevice } from '../device/virtio-device.ts'
import type { RegisterFaultReason } from '../faults/faults.ts'
import { MIN_MEMORY_BAR } from './bar.ts'
import type { PciCommon } from './common-config.ts'
import type { PciDeviceConfig } from './device-config.ts'
import { pciFault } from './fault.ts'

/** Each structure has pages of its own, so that a driver can map it apart. */
export const ISR_OFFSET: number = MIN_MEMORY_BAR
export const CONFIG_OFFSET: number = 2 * MIN_MEMORY_BAR
/** ISR status is a single byte: virtio 1.4 §4.1.4.5. */
export const ISR_BYTES = 1

/** Where the doorbells are behind the structures of a device with `configBytes` bytes of configuration. */
export function doorbellOffset(configBytes: number): number {
  return CONFIG_OFFSET + Math.ceil(configBytes / MIN_MEMORY_BAR) * MIN_MEMORY_BAR
}

/**
 * The notification structure: virtio 1.4 §4.1.4.4, §4.1.5.2. The doorbell of a queue is 16 bits wide, 32 with
 * NOTIFICATION_DATA; its place and its value must name the same queue.
 */
export class PciDoorbells implements RegisterBus {
  /** Bytes of the structure. */
  declare readonly bytes: number
  declare private readonly device: VirtioDevice
  declare private readonly bar: number
  declare private readonly base: number
  declare private readonly multiplier: number
  declare private readonly notifConfigData: readonly number[]
  declare private readonly inline: boolean

  /** The structure begins at `base` of BAR `bar`; accesses come relative to it, faults are recorded in the BAR. */
  constructor(
    device: VirtioDevice,
    bar: number,
    base: number,
    multiplier: number,
    notifConfigData: readonly number[],
    inline: boolean,
  ) {
    this.device = device
    this.bar = bar
    this.base = base
    this.multiplier = multiplier
    this.notifConfigData = notifConfigData
    this.inline = inline
    // Long enough for the 32-bit form, whatever is negotiated.
    this.bytes = Math.max(0, device.queues.length - 1) * multiplier + 4
  }

  read(offset: number, size: 1 | 2 | 4): number {
    return pciFault(this.device, 'write-only', this.bar, this.base + offset, size, null)
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    const reason = this.ring(offset, size, value)
    if (reason !== null) pciFault(this.device, reason, this.bar, this.base + offset, size, value)
  }

  private ring(offset: number, size: 1 | 2 | 4, value: number): RegisterFaultReason | null {
    const { device, multiplier } = this
    if (offset >= this.bytes) return 'unknown'
    if (size !== (device.negotiated.has(VIRTIO_F_NOTIFICATION_DATA) ? 4 : 2)) return 'width'
    // The upper half says where the driver stands in the ring; the ring itself says so more reliably.
    const named = value & 0xffff
    const index = device.negotiated.has(VIRTIO_F_NOTIF_CONFIG_DATA) ? this.notifConfigData.indexOf(named) : named
    const queue = device.queues[index]
    if (queue === undefined) return 'no-queue'
    if (offset !== index * multiplier) return 'value'
    return device.notify(queue, this.inline) ? null : 'order'
  }
}

/** The register BAR: common configuration, ISR status, device-specific configuration and doorbells. */
export class PciRegisters implements RegisterBus {
  declare private readonly device: VirtioDevice
  declare private readonly bar: number
  declare private readonly common: PciCommon
  declare private readonly deviceConfig: PciDeviceConfig
  declare private readonly doorbells: PciDoorbells
  declare private readonly doorbellOffset: number
  declare private readonly readIsr: () => number

  /** `readIsr` reads and clears ISR status. */
  constructor(
    device: VirtioDevice,
    bar: number,
    common: PciCommon,
    deviceConfig: PciDeviceConfig,
    doorbells: PciDoorbells,
    readIsr: () => number,
  ) {
    this.device = device
    this.bar = bar
    this.common = common
    this.deviceConfig = deviceConfig
    this.doorbells = doorbells
    this.doorbellOffset = doorbellOffset(device.config.bytes.length)
    this.readIsr = readIsr
  }

  read(offset: number, size: 1 | 2 | 4): number {
    if (offset >= this.doorbellOffset) return this.doorbells.read(offset - this.doorbellOffset, size)
    if (offset >= CONFIG_OFFSET) return this.deviceConfig.read(offset - CONFIG_OFFSET, size)
    if (offset < PCI_COMMON_BYTES) return this.common.read(offset, size)
    if (offset !== ISR_OFFSET) return pciFault(this.device, 'unknown', this.bar, offset, size, null)
    return size === ISR_BYTES ? this.readIsr() : pciFault(this.device, 'width', this.bar, offset, size, null)
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    if (offset >= this.doorbellOffset) this.doorbells.write(offset - this.doorbellOffset, size, value)
    else if (offset >= CONFIG_OFFSET) this.deviceConfig.write(offset - CONFIG_OFFSET, size, value)
    else if (offset < PCI_COMMON_BYTES) this.common.write(offset, size, value)
    else pciFault(this.device, offset === ISR_OFFSET ? 'read-only' : 'unknown', this.bar, offset, size, value)
  }
}
