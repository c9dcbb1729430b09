import type { InterruptSink, MemoryWindow } from '@guestdma/memory'
import {
  DEVICE_ID_BLOCK,
  DEVICE_ID_NET,
  PCI_DEVICE_MODERN_FIRST,
  PCI_VENDOR_VIRTIO,
  VIRTIO_F_NOTIFICATION_DATA,
} from '@guestdma/spec'
import type { VirtioDevice } from '../device/virtio-device.ts'
import { DeviceError } from '../faults/errors.ts'
import { MIN_MEMORY_BAR, type PlacedWindow } from './bar.ts'
import type { PciCapability } from './capabilities.ts'
import type { PciIdentity } from './configuration-space.ts'

// BARs. The two with memory are 64 bits wide and take two registers each.
export const REGISTERS_BAR = 0
export const MSIX_BAR = 1
export const SWIOTLB_BAR = 2
export const SHARED_BAR = 4
/** Instead of shared memory. */
export const PORT_BAR = 4

/** The doorbells of neighbours, in bytes. */
export const NOTIFY_MULTIPLIER = 4

/** Options of a {@link PciFunction}. */
export interface PciFunctionOptions {
  /**
   * Where INTx goes, as `level`. MSI-X messages go through the device's port instead: its doorbell is the platform's
   * affair (`BusWindows.setDoorbell`). Without it the interrupt bit of the status register is all there is.
   */
  readonly interrupts?: InterruptSink
  /**
   * `marked` (default): a doorbell marks the queue, `onWork` of the device is called, and the machine polls. `inline`:
   * the doorbell runs `device.poll(1024)` before it returns, and so calls the interrupt sink, links and stores within the
   * guest's register write, which takes as long as 1,024 chains or 64 MiB do; for what is left over `onWork` is called. Only for an emulator that lets a store instruction change interrupts and memory; one that
   * holds them in a translated block does not.
   */
  readonly notify?: 'marked' | 'inline'
  /**
   * Called when what the function decodes changed: a BAR was enabled or disabled, or moved while it was enabled. A host
   * bridge then asks `range` again. It is called within a write to configuration space, `reset` or `restore`, so all it
   * does is to note the new ranges. What it throws surfaces in a microtask.
   */
  readonly onWindows?: () => void
  /**
   * notify_off_multiplier, in bytes: 0 for one doorbell for all queues, or a power of two from 2 on, from 4 on where
   * NOTIFICATION_DATA is offered (virtio 1.4 §4.1.4.4.1). Defaults to 4.
   */
  readonly notifyMultiplier?: number
  /**
   * queue_notif_config_data of queue `index`: the 16 bits that a driver with NOTIF_CONFIG_DATA writes to its doorbell,
   * another number for each queue (virtio 1.4 §4.1.4.3). Defaults to 65535 less the index, so that a driver that writes
   * the index is noticed.
   */
  readonly notifConfigData?: (index: number) => number
  /**
   * A second notification structure behind an I/O BAR, first in the list (the example of virtio 1.4 §4.1.4). Takes the
   * place of shared memory. Defaults to false.
   */
  readonly notifyPort?: boolean
  /**
   * Entries of the MSI-X table, 1 to 2048; 0 for a function without the capability. Defaults to one for each queue and
   * one for configuration changes.
   */
  readonly msixVectors?: number
  /** Revision ID. Defaults to 1: 0 is for transitional devices. */
  readonly revision?: number
  /** The 24 bits of class, subclass and interface. Defaults to what the device type is. */
  readonly classCode?: number
  /** Defaults to the vendor ID, 0x1af4. */
  readonly subsystemVendorId?: number
  /** Defaults to the PCI device ID; at least 0x40 keeps legacy drivers away. */
  readonly subsystemId?: number
  /**
   * Memory on the device for bounce buffers, behind BAR 2, 64 bits wide and prefetchable, and the capability that names
   * it (SWIOTLB RFC 3/3). A device that reaches only this gets its window from `onWindows`, at what `range(2)` says.
   */
  readonly swiotlb?: {
    readonly window: MemoryWindow
    /** Whether the capability is there. Defaults to true. */
    readonly capability?: boolean
    /** What the capability says, where that is not the whole window: 32 bits each. For tests of bad capabilities. */
    readonly offset?: number
    readonly length?: number
  }
  /** Shared memory regions (virtio 1.4 §2.10, §4.1.4.7), behind one 64-bit prefetchable BAR. */
  readonly sharedMemory?: readonly { readonly id: number; readonly window: MemoryWindow }[]
  /**
   * Edits the capabilities before they are laid out, so that a test can build an unusual or a hostile function. What
   * the function itself does stays as it is.
   */
  readonly capabilities?: (list: readonly PciCapability[]) => readonly PciCapability[]
}

/** The options of a function, checked, with their defaults. */
interface PciSettings {
  readonly identity: PciIdentity
  readonly multiplier: number
  /** By queue. */
  readonly notifConfigData: readonly number[]
  readonly vectors: number
  /** Where each shared memory region is in its BAR, in the order of the option. */
  readonly shared: readonly PlacedWindow[]
}

/** Ethernet controller, mass storage controller, and "does not fit any class". */
const CLASS_CODES: ReadonlyMap<number, number> = new Map([
  [DEVICE_ID_NET, 0x02_00_00],
  [DEVICE_ID_BLOCK, 0x01_80_00],
])
const CLASS_OTHER = 0xff_00_00
/** A page for each doorbell; keeps the register BAR below 2^31 bytes for as many queues as there can be. */
const MAX_MULTIPLIER = 4096
/** The table size field has 11 bits. */
const MAX_VECTORS = 2048

/** Throws DeviceError `DEVICE_OPTION` where an option cannot be. */
export function pciSettings(device: VirtioDevice, options: PciFunctionOptions): PciSettings {
  const queues = device.queues.length
  const {
    notifyMultiplier = NOTIFY_MULTIPLIER,
    msixVectors = Math.min(queues + 1, MAX_VECTORS),
    swiotlb,
    sharedMemory = [],
  } = options
  const { revision = 1, classCode = CLASS_CODES.get(device.deviceId) ?? CLASS_OTHER } = options
  const { subsystemVendorId = PCI_VENDOR_VIRTIO, subsystemId = PCI_DEVICE_MODERN_FIRST + device.deviceId } = options
  const wrong = (message: string, details: Readonly<Record<string, unknown>>): never => {
    throw new DeviceError('DEVICE_OPTION', device.name, message, details)
  }
  const bits = (name: string, value: number, limit: number): void => {
    if (!Number.isInteger(value) || value < 0 || value >= limit) {
      wrong(`${name} ${value} must be an integer from 0 to ${limit - 1}`, { [name]: value })
    }
  }
  const window = (name: string, { region, offset, length }: MemoryWindow): void => {
    const fits = Number.isInteger(offset) && Number.isInteger(length) && offset >= 0 && length > 0
    if (fits && offset + length <= region.length) return
    const inside = `the ${region.length} bytes of ${region.name}`
    wrong(`${name}: offset ${offset} and length ${length} must lie inside ${inside}`, {
      offset,
      length,
      regionLength: region.length,
    })
  }
  bits('revision', revision, 2 ** 8)
  bits('classCode', classCode, 2 ** 24)
  bits('subsystemVendorId', subsystemVendorId, 2 ** 16)
  bits('subsystemId', subsystemId, 2 ** 16)
  bits('msixVectors', msixVectors, MAX_VECTORS + 1)
  const notifConfigData = device.queues.map(({ index }) => options.notifConfigData?.(index) ?? 0xffff - index)
  for (const data of notifConfigData) bits('notifConfigData', data, 2 ** 16)
  if (new Set(notifConfigData).size < queues) {
    wrong('notifConfigData must be another number for each queue', { notifConfigData })
  }
  // §4.1.4.4.1
  const least = device.offered.has(VIRTIO_F_NOTIFICATION_DATA) ? 4 : 2
  const power = Number.isInteger(Math.log2(notifyMultiplier)) && notifyMultiplier <= MAX_MULTIPLIER
  if (notifyMultiplier !== 0 && !(power && notifyMultiplier >= least)) {
    const powers = `a power of two from ${least} to ${MAX_MULTIPLIER}`
    wrong(`notifyMultiplier ${notifyMultiplier} must be 0 or ${powers}`, { notifyMultiplier })
  }
  if (swiotlb !== undefined) {
    const { window: memory, capability = true, offset = 0, length = memory.length } = swiotlb
    window('swiotlb', memory)
    if (capability) {
      bits('swiotlb.offset', offset, 2 ** 32)
      bits('swiotlb.length', length, 2 ** 32)
    }
  }
  if (options.notifyPort === true && sharedMemory.length > 0) {
    wrong('notifyPort and sharedMemory need the same BAR; leave one of them out', {})
  }
  const ids = new Set<number>()
  let end = 0
  const shared = sharedMemory.map(({ id, window: memory }): PlacedWindow => {
    bits('sharedMemory.id', id, 2 ** 8)
    window(`sharedMemory ${id}`, memory)
    if (ids.has(id)) wrong(`sharedMemory has id ${id} twice; each is unique (§4.1.4.7.1)`, { id })
    ids.add(id)
    const at = end
    end += Math.ceil(memory.length / MIN_MEMORY_BAR) * MIN_MEMORY_BAR
    return { at, window: memory }
  })
  return {
    identity: {
      deviceId: PCI_DEVICE_MODERN_FIRST + device.deviceId,
      revision,
      classCode,
      subsystemVendorId,
      subsystemId,
    },
    multiplier: notifyMultiplier,
    notifConfigData,
    vectors: msixVectors,
    shared,
  }
}
