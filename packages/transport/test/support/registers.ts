import type { RegisterBus } from '@guestdma/memory'
import {
  FeatureSet,
  MMIO_CONFIG,
  MMIO_CONFIG_GENERATION,
  MMIO_DEVICE_FEATURES,
  MMIO_DEVICE_FEATURES_SEL,
  MMIO_DEVICE_ID,
  MMIO_DRIVER_FEATURES,
  MMIO_DRIVER_FEATURES_SEL,
  MMIO_INTERRUPT_STATUS,
  MMIO_MAGIC,
  MMIO_MAGIC_VALUE,
  MMIO_QUEUE_READY,
  MMIO_QUEUE_RESET,
  MMIO_QUEUE_SIZE_MAX,
  MMIO_STATUS,
  MMIO_VERSION,
  STATUS_FEATURES_OK,
} from '@guestdma/spec'

export interface Access {
  readonly kind: 'r' | 'w'
  readonly offset: number
  readonly size: number
  readonly value: number
}

export interface RegistersOptions {
  readonly magic?: number
  readonly version?: number
  readonly deviceId?: number
  /** What is offered, by how often the device was reset before (0: never). */
  offered?(resets: number): FeatureSet
  /** Does the device set FEATURES_OK for this choice? */
  accepts?(features: FeatureSet): boolean
  /** What Status reads while a reset goes on: called per read after a reset, until it returns 0. */
  resetting?(reads: number): number
  /** QueueSizeMax, by how often it was read. */
  queueMax?(reads: number): number
  queueReady?: number
  /** ConfigGeneration, by how often it was read. */
  generation?(reads: number): number
  /** QueueReset, by how often it was read since it was written. */
  queueReset?(reads: number): number
  interrupts?: number
  /** Status bits that the device sets by itself once the driver has written `after`. */
  raises?: { readonly status: number; readonly after: number }
  /** What a selector of feature words is taken for. QEMU's virtio-mmio takes every selector but 0 for 1. */
  selector?(written: number): number
  /** DriverFeatures as read back (PCI only), by word. */
  held?(word: number): number
}

/** A register file that does as it is told, sensible or not, and remembers every access. */
export class Registers implements RegisterBus {
  readonly log: Access[] = []
  readonly config = new Uint8Array(64)
  status = 0
  resets = 0
  private readonly options: RegistersOptions
  private readonly words = [0, 0, 0, 0]
  private deviceSel = -1
  private driverSel = -1
  private resetReads = -1
  private maxReads = 0
  private generationReads = 0
  private queueResetReads = 0

  constructor(options: RegistersOptions = {}) {
    this.options = options
  }

  /** What the driver wrote into DriverFeatures. */
  get written(): FeatureSet {
    return FeatureSet.fromWords(this.words)
  }

  get offered(): FeatureSet {
    return this.options.offered?.(this.resets) ?? FeatureSet.of(32)
  }

  /** The values that were written to one register, in order. */
  writes(offset: number): number[] {
    return this.log.filter((a) => a.kind === 'w' && a.offset === offset).map((a) => a.value)
  }

  /** Accesses in short, `w070=3` and `r070`, for comparison in order. */
  short(from = 0): string[] {
    return this.log.slice(from).map(({ kind, offset, value }) => {
      const at = offset.toString(16).padStart(3, '0')
      return kind === 'w' ? `w${at}=${value.toString(16)}` : `r${at}`
    })
  }

  read(offset: number, size: 1 | 2 | 4): number {
    const value = this.value(offset, size)
    this.log.push({ kind: 'r', offset, size, value })
    return value
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    this.log.push({ kind: 'w', offset, size, value })
    const { options } = this
    if (offset === MMIO_DEVICE_FEATURES_SEL) this.deviceSel = options.selector?.(value) ?? value
    else if (offset === MMIO_DRIVER_FEATURES_SEL) this.driverSel = options.selector?.(value) ?? value
    else if (offset === MMIO_DRIVER_FEATURES) this.words[this.driverSel] = value
    else if (offset === MMIO_QUEUE_RESET) this.queueResetReads = 0
    else if (offset === MMIO_STATUS && value === 0) {
      this.status = 0
      this.resets++
      this.resetReads = 0
      this.words.fill(0)
    } else if (offset === MMIO_STATUS) {
      const fresh = value & ~this.status
      const refused = (fresh & STATUS_FEATURES_OK) !== 0 && options.accepts?.(this.written) === false
      // As a device that keeps what is written; one that ORs would hide a driver that clears bits.
      this.status = refused ? value & ~STATUS_FEATURES_OK : value
      if (value === options.raises?.after) this.status |= options.raises.status
    }
  }

  private value(offset: number, size: 1 | 2 | 4): number {
    const { options } = this
    switch (offset) {
      case MMIO_MAGIC_VALUE:
        return options.magic ?? MMIO_MAGIC
      case MMIO_VERSION:
        return options.version ?? 2
      case MMIO_DEVICE_ID:
        return options.deviceId ?? 1
      case MMIO_DEVICE_FEATURES:
        return this.offered.word(this.deviceSel)
      case MMIO_DRIVER_FEATURES:
        return options.held?.(this.driverSel) ?? this.words[this.driverSel]
      case MMIO_QUEUE_SIZE_MAX:
        return options.queueMax?.(this.maxReads++) ?? 256
      case MMIO_QUEUE_READY:
        return options.queueReady ?? 0
      case MMIO_QUEUE_RESET:
        return options.queueReset?.(this.queueResetReads++) ?? 0
      case MMIO_INTERRUPT_STATUS:
        return options.interrupts ?? 0
      case MMIO_CONFIG_GENERATION:
        return options.generation?.(this.generationReads++) ?? 0
      case MMIO_STATUS: {
        if (this.resetReads < 0 || options.resetting === undefined) return this.status
        const value = options.resetting(this.resetReads++)
        if ((value & 0xff) === 0) this.resetReads = -1
        return value
      }
      default:
        return offset < MMIO_CONFIG
          ? 0
          : new DataView(this.config.buffer)[size === 1 ? 'getUint8' : size === 2 ? 'getUint16' : 'getUint32'](
              offset - MMIO_CONFIG,
              true,
            )
    }
  }
}
