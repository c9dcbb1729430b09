// The device made by hand behind a PCI function instead of mmio registers: virtio 1.4 §4.1, read on its own. What a
// driver does to a structure of it is done to the mmio register that means the same, so a test finds it in the device's
// log either way. Where the specification forbids a driver an access, or has no such field, it throws.
import type { RegisterBus } from '@guestdma/memory'
import {
  MMIO_CONFIG,
  MMIO_CONFIG_GENERATION,
  MMIO_DEVICE_FEATURES,
  MMIO_DEVICE_FEATURES_SEL,
  MMIO_DRIVER_FEATURES,
  MMIO_DRIVER_FEATURES_SEL,
  MMIO_INTERRUPT_ACK,
  MMIO_INTERRUPT_STATUS,
  MMIO_QUEUE_DESC_HIGH,
  MMIO_QUEUE_DESC_LOW,
  MMIO_QUEUE_DEVICE_HIGH,
  MMIO_QUEUE_DEVICE_LOW,
  MMIO_QUEUE_DRIVER_HIGH,
  MMIO_QUEUE_DRIVER_LOW,
  MMIO_QUEUE_NOTIFY,
  MMIO_QUEUE_READY,
  MMIO_QUEUE_SEL,
  MMIO_QUEUE_SIZE,
  MMIO_QUEUE_SIZE_MAX,
  MMIO_STATUS,
  PCI_BAR0,
  PCI_CAP_BAR,
  PCI_CAP_BYTES,
  PCI_CAP_CFG_TYPE,
  PCI_CAP_ID,
  PCI_CAP_ID_VENDOR,
  PCI_CAP_LENGTH,
  PCI_CAP_NEXT,
  PCI_CAP_OFFSET,
  PCI_CAP_SIZE,
  PCI_CAPABILITY_POINTER,
  PCI_COMMAND,
  PCI_COMMAND_BUS_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_COMMON_CONFIG_GENERATION,
  PCI_COMMON_DEVICE_FEATURE,
  PCI_COMMON_DEVICE_FEATURE_SELECT,
  PCI_COMMON_DEVICE_STATUS,
  PCI_COMMON_DRIVER_FEATURE,
  PCI_COMMON_DRIVER_FEATURE_SELECT,
  PCI_COMMON_MIN_BYTES,
  PCI_COMMON_QUEUE_DESC,
  PCI_COMMON_QUEUE_DEVICE,
  PCI_COMMON_QUEUE_DRIVER,
  PCI_COMMON_QUEUE_ENABLE,
  PCI_COMMON_QUEUE_NOTIFY_OFF,
  PCI_COMMON_QUEUE_SELECT,
  PCI_COMMON_QUEUE_SIZE,
  PCI_CONFIG_SIZE,
  PCI_DEVICE_ID,
  PCI_DEVICE_MODERN_FIRST,
  PCI_HEADER_SIZE,
  PCI_NOTIFY_CAP_BYTES,
  PCI_NOTIFY_CAP_MULTIPLIER,
  PCI_STATUS,
  PCI_STATUS_CAPABILITIES,
  PCI_VENDOR_ID,
  PCI_VENDOR_VIRTIO,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
} from '@guestdma/spec'
import type { PciAccess } from '@guestdma/transport'
import type { HandDevice } from './device.ts'

type Size = 1 | 2 | 4

/** Where the structures lie: one 32-bit memory BAR. */
const BAR = 2
const BAR_BYTES = 0x4000
const BAR_ADDRESS = 0xd000_0000
const ISR = 0x3
const COMMON = 0x100
const DEVICE = 0x1000
const NOTIFY = 0x2000
const NOTIFY_BYTES = 0x100
const MULTIPLIER = 8
/** queue_notify_off of a queue; no two have one doorbell, and none is at 0. */
const notifyOff = (queue: number): number => queue + 3

/** The fields that a driver reads and those that it writes: width, and the mmio register that means the same. */
const READS: ReadonlyMap<number, readonly [Size, number]> = new Map([
  [PCI_COMMON_DEVICE_FEATURE, [4, MMIO_DEVICE_FEATURES]],
  [PCI_COMMON_DRIVER_FEATURE, [4, MMIO_DRIVER_FEATURES]],
  [PCI_COMMON_DEVICE_STATUS, [1, MMIO_STATUS]],
  [PCI_COMMON_CONFIG_GENERATION, [1, MMIO_CONFIG_GENERATION]],
  [PCI_COMMON_QUEUE_SIZE, [2, MMIO_QUEUE_SIZE_MAX]],
  [PCI_COMMON_QUEUE_ENABLE, [2, MMIO_QUEUE_READY]],
])
const WRITES: ReadonlyMap<number, readonly [Size, number]> = new Map([
  [PCI_COMMON_DEVICE_FEATURE_SELECT, [4, MMIO_DEVICE_FEATURES_SEL]],
  [PCI_COMMON_DRIVER_FEATURE_SELECT, [4, MMIO_DRIVER_FEATURES_SEL]],
  [PCI_COMMON_DRIVER_FEATURE, [4, MMIO_DRIVER_FEATURES]],
  [PCI_COMMON_DEVICE_STATUS, [1, MMIO_STATUS]],
  [PCI_COMMON_QUEUE_SELECT, [2, MMIO_QUEUE_SEL]],
  [PCI_COMMON_QUEUE_SIZE, [2, MMIO_QUEUE_SIZE]],
  [PCI_COMMON_QUEUE_ENABLE, [2, MMIO_QUEUE_READY]],
  [PCI_COMMON_QUEUE_DESC, [4, MMIO_QUEUE_DESC_LOW]],
  [PCI_COMMON_QUEUE_DESC + 4, [4, MMIO_QUEUE_DESC_HIGH]],
  [PCI_COMMON_QUEUE_DRIVER, [4, MMIO_QUEUE_DRIVER_LOW]],
  [PCI_COMMON_QUEUE_DRIVER + 4, [4, MMIO_QUEUE_DRIVER_HIGH]],
  [PCI_COMMON_QUEUE_DEVICE, [4, MMIO_QUEUE_DEVICE_LOW]],
  [PCI_COMMON_QUEUE_DEVICE + 4, [4, MMIO_QUEUE_DEVICE_HIGH]],
])

export class HandFunction implements PciAccess {
  readonly config: RegisterBus
  private readonly device: HandDevice
  private readonly structures: RegisterBus
  private readonly space = new DataView(new ArrayBuffer(PCI_CONFIG_SIZE))
  private selected = 0

  constructor(device: HandDevice) {
    this.device = device
    this.fillSpace()
    this.config = {
      read: (offset, size) => valueAt(this.space, offset, size),
      write: (offset, size, value) => this.writeSpace(offset, size, value),
    }
    this.structures = {
      read: (offset, size) => this.readStructure(this.decoded(offset, size), size),
      write: (offset, size, value) => this.writeStructure(this.decoded(offset, size), size, value),
    }
  }

  bar(index: number): RegisterBus | null {
    return index === BAR ? this.structures : null
  }

  // As firmware leaves it: the BAR is assigned, memory decoding and bus mastering are on.
  private fillSpace(): void {
    const { space, device } = this
    space.setUint16(PCI_VENDOR_ID, PCI_VENDOR_VIRTIO, true)
    space.setUint16(PCI_DEVICE_ID, PCI_DEVICE_MODERN_FIRST + device.deviceId, true)
    space.setUint16(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_BUS_MASTER, true)
    space.setUint16(PCI_STATUS, PCI_STATUS_CAPABILITIES, true)
    space.setUint32(PCI_BAR0 + 4 * BAR, BAR_ADDRESS, true)
    let link = PCI_CAPABILITY_POINTER
    let at = PCI_HEADER_SIZE
    for (const [type, offset, length] of [
      [VIRTIO_PCI_CAP_COMMON_CFG, COMMON, PCI_COMMON_MIN_BYTES],
      [VIRTIO_PCI_CAP_ISR_CFG, ISR, 1],
      [VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE, device.config.length],
      [VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY, NOTIFY_BYTES],
    ]) {
      const bytes = type === VIRTIO_PCI_CAP_NOTIFY_CFG ? PCI_NOTIFY_CAP_BYTES : PCI_CAP_BYTES
      space.setUint8(link, at)
      space.setUint8(at + PCI_CAP_ID, PCI_CAP_ID_VENDOR)
      space.setUint8(at + PCI_CAP_LENGTH, bytes)
      space.setUint8(at + PCI_CAP_CFG_TYPE, type)
      space.setUint8(at + PCI_CAP_BAR, BAR)
      space.setUint32(at + PCI_CAP_OFFSET, offset, true)
      space.setUint32(at + PCI_CAP_SIZE, length, true)
      if (type === VIRTIO_PCI_CAP_NOTIFY_CFG) space.setUint32(at + PCI_NOTIFY_CAP_MULTIPLIER, MULTIPLIER, true)
      link = at + PCI_CAP_NEXT
      at += bytes
    }
  }

  // The command can be written, and the bits of the BAR above its size (PCI 3.0 §6.2.5.1).
  private writeSpace(offset: number, size: Size, value: number): void {
    if (offset === PCI_COMMAND && size === 2) this.space.setUint16(offset, value, true)
    else if (offset === PCI_BAR0 + 4 * BAR && size === 4) this.space.setUint32(offset, value & -BAR_BYTES, true)
  }

  private decoded(offset: number, size: Size): number {
    if ((this.space.getUint16(PCI_COMMAND, true) & PCI_COMMAND_MEMORY) === 0) throw new Error('decoding is off')
    if (offset < 0 || offset + size > BAR_BYTES || offset % size !== 0) throw refused('access', offset, size)
    return offset
  }

  private readStructure(offset: number, size: Size): number {
    const { device } = this
    if (offset >= DEVICE && offset + size <= DEVICE + device.config.length)
      return device.read(MMIO_CONFIG + offset - DEVICE, size)
    if (offset === ISR && size === 1) {
      // Reading clears it (§4.1.4.5).
      const status = device.read(MMIO_INTERRUPT_STATUS, 4)
      if (status !== 0) device.write(MMIO_INTERRUPT_ACK, 4, status)
      return status
    }
    if (offset === COMMON + PCI_COMMON_QUEUE_NOTIFY_OFF && size === 2) return notifyOff(this.selected)
    const field = READS.get(offset - COMMON)
    if (field === undefined || field[0] !== size) throw refused('read', offset, size)
    const value = device.read(field[1], 4)
    if (offset === COMMON + PCI_COMMON_CONFIG_GENERATION) return value & 0xff
    if (offset !== COMMON + PCI_COMMON_QUEUE_SIZE) return value
    // The most until the driver writes what it wants (§4.1.4.3); 16 bits.
    return device.queues[this.selected]?.size || Math.min(value, 0xffff)
  }

  private writeStructure(offset: number, size: Size, value: number): void {
    const { device } = this
    if (!Number.isInteger(value) || value < 0 || value >= 256 ** size) throw new Error(`${value} in ${size} bytes`)
    if (offset >= NOTIFY && offset + size <= NOTIFY + NOTIFY_BYTES) {
      this.ring(offset - NOTIFY, size, value)
      return
    }
    const field = WRITES.get(offset - COMMON)
    if (field === undefined || field[0] !== size) throw refused('write', offset, size)
    // §4.1.4.3.2
    if (offset === COMMON + PCI_COMMON_QUEUE_SIZE && (value === 0 || (value & (value - 1)) !== 0))
      throw new Error(`a queue of ${value} entries`)
    if (offset === COMMON + PCI_COMMON_QUEUE_ENABLE && value !== 1) throw new Error(`queue_enable = ${value}`)
    if (offset === COMMON + PCI_COMMON_QUEUE_SELECT) this.selected = value
    device.write(field[1], 4, value)
  }

  // §4.1.5.2: each queue has its doorbell, of four bytes where NOTIFICATION_DATA was agreed.
  private ring(at: number, size: Size, value: number): void {
    const { device } = this
    const width = device.accepted.has(VIRTIO_F_NOTIFICATION_DATA) ? 4 : 2
    if (size !== width || at !== notifyOff(value & 0xffff) * MULTIPLIER) throw refused('doorbell', at, size)
    device.write(MMIO_QUEUE_NOTIFY, 4, value)
  }
}

function valueAt(view: DataView, at: number, size: Size): number {
  if (at % size !== 0) throw refused('read of configuration space', at, size)
  return size === 1 ? view.getUint8(at) : size === 2 ? view.getUint16(at, true) : view.getUint32(at, true)
}

function refused(what: string, at: number, size: number): Error {
  return new Error(`${what}: ${size} bytes at 0x${at.toString(16)}`)
}
