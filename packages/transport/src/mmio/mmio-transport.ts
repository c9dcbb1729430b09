import { hex, type RegisterBus } from '@guestdma/memory'
import {
  FeatureSet,
  INTERRUPT_CONFIGURATION,
  INTERRUPT_USED_BUFFER,
  MMIO_CONFIG,
  MMIO_CONFIG_GENERATION,
  MMIO_DEVICE_FEATURES,
  MMIO_DEVICE_FEATURES_SEL,
  MMIO_DEVICE_ID,
  MMIO_DRIVER_FEATURES,
  MMIO_DRIVER_FEATURES_SEL,
  MMIO_INTERRUPT_ACK,
  MMIO_INTERRUPT_STATUS,
  MMIO_MAGIC,
  MMIO_MAGIC_VALUE,
  MMIO_MODERN_VERSION,
  MMIO_QUEUE_DESC_HIGH,
  MMIO_QUEUE_DESC_LOW,
  MMIO_QUEUE_DEVICE_HIGH,
  MMIO_QUEUE_DEVICE_LOW,
  MMIO_QUEUE_DRIVER_HIGH,
  MMIO_QUEUE_DRIVER_LOW,
  MMIO_QUEUE_NOTIFY,
  MMIO_QUEUE_READY,
  MMIO_QUEUE_RESET,
  MMIO_QUEUE_SEL,
  MMIO_QUEUE_SIZE,
  MMIO_QUEUE_SIZE_MAX,
  MMIO_STATUS,
  MMIO_VERSION,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
} from '@guestdma/spec'
import { TransportError } from '../contract/errors.ts'
import { readFeatureWords, writeFeatureWords } from '../contract/feature-words.ts'
import { GuardedBus } from '../contract/guarded-bus.ts'
import type { ConfigReader, QueueAreas, VirtioTransport } from '../contract/transport.ts'

/** A device that changes its configuration faster than it can be read is refused after so many attempts. */
const CONFIG_ATTEMPTS = 16

/**
 * virtio over MMIO, version 2 (virtio 1.4 §4.2), over any register bus.
 *
 * @example
 * const transport = MmioTransport.probe(bus, 'net0')
 */
export class MmioTransport implements VirtioTransport {
  readonly name: string
  readonly kind = 'mmio'
  readonly deviceId: number
  readonly transitional = false

  private readonly bus: RegisterBus
  private notificationData = false
  private readonly config: ConfigReader

  private constructor(bus: RegisterBus, name: string, deviceId: number) {
    this.bus = bus
    this.name = name
    this.deviceId = deviceId
    this.config = {
      read8: (offset) => bus.read(MMIO_CONFIG + offset, 1),
      read16: (offset) => bus.read(MMIO_CONFIG + offset, 2),
      read32: (offset) => bus.read(MMIO_CONFIG + offset, 4),
    }
  }

  /**
   * Looks for a device. `null` for a placeholder (device ID 0), which is no error (virtio 1.4 §4.2.2.2).
   *
   * @throws TransportError `TRANSPORT_MAGIC`, `TRANSPORT_VERSION`, `TRANSPORT_LOST`
   */
  static probe(registers: RegisterBus, name: string): MmioTransport | null {
    const bus = new GuardedBus(registers, name)
    const magic = bus.read(MMIO_MAGIC_VALUE, 4)
    if (magic !== MMIO_MAGIC)
      throw new TransportError(
        'TRANSPORT_MAGIC',
        name,
        `magic value ${hex(magic)} is not ${hex(MMIO_MAGIC)}: no virtio-mmio device here`,
        { magic },
      )
    const version = bus.read(MMIO_VERSION, 4)
    if (version !== MMIO_MODERN_VERSION) {
      throw new TransportError(
        'TRANSPORT_VERSION',
        name,
        `version ${version} is not 2; legacy (pre-1.0) devices are not supported`,
        { version },
      )
    }
    const deviceId = bus.read(MMIO_DEVICE_ID, 4)
    return deviceId === 0 ? null : new MmioTransport(bus, name, deviceId)
  }

  readStatus(): number {
    return this.bus.read(MMIO_STATUS, 4) & 0xff
  }

  writeStatus(status: number): void {
    this.bus.write(MMIO_STATUS, 4, status)
  }

  readFeatures(): FeatureSet {
    const offered = readFeatureWords((selector) => {
      this.bus.write(MMIO_DEVICE_FEATURES_SEL, 4, selector)
      return this.bus.read(MMIO_DEVICE_FEATURES, 4)
    })
    // There is no register for it.
    return offered.without(FeatureSet.of(VIRTIO_F_NOTIF_CONFIG_DATA))
  }

  /** What the device then holds cannot be seen: DriverFeatures is write-only (virtio 1.4 §4.2.2). */
  writeFeatures(features: FeatureSet): void {
    writeFeatureWords(features, (selector, word) => {
      this.bus.write(MMIO_DRIVER_FEATURES_SEL, 4, selector)
      this.bus.write(MMIO_DRIVER_FEATURES, 4, word)
    })
    this.notificationData = features.has(VIRTIO_F_NOTIFICATION_DATA)
  }

  maxQueueSize(index: number): number {
    this.bus.write(MMIO_QUEUE_SEL, 4, index)
    return this.bus.read(MMIO_QUEUE_SIZE_MAX, 4)
  }

  enableQueue(index: number, size: number, areas: QueueAreas): void {
    const max = this.maxQueueSize(index)
    if (size > max)
      throw new TransportError(
        'TRANSPORT_QUEUE_SIZE',
        this.name,
        `queue ${index} of ${size} entries: the device allows ${max}`,
        { index, size, max },
      )
    if (this.bus.read(MMIO_QUEUE_READY, 4) !== 0) {
      throw new TransportError(
        'TRANSPORT_QUEUE_BUSY',
        this.name,
        `queue ${index} is in use already; reset the device first`,
        { index },
      )
    }
    this.bus.write(MMIO_QUEUE_SIZE, 4, size)
    this.writeAddress(MMIO_QUEUE_DESC_LOW, MMIO_QUEUE_DESC_HIGH, areas.descriptor)
    this.writeAddress(MMIO_QUEUE_DRIVER_LOW, MMIO_QUEUE_DRIVER_HIGH, areas.driver)
    this.writeAddress(MMIO_QUEUE_DEVICE_LOW, MMIO_QUEUE_DEVICE_HIGH, areas.device)
    this.bus.write(MMIO_QUEUE_READY, 4, 1)
  }

  resetQueue(index: number): void {
    this.bus.write(MMIO_QUEUE_SEL, 4, index)
    this.bus.write(MMIO_QUEUE_RESET, 4, 1)
  }

  queueResetDone(index: number): boolean {
    this.bus.write(MMIO_QUEUE_SEL, 4, index)
    return this.bus.read(MMIO_QUEUE_RESET, 4) === 0 && this.bus.read(MMIO_QUEUE_READY, 4) === 0
  }

  notify(index: number, position: number): void {
    this.bus.write(MMIO_QUEUE_NOTIFY, 4, this.notificationData ? (index | (position << 16)) >>> 0 : index)
  }

  readConfig<T>(read: (config: ConfigReader) => T): T {
    for (let attempt = 0; attempt < CONFIG_ATTEMPTS; attempt++) {
      const before = this.bus.read(MMIO_CONFIG_GENERATION, 4)
      const value = read(this.config)
      if (this.bus.read(MMIO_CONFIG_GENERATION, 4) === before) return value
    }
    throw new TransportError(
      'TRANSPORT_CONFIG_UNSTABLE',
      this.name,
      `the configuration changed during each of ${CONFIG_ATTEMPTS} attempts to read it`,
    )
  }

  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    this.bus.write(MMIO_CONFIG + offset, size, value)
  }

  takeInterrupts(): number {
    // Acknowledged before the queues are looked at, as Linux does. virtio 1.4 §4.2.3.4.1 says "after the interrupt is
    // handled", but InterruptStatus has one bit for all queues: what is used while they are looked at would be cleared
    // with it, and no interrupt would come for it.
    const cause = this.bus.read(MMIO_INTERRUPT_STATUS, 4) & (INTERRUPT_USED_BUFFER | INTERRUPT_CONFIGURATION)
    if (cause !== 0) this.bus.write(MMIO_INTERRUPT_ACK, 4, cause)
    return cause
  }

  private writeAddress(low: number, high: number, address: number): void {
    this.bus.write(low, 4, address >>> 0)
    this.bus.write(high, 4, Math.floor(address / 2 ** 32))
  }
}
