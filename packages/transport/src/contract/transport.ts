import type { DeviceAddress } from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'

/**
 * Where the three areas of a queue lie (virtio 1.4 §2.6): descriptor table, what the driver writes, what the device
 * writes.
 */
export interface QueueAreas {
  readonly descriptor: DeviceAddress
  readonly driver: DeviceAddress
  readonly device: DeviceAddress
}

/** Reads of a device's configuration space, in the width of the field. Offsets in bytes. */
export interface ConfigReader {
  read8(offset: number): number
  read16(offset: number): number
  read32(offset: number): number
}

/**
 * How a driver reaches one device: the operations that every virtio transport has (virtio 1.4 §4).
 *
 * A transport whose other end is gone throws `TransportLostError` (code `TRANSPORT_LOST`) from every method that would
 * have reached it, for as long as it is gone. A driver treats that as a device that needs a reset; `resetDevice` then
 * says `DeviceStuckError`, and whoever closes the device detaches it from memory.
 */
export interface VirtioTransport {
  readonly name: string
  readonly kind: 'mmio' | 'pci' | 'vhost-user'
  /** virtio 1.4 §5: 1 is net, 2 is block. */
  readonly deviceId: number
  /** Does the device also speak the pre-1.0 interface? */
  readonly transitional: boolean

  /**
   * For a transport whose registers are far, such as those of a device in a worker: resolves once what was written has
   * arrived, and what can be read is as new as that. It is awaited while a device is brought up, and never on the data
   * path: the other methods answer at once, from what is known by then. `readStatus` also asks for a newer status, for the
   * loop that waits for a reset. Rejects with `TRANSPORT_LOST`.
   */
  settle?(): Promise<void>

  readStatus(): number
  writeStatus(status: number): void
  readFeatures(): FeatureSet
  /**
   * Tells the device which features were accepted. Throws `TRANSPORT_FEATURES` where the transport can see that the
   * device holds others, so that a feature on which confinement rests (ACCESS_PLATFORM) is not believed in vain.
   */
  writeFeatures(features: FeatureSet): void

  /** Entries that queue `index` may have at most; 0 where there is no such queue. */
  maxQueueSize(index: number): number
  /** Tells the device where a queue lies and enables it. Throws `TRANSPORT_QUEUE_SIZE`, `TRANSPORT_QUEUE_BUSY`. */
  enableQueue(index: number, size: number, areas: QueueAreas): void
  /** Begins the reset of one queue (RING_RESET); done once {@link queueResetDone}. */
  resetQueue(index: number): void
  queueResetDone(index: number): boolean
  /** Rings the doorbell of a queue. `position` matters where NOTIFICATION_DATA was agreed (virtio 1.4 §2.9). */
  notify(index: number, position: number): void

  /** Reads several fields of the configuration space as one consistent whole. Throws `TRANSPORT_CONFIG_UNSTABLE`. */
  readConfig<T>(read: (config: ConfigReader) => T): T
  /**
   * Writes a field of the configuration space in its own width; only what the device type lets a driver write.
   */
  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void
  /** Reads and acknowledges why the device interrupts: `INTERRUPT_USED_BUFFER` and `INTERRUPT_CONFIGURATION`. */
  takeInterrupts(): number
}
