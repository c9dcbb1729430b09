import type { RegisterBus } from '@guestdma/memory'
import {
  PCI_BAR_IO,
  PCI_BAR_PREFETCHABLE,
  PCI_BAR_TYPE_64,
  PCI_BAR0,
  PCI_CAP_BAR,
  PCI_CAP_ID,
  PCI_CAP_ID_VENDOR,
  PCI_CAP_OFFSET,
  PCI_CAPABILITY_POINTER,
  PCI_CFG_CAP_BYTES,
  PCI_CFG_CAP_DATA,
  PCI_CLASS_CODE,
  PCI_COMMAND,
  PCI_COMMAND_BUS_MASTER,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MEMORY,
  PCI_CONFIG_SIZE,
  PCI_DEVICE_ID,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_REVISION_ID,
  PCI_STATUS,
  PCI_STATUS_CAPABILITIES,
  PCI_STATUS_INTERRUPT,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
  PCI_VENDOR_VIRTIO,
  VIRTIO_PCI_CAP_PCI_CFG,
} from '@guestdma/spec'
import { cut } from '../device/access-width.ts'
import { isVirtioCapability, layOut, type PciCapability } from './capabilities.ts'
import { type FaultOwner, pciFault } from './fault.ts'

/** What a function tells of itself in its header. */
export interface PciIdentity {
  readonly deviceId: number
  readonly revision: number
  readonly classCode: number
  readonly subsystemVendorId: number
  readonly subsystemId: number
}

/** What the configuration space leaves to the function. */
interface PciConfigHooks {
  /** Something was written: command, BARs or MSI-X control may have changed. */
  written(): void
  /** pci_cfg_data of the access capability at `at` is about to be read, or was written (virtio 1.4 §4.1.4.9). */
  dataRead(at: number): void
  dataWritten(at: number): void
}

/**
 * The 256 bytes of a type 0 configuration space: PCI 3.0 §6.1. Each byte has a mask of the bits that software may
 * write; sizing a BAR needs nothing else. Writes to read-only bits are ignored, as PCI has it; inside a virtio
 * capability they are a driver's fault (virtio 1.4 §4.1.4).
 */
export class PciConfigSpace implements RegisterBus {
  declare readonly bytes: Uint8Array<ArrayBuffer>
  /** The bits that software may write. */
  declare readonly writable: Uint8Array<ArrayBuffer>
  declare readonly view: DataView
  /** Where each capability of the list is. */
  declare readonly positions: readonly number[]
  declare private readonly device: FaultOwner
  declare private readonly hooks: PciConfigHooks
  private readonly guarded = new Uint8Array(PCI_CONFIG_SIZE)
  declare private readonly windows: readonly number[]

  /** @throws DeviceError `DEVICE_OPTION` where the capabilities do not fit */
  constructor(
    device: FaultOwner,
    identity: PciIdentity,
    capabilities: readonly PciCapability[],
    hooks: PciConfigHooks,
  ) {
    const bytes = new Uint8Array(PCI_CONFIG_SIZE)
    const view = new DataView(bytes.buffer)
    const writable = new Uint8Array(PCI_CONFIG_SIZE)
    this.device = device
    this.hooks = hooks
    this.bytes = bytes
    this.view = view
    this.writable = writable
    view.setUint16(PCI_VENDOR_ID, PCI_VENDOR_VIRTIO, true)
    view.setUint16(PCI_DEVICE_ID, identity.deviceId, true)
    bytes[PCI_REVISION_ID] = identity.revision
    bytes[PCI_CLASS_CODE] = identity.classCode
    bytes[PCI_CLASS_CODE + 1] = identity.classCode >>> 8
    bytes[PCI_CLASS_CODE + 2] = identity.classCode >>> 16
    view.setUint16(PCI_SUBSYSTEM_VENDOR_ID, identity.subsystemVendorId, true)
    view.setUint16(PCI_SUBSYSTEM_ID, identity.subsystemId, true)
    bytes[PCI_INTERRUPT_PIN] = 1
    writable[PCI_INTERRUPT_LINE] = 0xff
    this.allow(PCI_COMMAND, PCI_COMMAND_BUS_MASTER | PCI_COMMAND_INTX_DISABLE)
    this.positions = layOut(capabilities, bytes, device.name)
    if (capabilities.length > 0) {
      view.setUint16(PCI_STATUS, PCI_STATUS_CAPABILITIES, true)
      bytes[PCI_CAPABILITY_POINTER] = this.positions[0]
    }
    const windows: number[] = []
    capabilities.forEach((capability, i) => {
      const at = this.positions[i]
      if (capability.bytes[PCI_CAP_ID] === PCI_CAP_ID_VENDOR) this.guarded.fill(1, at, at + capability.bytes.length)
      if (!isVirtioCapability(capability, VIRTIO_PCI_CAP_PCI_CFG, PCI_CFG_CAP_BYTES)) return
      windows.push(at)
      writable[at + PCI_CAP_BAR] = 0xff
      writable.fill(0xff, at + PCI_CAP_OFFSET, at + PCI_CFG_CAP_BYTES)
    })
    this.windows = windows
  }

  get command(): number {
    return this.bytes[PCI_COMMAND] | (this.bytes[PCI_COMMAND + 1] << 8)
  }

  /** The interrupt bit of the status register. */
  set interruptStatus(value: boolean) {
    if (value) this.bytes[PCI_STATUS] |= PCI_STATUS_INTERRUPT
    else this.bytes[PCI_STATUS] &= ~PCI_STATUS_INTERRUPT
  }

  /** As after power-on: all that software may write is 0. */
  reset(): void {
    for (let at = 0; at < PCI_CONFIG_SIZE; at++) this.bytes[at] &= ~this.writable[at]
  }

  /** Lets software write these bits of a 16-bit register. */
  allow(register: number, bits: number): void {
    this.writable[register] |= bits
    this.writable[register + 1] |= bits >>> 8
  }

  /**
   * Makes a register a BAR of `size` bytes, a power of two: PCI 3.0 §6.2.5.1. A 64-bit one takes the next register too.
   */
  addBar(index: number, kind: 'memory' | 'io', size: number, wide: boolean, prefetchable: boolean): void {
    const at = PCI_BAR0 + 4 * index
    const masks = new DataView(this.writable.buffer)
    masks.setUint32(at, size < 2 ** 32 ? -size : 0, true)
    if (wide) masks.setUint32(at + 4, size < 2 ** 32 ? -1 : -size / 2 ** 32, true)
    this.bytes[at] =
      kind === 'io' ? PCI_BAR_IO : (wide ? PCI_BAR_TYPE_64 : 0) | (prefetchable ? PCI_BAR_PREFETCHABLE : 0)
    this.allow(PCI_COMMAND, kind === 'io' ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)
  }

  read(offset: number, size: 1 | 2 | 4): number {
    if (!this.proper(offset, size, null)) return 0
    const window = this.windowAt(offset)
    if (window >= 0) this.hooks.dataRead(window)
    if (size === 1) return this.bytes[offset]
    return size === 2 ? this.view.getUint16(offset, true) : this.view.getUint32(offset, true)
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    value = cut(value, size)
    if (!this.proper(offset, size, value)) return
    const { bytes, writable, guarded } = this
    let refused = false
    for (let i = 0; i < size; i++) {
      const at = offset + i
      const mask = writable[at]
      bytes[at] = (bytes[at] & ~mask) | ((value >>> (8 * i)) & mask)
      if (mask === 0 && guarded[at] === 1) refused = true
    }
    if (refused) pciFault(this.device, 'read-only', 'config', offset, size, value)
    this.hooks.written()
    const window = this.windowAt(offset)
    if (window >= 0) this.hooks.dataWritten(window)
  }

  /** What BAR `index` holds, without its flags. */
  address(index: number, wide: boolean): number {
    const at = PCI_BAR0 + 4 * index
    const low = this.view.getUint32(at, true)
    const address = low - (low & ((low & PCI_BAR_IO) === 0 ? 0xf : 0x3))
    return wide ? this.view.getUint32(at + 4, true) * 2 ** 32 + address : address
  }

  private proper(offset: number, size: number, value: number | null): boolean {
    if (!(offset >= 0 && offset + size <= PCI_CONFIG_SIZE)) {
      pciFault(this.device, 'unknown', 'config', offset, size, value)
      return false
    }
    if (offset % size === 0) return true
    pciFault(this.device, 'width', 'config', offset, size, value)
    return false
  }

  // The access capability whose pci_cfg_data an access touches, or -1. An aligned access touches nothing beside it.
  private windowAt(offset: number): number {
    for (const at of this.windows) {
      if (offset >= at + PCI_CFG_CAP_DATA && offset < at + PCI_CFG_CAP_BYTES) return at
    }
    return -1
  }
}
