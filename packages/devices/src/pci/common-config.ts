import type { RegisterBus } from '@guestdma/memory'
import {
  PCI_COMMON_ADMIN_QUEUE_INDEX,
  PCI_COMMON_ADMIN_QUEUE_NUM,
  PCI_COMMON_BYTES,
  PCI_COMMON_CONFIG_GENERATION,
  PCI_COMMON_CONFIG_MSIX_VECTOR,
  PCI_COMMON_DEVICE_FEATURE,
  PCI_COMMON_DEVICE_FEATURE_SELECT,
  PCI_COMMON_DEVICE_STATUS,
  PCI_COMMON_DRIVER_FEATURE,
  PCI_COMMON_DRIVER_FEATURE_SELECT,
  PCI_COMMON_NUM_QUEUES,
  PCI_COMMON_QUEUE_DESC,
  PCI_COMMON_QUEUE_ENABLE,
  PCI_COMMON_QUEUE_MSIX_VECTOR,
  PCI_COMMON_QUEUE_NOTIF_CONFIG_DATA,
  PCI_COMMON_QUEUE_NOTIFY_OFF,
  PCI_COMMON_QUEUE_RESET,
  PCI_COMMON_QUEUE_SELECT,
  PCI_COMMON_QUEUE_SIZE,
  VIRTIO_F_ADMIN_VQ,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_MSI_NO_VECTOR,
} from '@guestdma/spec'
import { isPart, partOf } from '../device/access-width.ts'
import type { DeviceQueue } from '../device/device-queue.ts'
import type { VirtioDevice } from '../device/virtio-device.ts'
import type { RegisterFaultReason } from '../faults/faults.ts'
import type { PciDeviceConfig } from './device-config.ts'
import { pciFault } from './fault.ts'
import type { PciMsix } from './msix.ts'

/** Words of feature bits that a driver can set; beyond, what it writes is judged but not kept. */
const FEATURE_WORDS = 4
/** The first byte of the three addresses, and the first byte behind them. */
const ADDRESSES = PCI_COMMON_QUEUE_DESC
const ADDRESSES_END = PCI_COMMON_QUEUE_NOTIF_CONFIG_DATA

/**
 * `struct virtio_pci_common_cfg`: virtio 1.4 §4.1.4.3. A field is accessed in its own width, one of 64 bits as two of
 * 32 (§4.1.3.1). A read of a part gives that part, since an emulator may split what its guest read in one piece; any
 * other access reads 0 or is ignored.
 */
export class PciCommon implements RegisterBus {
  deviceFeatureSelect = 0
  driverFeatureSelect = 0
  queueSelect = 0
  /** What the driver wrote to driver_feature, for it to read back. */
  readonly driverFeatures: Uint32Array = new Uint32Array(FEATURE_WORDS)
  declare private readonly device: VirtioDevice
  declare private readonly bar: number
  declare private readonly msix: PciMsix
  declare private readonly deviceConfig: PciDeviceConfig
  declare private readonly notifConfigData: readonly number[]

  constructor(
    device: VirtioDevice,
    bar: number,
    msix: PciMsix,
    deviceConfig: PciDeviceConfig,
    notifConfigData: readonly number[],
  ) {
    this.notifConfigData = notifConfigData
    this.device = device
    this.bar = bar
    this.msix = msix
    this.deviceConfig = deviceConfig
  }

  /** The device was reset. */
  reset(): void {
    this.deviceFeatureSelect = this.driverFeatureSelect = this.queueSelect = 0
    this.driverFeatures.fill(0)
  }

  read(offset: number, size: 1 | 2 | 4): number {
    if (WIDTH[offset] === size) return this.field(offset, size)
    const start = START[offset]
    if (!isPart(offset, size, start, WIDTH[start])) return this.fault('width', offset, size, null)
    return partOf(this.field(start, size), offset - start, size)
  }

  // `size` is that of the access, for faults.
  private field(offset: number, size: number): number {
    const { device } = this
    const queue = device.queues[this.queueSelect]
    switch (offset) {
      case PCI_COMMON_DEVICE_FEATURE_SELECT:
        return this.deviceFeatureSelect
      case PCI_COMMON_DEVICE_FEATURE:
        return device.offered.word(this.deviceFeatureSelect)
      case PCI_COMMON_DRIVER_FEATURE_SELECT:
        return this.driverFeatureSelect
      case PCI_COMMON_DRIVER_FEATURE:
        return this.driverFeatures[this.driverFeatureSelect] ?? 0
      case PCI_COMMON_CONFIG_MSIX_VECTOR:
        return this.msix.mapping[device.queues.length]
      case PCI_COMMON_NUM_QUEUES:
        return device.queues.length
      case PCI_COMMON_DEVICE_STATUS:
        return device.status
      case PCI_COMMON_CONFIG_GENERATION:
        return this.deviceConfig.generation
      case PCI_COMMON_QUEUE_SELECT:
        return this.queueSelect
      case PCI_COMMON_QUEUE_SIZE:
        return queue?.size ?? 0
      case PCI_COMMON_QUEUE_MSIX_VECTOR:
        return queue === undefined ? VIRTIO_MSI_NO_VECTOR : this.msix.mapping[queue.index]
      case PCI_COMMON_QUEUE_ENABLE:
        return queue?.ready === true ? 1 : 0
      case PCI_COMMON_QUEUE_NOTIFY_OFF:
        return queue?.index ?? 0
      case PCI_COMMON_QUEUE_NOTIF_CONFIG_DATA:
        if (!this.has(VIRTIO_F_NOTIF_CONFIG_DATA, offset, size) || queue === undefined) return 0
        return this.notifConfigData[queue.index]
      case PCI_COMMON_QUEUE_RESET:
        if (!this.has(VIRTIO_F_RING_RESET, offset, size) || queue === undefined) return 0
        return device.resetting(queue) ? 1 : 0
      case PCI_COMMON_ADMIN_QUEUE_INDEX:
        return this.has(VIRTIO_F_ADMIN_VQ, offset, size) ? device.queues.length : 0
      case PCI_COMMON_ADMIN_QUEUE_NUM:
        this.has(VIRTIO_F_ADMIN_VQ, offset, size)
        return 0
      default:
        return queue === undefined ? 0 : queue.areas[(offset - ADDRESSES) >>> 2]
    }
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    const reason = WIDTH[offset] === size ? this.set(offset, value) : 'width'
    if (reason !== null) this.fault(reason, offset, size, value)
  }

  // Returns why the write had no effect, or null.
  private set(offset: number, value: number): RegisterFaultReason | null {
    const { device } = this
    switch (offset) {
      case PCI_COMMON_DEVICE_FEATURE_SELECT:
        this.deviceFeatureSelect = value
        return null
      case PCI_COMMON_DRIVER_FEATURE_SELECT:
        this.driverFeatureSelect = value
        return null
      case PCI_COMMON_DRIVER_FEATURE:
        if (!device.writeDriverFeatures(this.driverFeatureSelect, value)) return 'order'
        if (this.driverFeatureSelect < FEATURE_WORDS) this.driverFeatures[this.driverFeatureSelect] = value
        return null
      case PCI_COMMON_CONFIG_MSIX_VECTOR:
        if (device.suspended) return 'order'
        return this.msix.map(device.queues.length, value) ? null : 'vector'
      case PCI_COMMON_DEVICE_STATUS:
        return device.writeStatus(value) ? null : 'status-bits'
      case PCI_COMMON_QUEUE_SELECT:
        this.queueSelect = value
        return null
      case PCI_COMMON_DEVICE_FEATURE:
      case PCI_COMMON_NUM_QUEUES:
      case PCI_COMMON_CONFIG_GENERATION:
      case PCI_COMMON_QUEUE_NOTIFY_OFF:
      case PCI_COMMON_QUEUE_NOTIF_CONFIG_DATA:
      case PCI_COMMON_ADMIN_QUEUE_INDEX:
      case PCI_COMMON_ADMIN_QUEUE_NUM:
        return 'read-only'
      default: {
        const queue = device.queues[this.queueSelect]
        return queue === undefined ? 'no-queue' : this.setQueue(queue, offset, value)
      }
    }
  }

  private setQueue(queue: DeviceQueue, offset: number, value: number): RegisterFaultReason | null {
    const { device } = this
    if (device.suspended) return 'order'
    switch (offset) {
      case PCI_COMMON_QUEUE_MSIX_VECTOR:
        return this.msix.map(queue.index, value) ? null : 'vector'
      case PCI_COMMON_QUEUE_ENABLE:
        // A driver never writes 0 (§4.1.4.3.2): only a reset disables.
        if (value !== 1) return 'value'
        return device.enableQueue(queue) ? null : 'order'
      case PCI_COMMON_QUEUE_RESET:
        if (!device.negotiated.has(VIRTIO_F_RING_RESET)) return 'feature'
        if (value !== 1) return value === 0 ? null : 'value'
        device.resetQueue(queue)
        this.msix.map(queue.index, VIRTIO_MSI_NO_VECTOR)
        return null
      case PCI_COMMON_QUEUE_SIZE:
        if (queue.ready) return 'queue-ready'
        if (value === 0 || value > queue.maxSize) return 'value'
        // Of a split ring only a power of two is presented, so nothing else is taken (§4.1.4.3.1).
        if (!device.negotiated.has(VIRTIO_F_RING_PACKED) && (value & (value - 1)) !== 0) return 'value'
        queue.size = value
        return null
      default:
        if (queue.ready) return 'queue-ready'
        queue.areas[(offset - ADDRESSES) >>> 2] = value
        return null
    }
  }

  // Whether a field exists; recorded if not.
  private has(feature: number, offset: number, size: number): boolean {
    if (this.device.negotiated.has(feature)) return true
    this.fault('feature', offset, size, null)
    return false
  }

  private fault(reason: RegisterFaultReason, offset: number, size: number, value: number | null): 0 {
    return pciFault(this.device, reason, this.bar, offset, size, value)
  }
}

/** By offset: the width in which the field that begins there is accessed; 0 where none begins. */
const WIDTH = new Uint8Array(PCI_COMMON_BYTES)
for (const offset of [
  PCI_COMMON_DEVICE_FEATURE_SELECT,
  PCI_COMMON_DEVICE_FEATURE,
  PCI_COMMON_DRIVER_FEATURE_SELECT,
  PCI_COMMON_DRIVER_FEATURE,
]) {
  WIDTH[offset] = 4
}
for (const offset of [
  PCI_COMMON_CONFIG_MSIX_VECTOR,
  PCI_COMMON_NUM_QUEUES,
  PCI_COMMON_QUEUE_SELECT,
  PCI_COMMON_QUEUE_SIZE,
  PCI_COMMON_QUEUE_MSIX_VECTOR,
  PCI_COMMON_QUEUE_ENABLE,
  PCI_COMMON_QUEUE_NOTIFY_OFF,
  PCI_COMMON_QUEUE_NOTIF_CONFIG_DATA,
  PCI_COMMON_QUEUE_RESET,
  PCI_COMMON_ADMIN_QUEUE_INDEX,
  PCI_COMMON_ADMIN_QUEUE_NUM,
]) {
  WIDTH[offset] = 2
}
WIDTH[PCI_COMMON_DEVICE_STATUS] = WIDTH[PCI_COMMON_CONFIG_GENERATION] = 1
for (let offset = ADDRESSES; offset < ADDRESSES_END; offset += 4) WIDTH[offset] = 4

/** By offset: where the field that it belongs to begins. */
const START = new Uint8Array(PCI_COMMON_BYTES)
for (let offset = 0; offset < PCI_COMMON_BYTES; offset++) START[offset] = WIDTH[offset] > 0 ? offset : START[offset - 1]
