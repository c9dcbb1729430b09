// A virtio-mmio device made by hand, which does exactly what a test tells it, right or wrong; pci.ts presents it as a
// PCI function as well. It shares no code with the drivers beyond the constants: its view of the rings is virtio 1.4
// §2.7 read with a DataView.
import type { GuestMemory, RegisterBus } from '@guestdma/memory'
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  FeatureSet,
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
  MMIO_VERSION,
  STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_F_EVENT_IDX,
} from '@guestdma/spec'

interface Segment {
  readonly address: number
  readonly length: number
  readonly writable: boolean
}

export interface Chain {
  readonly head: number
  readonly segments: readonly Segment[]
}

interface QueueRegisters {
  size: number
  ready: number
  descriptor: number
  driver: number
  device: number
  /** Where the device is in the available ring, and in the used ring. */
  taken: number
  used: number
}

export interface Access {
  readonly kind: 'r' | 'w'
  readonly offset: number
  readonly size: number
  readonly value: number
}

export interface DeviceOptions {
  readonly deviceId: number
  readonly features?: readonly number[]
  readonly queueMax?: number | readonly number[]
  readonly config?: Uint8Array
  readonly onNotify?: (queue: number) => void
}

const queueRegisters = (): QueueRegisters => ({
  size: 0,
  ready: 0,
  descriptor: 0,
  driver: 0,
  device: 0,
  taken: 0,
  used: 0,
})

export class HandDevice implements RegisterBus {
  readonly memory: GuestMemory
  readonly deviceId: number
  readonly config: Uint8Array
  readonly log: Access[] = []
  readonly notified: number[] = []
  readonly queues: QueueRegisters[] = [queueRegisters(), queueRegisters()]
  status = 0
  interrupts = 0
  generation = 0
  /** Each read of ConfigGeneration changes it. */
  restless = false
  /** The other end is gone: every access fails, as with a socket that closed. */
  lost = false
  /** A reset is never finished. */
  stuck = false
  resets = 0
  onNotify: ((queue: number) => void) | null
  /** What becomes of a status that is written, where it is not taken as it is. */
  onStatus: ((value: number) => number) | null = null
  private readonly queueMax: readonly number[]
  private readonly offered: FeatureSet
  private readonly words = [0, 0, 0, 0]
  private deviceSel = 0
  private driverSel = 0
  private queueSel = 0

  constructor(
    memory: GuestMemory,
    { deviceId, features = [], queueMax = 256, config = new Uint8Array(64), onNotify }: DeviceOptions,
  ) {
    this.memory = memory
    this.deviceId = deviceId
    this.queueMax = typeof queueMax === 'number' ? [queueMax, queueMax] : queueMax
    this.offered = FeatureSet.of(32, ...features)
    this.config = config
    this.onNotify = onNotify ?? null
  }

  get accepted(): FeatureSet {
    return FeatureSet.fromWords(this.words)
  }

  read(offset: number, size: 1 | 2 | 4): number {
    if (this.lost) throw new Error('the socket closed')
    const value = this.value(offset, size)
    this.log.push({ kind: 'r', offset, size, value })
    return value
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    if (this.lost) throw new Error('the socket closed')
    this.log.push({ kind: 'w', offset, size, value })
    const queue = this.queues[this.queueSel] ?? queueRegisters()
    const low = (old: number): number => Math.floor(old / 2 ** 32) * 2 ** 32 + value
    const high = (old: number): number => value * 2 ** 32 + (old % 2 ** 32)
    if (offset === MMIO_DEVICE_FEATURES_SEL) this.deviceSel = value
    else if (offset === MMIO_DRIVER_FEATURES_SEL) this.driverSel = value
    else if (offset === MMIO_DRIVER_FEATURES) this.words[this.driverSel] = value
    else if (offset === MMIO_QUEUE_SEL) this.queueSel = value
    else if (offset === MMIO_QUEUE_SIZE) queue.size = value
    else if (offset === MMIO_QUEUE_READY) queue.ready = value
    else if (offset === MMIO_QUEUE_DESC_LOW) queue.descriptor = low(queue.descriptor)
    else if (offset === MMIO_QUEUE_DESC_HIGH) queue.descriptor = high(queue.descriptor)
    else if (offset === MMIO_QUEUE_DRIVER_LOW) queue.driver = low(queue.driver)
    else if (offset === MMIO_QUEUE_DRIVER_HIGH) queue.driver = high(queue.driver)
    else if (offset === MMIO_QUEUE_DEVICE_LOW) queue.device = low(queue.device)
    else if (offset === MMIO_QUEUE_DEVICE_HIGH) queue.device = high(queue.device)
    else if (offset === MMIO_INTERRUPT_ACK) this.interrupts &= ~value
    else if (offset === MMIO_QUEUE_NOTIFY) {
      this.notified.push(value)
      this.onNotify?.(value & 0xffff)
    } else if (offset === MMIO_STATUS && value === 0) this.reset()
    else if (offset === MMIO_STATUS) this.status = this.onStatus?.(value) ?? value
  }

  reset(): void {
    this.resets++
    if (this.stuck) return
    this.status = 0
    this.interrupts = 0
    this.words.fill(0)
    for (let i = 0; i < this.queues.length; i++) this.queues[i] = queueRegisters()
  }

  /** Sets DEVICE_NEEDS_RESET and interrupts for it. */
  fail(): void {
    this.status |= STATUS_DEVICE_NEEDS_RESET
    this.interrupts |= 2
  }

  view(address: number, length: number): DataView {
    const { region, offset } = this.memory.window(address as never, length)
    region.refresh()
    return new DataView(region.source as ArrayBuffer, offset, length)
  }

  bytes(address: number, length: number): Uint8Array {
    const view = this.view(address, length)
    return new Uint8Array(view.buffer, view.byteOffset, length)
  }

  /** The chains that were made available since the last call, at most `most`. */
  take(index: number, most = Infinity): Chain[] {
    const queue = this.queues[index]
    const driver = this.view(queue.driver, 6 + 2 * queue.size)
    const available = driver.getUint16(2, true)
    const chains: Chain[] = []
    while (queue.taken !== available && chains.length < most) {
      chains.push(this.chain(queue, driver.getUint16(4 + 2 * (queue.taken % queue.size), true)))
      queue.taken = (queue.taken + 1) & 0xffff
    }
    // With EVENT_IDX: notify me of the next one.
    if (this.accepted.has(VIRTIO_F_EVENT_IDX))
      this.view(queue.device, 6 + 8 * queue.size).setUint16(4 + 8 * queue.size, queue.taken, true)
    return chains
  }

  /** Puts one element into the used ring and moves the index. */
  use(index: number, id: number, length: number): void {
    const queue = this.queues[index]
    const device = this.view(queue.device, 6 + 8 * queue.size)
    device.setUint32(4 + 8 * (queue.used % queue.size), id, true)
    device.setUint32(8 + 8 * (queue.used % queue.size), length, true)
    queue.used = (queue.used + 1) & 0xffff
    device.setUint16(2, queue.used, true)
    this.interrupts |= 1
  }

  /** Moves the used index without anything to show for it. */
  jump(index: number, by: number): void {
    const queue = this.queues[index]
    queue.used = (queue.used + by) & 0xffff
    this.view(queue.device, 6).setUint16(2, queue.used, true)
  }

  /** Writes over the device-writable segments of a chain, in order. */
  scatter(chain: Chain, data: Uint8Array): void {
    let at = 0
    for (const { address, length, writable } of chain.segments) {
      if (!writable) continue
      const piece = data.subarray(at, at + length)
      this.bytes(address, length).set(piece)
      at += piece.length
    }
  }

  /** The bytes of the device-readable segments of a chain. */
  gather(chain: Chain): Uint8Array {
    const readable = chain.segments.filter(({ writable }) => !writable)
    const bytes = new Uint8Array(readable.reduce((sum, { length }) => sum + length, 0))
    let at = 0
    for (const { address, length } of readable) {
      bytes.set(this.bytes(address, length), at)
      at += length
    }
    return bytes
  }

  private chain(queue: QueueRegisters, head: number): Chain {
    const segments: Segment[] = []
    const walk = (table: number, first: number, most: number): void => {
      for (let i = first, n = 0; n < most; n++) {
        const d = this.view(table + 16 * i, 16)
        const address = d.getUint32(0, true) + 2 ** 32 * d.getUint32(4, true)
        const length = d.getUint32(8, true)
        const flags = d.getUint16(12, true)
        if ((flags & DESCRIPTOR_F_INDIRECT) !== 0) walk(address, 0, length / 16)
        else segments.push({ address, length, writable: (flags & DESCRIPTOR_F_WRITE) !== 0 })
        if ((flags & DESCRIPTOR_F_NEXT) === 0) return
        i = d.getUint16(14, true)
      }
    }
    walk(queue.descriptor, head, queue.size)
    return { head, segments }
  }

  private value(offset: number, size: 1 | 2 | 4): number {
    switch (offset) {
      case MMIO_MAGIC_VALUE:
        return MMIO_MAGIC
      case MMIO_VERSION:
        return 2
      case MMIO_DEVICE_ID:
        return this.deviceId
      case MMIO_DEVICE_FEATURES:
        return this.offered.word(this.deviceSel)
      // Over PCI it can be read back.
      case MMIO_DRIVER_FEATURES:
        return this.words[this.driverSel]
      case MMIO_QUEUE_SIZE_MAX:
        return this.queueMax[this.queueSel] ?? 0
      case MMIO_QUEUE_READY:
        return this.queues[this.queueSel]?.ready ?? 0
      case MMIO_INTERRUPT_STATUS:
        return this.interrupts
      case MMIO_STATUS:
        return this.status
      case MMIO_CONFIG_GENERATION:
        return this.restless ? this.generation++ : this.generation
      default: {
        if (offset < MMIO_CONFIG) return 0
        const view = new DataView(this.config.buffer)
        const at = offset - MMIO_CONFIG
        return size === 1 ? view.getUint8(at) : size === 2 ? view.getUint16(at, true) : view.getUint32(at, true)
      }
    }
  }
}
