import type { InterruptSink, RegisterBus } from '@guestdma/memory'
import {
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
  MMIO_SHM_BASE_HIGH,
  MMIO_SHM_BASE_LOW,
  MMIO_SHM_LEN_HIGH,
  MMIO_SHM_LEN_LOW,
  MMIO_SHM_SEL,
  MMIO_STATUS,
  MMIO_VENDOR_ID,
  MMIO_VERSION,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
} from '@guestdma/spec'
import { isPart, partOf } from '../device/access-width.ts'
import type { DeviceQueue } from '../device/device-queue.ts'
import { StateCheck, U32 } from '../device/state-check.ts'
import type { DeviceTransport, VirtioDevice } from '../device/virtio-device.ts'
import type { RegisterFaultReason } from '../faults/faults.ts'
import { tellLevel } from '../ports/interrupt-sink.ts'
import {
  AREA_DESC_HIGH,
  AREA_DESC_LOW,
  AREA_DEVICE_HIGH,
  AREA_DEVICE_LOW,
  AREA_DRIVER_HIGH,
  AREA_DRIVER_LOW,
} from '../ring/ring-area.ts'

/** Bytes of the control registers; the configuration space follows. */
const CONTROL_BYTES = MMIO_CONFIG
const ALL_ONES = 0xffffffff

export interface MmioOptions {
  /** Where the interrupt line goes. Without it InterruptStatus is all there is. */
  readonly interrupts?: InterruptSink
  /** VendorID. Defaults to "gdma" read as a little-endian word. */
  readonly vendorId?: number
  /**
   * `marked` (default): a doorbell marks the queue, `onWork` of the device is called, and the machine polls. `inline`:
   * the doorbell runs `device.poll(1024)` before it returns, and so calls the interrupt sink, links and stores within the
   * guest's register write, which takes as long as 1,024 chains or 64 MiB do; for what is left over `onWork` is called. Only for an emulator that lets a store instruction change interrupts and memory; one that
   * holds them in a translated block does not.
   */
  readonly notify?: 'marked' | 'inline'
}

/** The register file's own state as plain data, beside `DeviceState`. */
export interface MmioState {
  readonly format: 'guestdma-mmio-1'
  readonly interruptStatus: number
  readonly selectors: readonly [deviceFeatures: number, driverFeatures: number, queue: number]
}

/**
 * The registers of a virtio-mmio device, version 2: virtio 1.4 §4.2.2.
 *
 * Control registers are 32 bits wide and aligned. A read of an aligned part gives that part, since an emulator may split
 * what its guest read in one piece; any other access reads 0 or is ignored. Configuration is read in any width inside
 * the space, and written in the width of the field only. What a driver must not do is recorded in `device.faults` and
 * never throws.
 *
 * InterruptStatus shows an event from the moment it happens; the line rises at the end of the next `device.poll`, and
 * falls when the driver acknowledged everything or reset the device.
 *
 * @throws DeviceError `DEVICE_OPTION` if the device already has a transport
 */
export class MmioRegisters implements RegisterBus {
  readonly device: VirtioDevice

  private readonly interrupts: InterruptSink | null
  private readonly vendorId: number
  private readonly inline: boolean
  private interruptStatus = 0
  // After `restore` nobody here knows how the platform restored the line: then both levels are told.
  private line: 'up' | 'down' | 'unknown' = 'down'
  private deviceFeaturesSel = 0
  private driverFeaturesSel = 0
  private queueSel = 0

  constructor(device: VirtioDevice, options: MmioOptions = {}) {
    const { interrupts, vendorId = 0x616d6467, notify = 'marked' } = options
    this.device = device
    this.interrupts = interrupts ?? null
    this.vendorId = vendorId >>> 0
    this.inline = notify === 'inline'
    const transport: DeviceTransport = {
      usedBuffers: () => {
        this.interruptStatus |= INTERRUPT_USED_BUFFER
      },
      configurationChanged: () => {
        this.interruptStatus |= INTERRUPT_CONFIGURATION
      },
      settle: () => {
        if (this.interruptStatus !== 0 && this.line !== 'up') this.drive(true)
      },
      reset: () => {
        this.interruptStatus = 0
        this.deviceFeaturesSel = this.driverFeaturesSel = this.queueSel = 0
        this.lower()
      },
    }
    device.attachTransport(transport)
  }

  read(offset: number, size: 1 | 2 | 4): number {
    if (offset >= CONTROL_BYTES) return this.readConfig(offset, size)
    if (size === 4 && (offset & 3) === 0) return this.readControl(offset, size)
    const start = offset & ~3
    if (!isPart(offset, size, start, 4)) return this.fault('width', offset, size, null)
    return partOf(this.readControl(start, size), offset - start, size)
  }

  // `size` is that of the access, for faults.
  private readControl(offset: number, size: number): number {
    const { device } = this
    switch (offset) {
      case MMIO_MAGIC_VALUE:
        return MMIO_MAGIC
      case MMIO_VERSION:
        return MMIO_MODERN_VERSION
      case MMIO_DEVICE_ID:
        return device.deviceId
      case MMIO_VENDOR_ID:
        return this.vendorId
      case MMIO_DEVICE_FEATURES:
        return device.offered.word(this.deviceFeaturesSel)
      case MMIO_QUEUE_SIZE_MAX:
        return this.queue()?.maxSize ?? 0
      case MMIO_QUEUE_READY:
        return this.queue()?.ready === true ? 1 : 0
      case MMIO_INTERRUPT_STATUS:
        return this.interruptStatus
      case MMIO_STATUS:
        return device.status
      // There are no shared memory regions: length -1, base all ones.
      case MMIO_SHM_LEN_LOW:
      case MMIO_SHM_LEN_HIGH:
      case MMIO_SHM_BASE_LOW:
      case MMIO_SHM_BASE_HIGH:
        return ALL_ONES
      case MMIO_QUEUE_RESET:
        if (!device.negotiated.has(VIRTIO_F_RING_RESET)) return this.fault('feature', offset, size, null)
        return this.resetting() ? 1 : 0
      case MMIO_CONFIG_GENERATION:
        return device.config.generation
      default:
        return this.fault(WRITE_ONLY.has(offset) ? 'write-only' : 'unknown', offset, size, null)
    }
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    value = value >>> 0
    if (offset >= CONTROL_BYTES) {
      this.writeConfig(offset, size, value)
      return
    }
    if (size !== 4 || (offset & 3) !== 0) {
      this.fault('width', offset, size, value)
      return
    }
    const reason = this.writeControl(offset, value)
    if (reason !== null) this.fault(reason, offset, size, value)
  }

  /** The register file's own state as plain data. */
  save(): MmioState {
    return {
      format: 'guestdma-mmio-1',
      interruptStatus: this.interruptStatus,
      selectors: [this.deviceFeaturesSel, this.driverFeaturesSel, this.queueSel],
    }
  }

  /**
   * Restores what `save` gave, after `device.restore`. However the platform restored the interrupt line, it is right
   * after the next poll, which `onWork` asks for; an acknowledgement before that lowers it. Throws `DEVICE_STATE` where
   * the state does not fit, and then changes nothing.
   */
  restore(state: MmioState): void {
    const check = new StateCheck(`${this.device.name} registers`)
    check.format(state, 'guestdma-mmio-1')
    const { interruptStatus, selectors } = state
    check.integer('interruptStatus', interruptStatus, (INTERRUPT_USED_BUFFER | INTERRUPT_CONFIGURATION) + 1)
    check.integers('selectors', selectors, 3, U32)
    this.interruptStatus = interruptStatus
    ;[this.deviceFeaturesSel, this.driverFeaturesSel, this.queueSel] = selectors
    this.line = 'unknown'
    this.lower()
    this.device.transportRestored()
  }

  /** For the platform: what a reset of the machine does to the registers and the device behind them. */
  reset(): void {
    this.device.systemReset()
  }

  // Returns why the write had no effect, or null.
  private writeControl(offset: number, value: number): RegisterFaultReason | null {
    const { device } = this
    switch (offset) {
      case MMIO_DEVICE_FEATURES_SEL:
        this.deviceFeaturesSel = value
        return null
      case MMIO_DRIVER_FEATURES_SEL:
        this.driverFeaturesSel = value
        return null
      case MMIO_DRIVER_FEATURES:
        return device.writeDriverFeatures(this.driverFeaturesSel, value) ? null : 'order'
      case MMIO_QUEUE_SEL:
        this.queueSel = value
        return null
      case MMIO_SHM_SEL:
        return null
      case MMIO_QUEUE_NOTIFY:
        return this.notify(value)
      case MMIO_INTERRUPT_ACK:
        this.acknowledge(value)
        return null
      case MMIO_STATUS:
        return device.writeStatus(value) ? null : 'status-bits'
      case MMIO_QUEUE_SIZE:
      case MMIO_QUEUE_DESC_LOW:
      case MMIO_QUEUE_DESC_HIGH:
      case MMIO_QUEUE_DRIVER_LOW:
      case MMIO_QUEUE_DRIVER_HIGH:
      case MMIO_QUEUE_DEVICE_LOW:
      case MMIO_QUEUE_DEVICE_HIGH:
      case MMIO_QUEUE_READY:
      case MMIO_QUEUE_RESET: {
        const queue = this.queue()
        return queue === undefined ? 'no-queue' : this.writeQueue(queue, offset, value)
      }
      default:
        return READ_ONLY.has(offset) ? 'read-only' : 'unknown'
    }
  }

  private writeQueue(queue: DeviceQueue, offset: number, value: number): RegisterFaultReason | null {
    const { device } = this
    if (device.suspended) return 'order'
    if (offset === MMIO_QUEUE_READY) {
      if ((value & 1) === 1) return device.enableQueue(queue) ? null : 'order'
      if (queue.ready) device.disableQueue(queue)
      return null
    }
    if (offset === MMIO_QUEUE_RESET) {
      if ((value & 1) === 0) return null
      return device.resetQueue(queue) ? null : 'feature'
    }
    if (queue.ready) return 'queue-ready'
    if (offset === MMIO_QUEUE_SIZE) queue.size = value
    else queue.areas[AREA_OF.get(offset) as number] = value
    return null
  }

  private notify(value: number): RegisterFaultReason | null {
    const { device } = this
    // §4.2.3.3: with NOTIFICATION_DATA the upper half says where the driver stands in the ring; the ring itself says so
    // more reliably.
    const index = device.negotiated.has(VIRTIO_F_NOTIFICATION_DATA) ? value & 0xffff : value
    const queue = device.queues[index]
    if (queue === undefined) return 'no-queue'
    return device.notify(queue, this.inline) ? null : 'order'
  }

  private acknowledge(value: number): void {
    this.interruptStatus &= ~value
    this.lower()
  }

  private lower(): void {
    if (this.interruptStatus === 0 && this.line !== 'down') this.drive(false)
  }

  private drive(level: boolean): void {
    this.line = level ? 'up' : 'down'
    tellLevel(this.interrupts, level, this.device)
  }

  private resetting(): boolean {
    const queue = this.queue()
    return queue !== undefined && this.device.resetting(queue)
  }

  private queue(): DeviceQueue | undefined {
    return this.device.queues[this.queueSel]
  }

  private readConfig(offset: number, size: 1 | 2 | 4): number {
    const { config } = this.device
    const at = offset - MMIO_CONFIG
    if (at + size > config.bytes.length) return this.fault('unknown', offset, size, null)
    if (!config.readable(at, size)) this.fault('width', offset, size, null)
    return config.read(at, size)
  }

  private writeConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    const { device } = this
    const at = offset - MMIO_CONFIG
    const reason = ((): RegisterFaultReason | null => {
      if (at + size > device.config.bytes.length) return 'unknown'
      const field = device.config.field(at, size)
      if (field === undefined) return 'width'
      if (field.writable !== true) return 'read-only'
      if (!device.configWritable) return 'order'
      return device.writeConfig(at, size, value) ? null : 'feature'
    })()
    if (reason !== null) this.fault(reason, offset, size, value)
  }

  private fault(reason: RegisterFaultReason, offset: number, size: number, value: number | null): 0 {
    this.device.faults.record({ kind: 'register', device: this.device.name, reason, offset, size, value })
    return 0
  }
}

const AREA_OF: ReadonlyMap<number, number> = new Map([
  [MMIO_QUEUE_DESC_LOW, AREA_DESC_LOW],
  [MMIO_QUEUE_DESC_HIGH, AREA_DESC_HIGH],
  [MMIO_QUEUE_DRIVER_LOW, AREA_DRIVER_LOW],
  [MMIO_QUEUE_DRIVER_HIGH, AREA_DRIVER_HIGH],
  [MMIO_QUEUE_DEVICE_LOW, AREA_DEVICE_LOW],
  [MMIO_QUEUE_DEVICE_HIGH, AREA_DEVICE_HIGH],
])

const WRITE_ONLY: ReadonlySet<number> = new Set([
  MMIO_DEVICE_FEATURES_SEL,
  MMIO_DRIVER_FEATURES,
  MMIO_DRIVER_FEATURES_SEL,
  MMIO_QUEUE_SEL,
  MMIO_QUEUE_SIZE,
  MMIO_QUEUE_NOTIFY,
  MMIO_INTERRUPT_ACK,
  MMIO_SHM_SEL,
  ...AREA_OF.keys(),
])

const READ_ONLY: ReadonlySet<number> = new Set([
  MMIO_MAGIC_VALUE,
  MMIO_VERSION,
  MMIO_DEVICE_ID,
  MMIO_VENDOR_ID,
  MMIO_DEVICE_FEATURES,
  MMIO_QUEUE_SIZE_MAX,
  MMIO_INTERRUPT_STATUS,
  MMIO_CONFIG_GENERATION,
  MMIO_SHM_LEN_LOW,
  MMIO_SHM_LEN_HIGH,
  MMIO_SHM_BASE_LOW,
  MMIO_SHM_BASE_HIGH,
])
