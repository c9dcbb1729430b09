import {
  FeatureSet,
  PCI_COMMON_CONFIG_GENERATION,
  PCI_COMMON_DEVICE_FEATURE,
  PCI_COMMON_DEVICE_FEATURE_SELECT,
  PCI_COMMON_DEVICE_STATUS,
  PCI_COMMON_DRIVER_FEATURE,
  PCI_COMMON_DRIVER_FEATURE_SELECT,
  PCI_COMMON_QUEUE_DESC,
  PCI_COMMON_QUEUE_DEVICE,
  PCI_COMMON_QUEUE_DRIVER,
  PCI_COMMON_QUEUE_ENABLE,
  PCI_COMMON_QUEUE_NOTIF_CONFIG_DATA,
  PCI_COMMON_QUEUE_NOTIFY_OFF,
  PCI_COMMON_QUEUE_RESET,
  PCI_COMMON_QUEUE_SELECT,
  PCI_COMMON_QUEUE_SIZE,
  PCI_DEVICE_ID,
  PCI_DEVICE_MODERN_FIRST,
  PCI_DEVICE_MODERN_LAST,
  PCI_DEVICE_TRANSITIONAL_FIRST,
  PCI_HEADER_TYPE,
  PCI_SUBSYSTEM_ID,
  PCI_VENDOR_ID,
  PCI_VENDOR_VIRTIO,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
} from '@guestdma/spec'
import { TransportError } from '../contract/errors.ts'
import { readFeatureWords, writeFeatureWords } from '../contract/feature-words.ts'
import { GuardedBus } from '../contract/guarded-bus.ts'
import type { ConfigReader, QueueAreas, VirtioTransport } from '../contract/transport.ts'
import type { AddressSpan } from '../devicetree/devicetree.ts'
import { type PciAccess, type PciBar, readBars } from './bars.ts'
import { type IgnoredCapability, readCapabilities } from './capabilities.ts'
import { PciInterrupts } from './interrupts.ts'
import { locate, type PciLayout, type SharedMemoryRegion, type SwiotlbRegion } from './layout.ts'
import type { MessageRoutes } from './msix.ts'
import type { PciStructure } from './structure.ts'

export interface PciTransportOptions {
  /** Does the platform follow the SWIOTLB RFC? Otherwise capability type 10 is reserved. Default false. */
  readonly swiotlbRfc?: boolean
  /**
   * The bus addresses at which the platform knows memory for bounce buffers to be. A SWIOTLB capability that names
   * anything else is passed over like one that does not fit its BAR. Default: what a BAR covers is taken for memory.
   */
  readonly swiotlbMemory?: AddressSpan | undefined
}

/** A device that changes its configuration faster than it can be read is refused after so many attempts. */
const CONFIG_ATTEMPTS = 16

/** The header that has BARs and a subsystem ID where they are read here, in one function or many (bit 7). */
const HEADER_TYPE_MASK = 0x7f

/** Of a queue that is not enabled. */
const NO_DOORBELL = -1

/**
 * virtio over PCI, without the legacy interface (virtio 1.4 §4.1), on any machine that presents a function's
 * configuration space and BARs. Nothing that the device says is believed beyond the windows that its capabilities name.
 *
 * @example
 * const transport = PciTransport.probe(access, 'net0')
 */
export class PciTransport implements VirtioTransport {
  readonly name: string
  readonly kind = 'pci'
  readonly deviceId: number
  readonly transitional: boolean
  /** What the first usable SWIOTLB capability names; null where there is none, or `swiotlbRfc` is off. */
  readonly swiotlb: SwiotlbRegion | null
  readonly sharedMemory: readonly SharedMemoryRegion[]
  /** Capabilities that were passed over, and why. */
  readonly ignored: readonly IgnoredCapability[]
  readonly bars: readonly PciBar[]

  private readonly common: PciStructure
  private readonly doorbells: PciStructure
  private readonly deviceConfig: PciStructure | null
  private readonly multiplier: number
  private readonly interrupts: PciInterrupts
  private readonly config: ConfigReader

  // What holds from one reset to the next.
  private notificationData = false
  private notifConfigData = false
  private packed = false
  private readonly doorbell: number[] = []
  // By queue: what is written there.
  private readonly named: number[] = []
  private readonly maxima = new Map<number, number>()

  private constructor(name: string, deviceId: number, transitional: boolean, layout: PciLayout) {
    this.name = name
    this.deviceId = deviceId
    this.transitional = transitional
    this.swiotlb = layout.swiotlb
    this.sharedMemory = layout.sharedMemory
    this.ignored = layout.ignored
    this.bars = layout.bars
    this.common = layout.common
    this.doorbells = layout.notify
    this.multiplier = layout.multiplier
    this.deviceConfig = layout.device
    this.interrupts = new PciInterrupts(name, layout.common, layout.isr, layout.msix)
    this.config = {
      read8: (offset) => this.field(offset, 1).read(offset, 1),
      read16: (offset) => this.field(offset, 2).read(offset, 2),
      read32: (offset) => this.field(offset, 4).read(offset, 4),
    }
  }

  /**
   * Looks for a virtio device behind a function. `null` where there is none: no function at all (vendor 0xFFFF),
   * another vendor's, a device ID outside 0x1000 to 0x107F (virtio 1.4 §4.1.2), or virtio device ID 0. Sizes the BARs
   * and leaves every register as it found it; the device itself is not touched.
   *
   * @throws TransportError `TRANSPORT_LEGACY` where it has no virtio capability (virtio 1.4 §4.1.5.1.1),
   *   `TRANSPORT_PCI_CAPABILITY` where no usable one names a structure that every device has, `TRANSPORT_PCI_HEADER`,
   *   `TRANSPORT_LOST`
   */
  static probe(
    machine: PciAccess,
    name: string,
    { swiotlbRfc = false, swiotlbMemory }: PciTransportOptions = {},
  ): PciTransport | null {
    const access = guarded(machine, name)
    const { config } = access
    if (config.read(PCI_VENDOR_ID, 2) !== PCI_VENDOR_VIRTIO) return null
    const id = config.read(PCI_DEVICE_ID, 2)
    if (id < PCI_DEVICE_TRANSITIONAL_FIRST || id > PCI_DEVICE_MODERN_LAST) return null
    const transitional = id < PCI_DEVICE_MODERN_FIRST
    const deviceId = transitional ? config.read(PCI_SUBSYSTEM_ID, 2) : id - PCI_DEVICE_MODERN_FIRST
    if (deviceId === 0) return null
    const header = config.read(PCI_HEADER_TYPE, 1) & HEADER_TYPE_MASK
    if (header !== 0) {
      throw new TransportError('TRANSPORT_PCI_HEADER', name, `header type ${header} is not that of a device`, {
        header,
      })
    }
    const capabilities = readCapabilities(config, swiotlbRfc)
    if (!capabilities.modern) {
      const text = 'no virtio capability: a legacy (pre-1.0) device, which is not supported'
      throw new TransportError('TRANSPORT_LEGACY', name, text, { ignored: capabilities.ignored })
    }
    const layout = locate(access, name, capabilities, readBars(config), swiotlbMemory)
    return new PciTransport(name, deviceId, transitional, layout)
  }

  readStatus(): number {
    return this.common.read(PCI_COMMON_DEVICE_STATUS, 1)
  }

  /**
   * Writing 0 resets the device; doorbells, queue sizes and what interrupts said are forgotten. Where messages are in
   * use the configuration vector is mapped again before DRIVER_OK, since a reset unmapped it (virtio 1.4 §4.1.5.1.2).
   *
   * @throws TransportError `TRANSPORT_MSIX_VECTOR`
   */
  writeStatus(status: number): void {
    if (status === 0) this.forget()
    else if ((status & (STATUS_DRIVER_OK | STATUS_FAILED)) === STATUS_DRIVER_OK) this.interrupts.mapConfiguration()
    this.common.write(PCI_COMMON_DEVICE_STATUS, 1, status)
  }

  /** Without NOTIF_CONFIG_DATA and RING_RESET where the common configuration ends before their fields. */
  readFeatures(): FeatureSet {
    const offered = readFeatureWords((selector) => {
      this.common.write(PCI_COMMON_DEVICE_FEATURE_SELECT, 4, selector)
      return this.common.read(PCI_COMMON_DEVICE_FEATURE, 4)
    })
    const { length } = this.common
    const lacking: number[] = []
    if (length < PCI_COMMON_QUEUE_NOTIF_CONFIG_DATA + 2) lacking.push(VIRTIO_F_NOTIF_CONFIG_DATA)
    if (!this.hasQueueReset()) lacking.push(VIRTIO_F_RING_RESET)
    return offered.without(FeatureSet.of(...lacking))
  }

  /** @throws TransportError `TRANSPORT_FEATURES` where driver_feature reads back as something else */
  writeFeatures(features: FeatureSet): void {
    writeFeatureWords(features, (selector, word) => {
      this.common.write(PCI_COMMON_DRIVER_FEATURE_SELECT, 4, selector)
      this.common.write(PCI_COMMON_DRIVER_FEATURE, 4, word)
    })
    const words = [0, 1].map((selector) => {
      this.common.write(PCI_COMMON_DRIVER_FEATURE_SELECT, 4, selector)
      return this.common.read(PCI_COMMON_DRIVER_FEATURE, 4)
    })
    // There are devices that answer 0 to every read of driver_feature; those do not tell.
    const held = FeatureSet.fromWords(words)
    if (!held.equals(FeatureSet.empty) && words.some((word, selector) => word !== features.word(selector))) {
      const text = `the device holds the features ${held} where ${features} were written`
      throw new TransportError('TRANSPORT_FEATURES', this.name, text, { written: features.bits(), held: held.bits() })
    }
    this.notificationData = features.has(VIRTIO_F_NOTIFICATION_DATA)
    this.notifConfigData = features.has(VIRTIO_F_NOTIF_CONFIG_DATA)
    this.packed = features.has(VIRTIO_F_RING_PACKED)
  }

  /**
   * What queue_size held when it was first read after a reset: once a smaller size was written, the register no longer
   * says (virtio 1.4 §4.1.4.3).
   */
  maxQueueSize(index: number): number {
    const known = this.maxima.get(index)
    if (known !== undefined) return known
    this.select(index)
    const max = this.common.read(PCI_COMMON_QUEUE_SIZE, 2)
    this.maxima.set(index, max)
    return max
  }

  /**
   * @throws TransportError `TRANSPORT_QUEUE_SIZE` also for a split ring's size that is no power of two, and for one that the
   *   device does not take, `TRANSPORT_QUEUE_BUSY`, `TRANSPORT_PCI_NOTIFY` where the doorbell lies outside the notification structure
   *   or is not aligned, `TRANSPORT_MSIX_VECTOR`
   */
  enableQueue(index: number, size: number, areas: QueueAreas): void {
    const max = this.maxQueueSize(index)
    if (size > max) throw this.sizeError(index, size, max, `the device allows ${max}`)
    // virtio 1.4 §4.1.4.3.2.
    if (!Number.isInteger(size) || size < 1 || (!this.packed && (size & (size - 1)) !== 0))
      throw this.sizeError(index, size, max, this.packed ? 'not a whole number from 1 on' : 'not a power of two')
    const { common } = this
    this.select(index)
    if (common.read(PCI_COMMON_QUEUE_ENABLE, 2) !== 0) {
      const text = `queue ${index} is in use already; reset the device first`
      throw new TransportError('TRANSPORT_QUEUE_BUSY', this.name, text, { index })
    }
    const doorbell = this.findDoorbell(index)
    // How the device wants the queue to be named there: virtio 1.4 §4.1.5.2.
    const name = this.notifConfigData ? common.read(PCI_COMMON_QUEUE_NOTIF_CONFIG_DATA, 2) : index
    common.write(PCI_COMMON_QUEUE_SIZE, 2, size)
    const taken = common.read(PCI_COMMON_QUEUE_SIZE, 2)
    if (taken !== size) throw this.sizeError(index, size, max, `the device made it ${taken}`)
    this.writeAddress(PCI_COMMON_QUEUE_DESC, areas.descriptor)
    this.writeAddress(PCI_COMMON_QUEUE_DRIVER, areas.driver)
    this.writeAddress(PCI_COMMON_QUEUE_DEVICE, areas.device)
    this.interrupts.mapQueue(index)
    common.write(PCI_COMMON_QUEUE_ENABLE, 2, 1)
    while (this.doorbell.length <= index) this.doorbell.push(NO_DOORBELL)
    this.doorbell[index] = doorbell
    this.named[index] = name
  }

  /** @throws TransportError `TRANSPORT_QUEUE` where the common configuration ends before queue_reset */
  resetQueue(index: number): void {
    if (!this.hasQueueReset())
      throw new TransportError('TRANSPORT_QUEUE', this.name, 'the device has no queue_reset', { index })
    this.select(index)
    this.common.write(PCI_COMMON_QUEUE_RESET, 2, 1)
    if (index < this.doorbell.length) this.doorbell[index] = NO_DOORBELL
  }

  queueResetDone(index: number): boolean {
    if (!this.hasQueueReset()) return false
    this.select(index)
    return this.common.read(PCI_COMMON_QUEUE_RESET, 2) === 0 && this.common.read(PCI_COMMON_QUEUE_ENABLE, 2) === 0
  }

  /** A queue that is not enabled has no doorbell, and nothing is written: it may be a late ring after a reset. */
  notify(index: number, position: number): void {
    const at = index < this.doorbell.length ? this.doorbell[index] : NO_DOORBELL
    if (at === NO_DOORBELL) return
    const name = this.named[index]
    if (this.notificationData) this.doorbells.write(at, 4, (name | (position << 16)) >>> 0)
    else this.doorbells.write(at, 2, name)
  }

  /**
   * @throws TransportError `TRANSPORT_CONFIG_UNSTABLE`; `TRANSPORT_PCI_CAPABILITY` where the device has no
   *   device-specific configuration, `TRANSPORT_CONFIG_RANGE` where it ends before the field or the field is not
   *   aligned
   */
  readConfig<T>(read: (config: ConfigReader) => T): T {
    for (let attempt = 0; attempt < CONFIG_ATTEMPTS; attempt++) {
      const before = this.common.read(PCI_COMMON_CONFIG_GENERATION, 1)
      const value = read(this.config)
      if (this.common.read(PCI_COMMON_CONFIG_GENERATION, 1) === before) return value
    }
    const text = `the configuration changed during each of ${CONFIG_ATTEMPTS} attempts to read it`
    throw new TransportError('TRANSPORT_CONFIG_UNSTABLE', this.name, text)
  }

  /** @throws TransportError `TRANSPORT_PCI_CAPABILITY`, `TRANSPORT_CONFIG_RANGE`, as for {@link readConfig} */
  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    this.field(offset, size).write(offset, size, value)
  }

  /**
   * Programs MSI-X and turns it on: vector 0 for configuration changes, then one for each queue as far as the table
   * reaches; with two vectors, one for all queues. Call it before queues are enabled: their vectors are mapped with
   * them. It outlasts resets. Returns false, with INTx in use, where the function has no table within reach, fewer than
   * two vectors, or cannot map the configuration vector.
   */
  useMessages(routes: MessageRoutes): boolean {
    return this.interrupts.useMessages(routes)
  }

  /** The machine's interrupt controller calls it when message `vector` arrived. Vectors not in use are ignored. */
  messageArrived(vector: number): void {
    this.interrupts.messageArrived(vector)
  }

  /**
   * With INTx: reads the ISR status, which clears it (virtio 1.4 §4.1.4.5). With messages: what they said since the
   * last call; the ISR status is unused then.
   */
  takeInterrupts(): number {
    return this.interrupts.take()
  }

  private forget(): void {
    this.notificationData = false
    this.notifConfigData = false
    this.packed = false
    this.doorbell.fill(NO_DOORBELL)
    this.maxima.clear()
    this.interrupts.forget()
  }

  private select(index: number): void {
    this.common.write(PCI_COMMON_QUEUE_SELECT, 2, index)
  }

  private hasQueueReset(): boolean {
    return this.common.length >= PCI_COMMON_QUEUE_RESET + 2
  }

  // The byte in the notification structure, once for the time that the queue is enabled: virtio 1.4 §4.1.4.4. The
  // product of 16 and 32 bits is exact.
  private findDoorbell(index: number): number {
    const width = this.notificationData ? 4 : 2
    const notifyOff = this.common.read(PCI_COMMON_QUEUE_NOTIFY_OFF, 2)
    const at = notifyOff * this.multiplier
    const { offset, length } = this.doorbells
    if (at + width > length || (offset + at) % width !== 0) {
      const text = `the doorbell of queue ${index}, ${width} bytes at ${at}, does not fit the notification structure`
      throw new TransportError('TRANSPORT_PCI_NOTIFY', this.name, text, {
        index,
        notifyOff,
        multiplier: this.multiplier,
        offset,
        length,
      })
    }
    return at
  }

  private writeAddress(register: number, address: number): void {
    this.common.write(register, 4, address >>> 0)
    this.common.write(register + 4, 4, Math.floor(address / 2 ** 32))
  }

  private field(offset: number, size: number): PciStructure {
    const { deviceConfig } = this
    if (deviceConfig === null) {
      const text = 'no usable capability names a device-specific configuration'
      throw new TransportError('TRANSPORT_PCI_CAPABILITY', this.name, text, { ignored: this.ignored })
    }
    const { length } = deviceConfig
    if (offset < 0 || offset + size > length || offset % size !== 0) {
      const text = `${size} bytes at ${offset} are not an aligned field of the ${length} bytes of configuration`
      throw new TransportError('TRANSPORT_CONFIG_RANGE', this.name, text, { offset, size, length })
    }
    return deviceConfig
  }

  private sizeError(index: number, size: number, max: number, why: string): TransportError {
    const text = `queue ${index} of ${size} entries: ${why}`
    return new TransportError('TRANSPORT_QUEUE_SIZE', this.name, text, { index, size, max })
  }
}

function guarded(machine: PciAccess, name: string): PciAccess {
  return {
    config: new GuardedBus(machine.config, name),
    bar: (index) => {
      const bus = machine.bar(index)
      return bus === null ? null : new GuardedBus(bus, name)
    },
  }
}
