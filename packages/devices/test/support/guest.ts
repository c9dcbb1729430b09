// A guest made by hand: it writes registers, descriptors and rings field by field, as virtio 1.4 describes them, and
// shares no code with the device beyond the constants. Its memory begins at another place in the buffer than in its
// address space.
import { GuestMemory, type InterruptSink, type RegisterBus } from '@guestdma/memory'
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
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
  MMIO_QUEUE_RESET,
  MMIO_QUEUE_SEL,
  MMIO_QUEUE_SIZE,
  MMIO_STATUS,
  STATUS_ACKNOWLEDGE,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FEATURES_OK,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'

export const BASE = 0x8000_0000
export const OFFSET = 0x2_0000
export const RAM_BYTES = 0x10_0000

/**
 * RAM at BASE, in the middle of a larger buffer; `bytes` and `view` are indexed by guest address through `at`. `hook`
 * runs after each report of a device's write; over a `WebAssembly.Memory` it may grow that.
 */
export class Ram {
  readonly memory: GuestMemory
  /** What onDeviceWrite reported, as [address, length]. */
  readonly writes: [number, number][] = []
  hook: (() => void) | null = null
  readonly wasm: WebAssembly.Memory | null
  private held: Uint8Array<ArrayBuffer>
  private free: number

  constructor(length: number = RAM_BYTES, wasm = false) {
    const bytes = OFFSET + length + 0x1_0000
    this.wasm = wasm ? new WebAssembly.Memory({ initial: bytes / 65536 }) : null
    const source = this.wasm ?? new ArrayBuffer(bytes)
    this.memory = new GuestMemory([{ base: BASE, length, memory: source, offset: OFFSET }], {
      onDeviceWrite: (address, count) => {
        this.writes.push([address, count])
        this.hook?.()
      },
    })
    this.held = new Uint8Array((this.wasm?.buffer ?? source) as ArrayBuffer)
    this.free = BASE
  }

  get bytes(): Uint8Array<ArrayBuffer> {
    if (this.wasm !== null && this.held.length === 0) {
      this.held = new Uint8Array(this.wasm.buffer as ArrayBuffer)
    }
    return this.held
  }

  get buffer(): ArrayBuffer {
    return this.bytes.buffer
  }

  get view(): DataView {
    return new DataView(this.buffer)
  }

  at(address: number): number {
    return address - BASE + OFFSET
  }

  /** Fresh memory. */
  alloc(length: number, align = 16): number {
    this.free = Math.ceil(this.free / align) * align
    const address = this.free
    this.free += length
    return address
  }

  /** Fresh memory with these bytes. */
  put(bytes: ArrayLike<number>, align = 16): number {
    const address = this.alloc(bytes.length, align)
    this.bytes.set(bytes, this.at(address))
    return address
  }

  get(address: number, length: number): Uint8Array<ArrayBuffer> {
    return this.bytes.slice(this.at(address), this.at(address) + length)
  }

  u16(address: number): number {
    return this.view.getUint16(this.at(address), true)
  }

  u32(address: number): number {
    return this.view.getUint32(this.at(address), true)
  }

  set16(address: number, value: number): void {
    this.view.setUint16(this.at(address), value, true)
  }

  set32(address: number, value: number): void {
    this.view.setUint32(this.at(address), value, true)
  }

  set64(address: number, value: number): void {
    this.set32(address, value % 2 ** 32)
    this.set32(address + 4, Math.floor(value / 2 ** 32))
  }
}

/** One element of a chain: `w` for device-writable. */
export interface Element {
  readonly address: number
  readonly length: number
  readonly w?: boolean
}

export interface Used {
  readonly id: number
  readonly length: number
}

/** Where a ring lies, and how many entries it has. */
export interface RingPlace {
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
}

/** The driver's side of a split ring, naive and explicit: virtio 1.4 §2.7. */
export class Ring {
  readonly ram: Ram
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
  index = 0
  seen = 0
  private nextDescriptor = 0

  constructor(ram: Ram, size: number) {
    this.ram = ram
    this.size = size
    this.desc = ram.alloc(16 * size, 16)
    this.avail = ram.alloc(6 + 2 * size, 2)
    this.used = ram.alloc(6 + 8 * size, 4)
  }

  /** Writes descriptor `index` of a table. */
  describe(
    index: number,
    address: number,
    length: number,
    flags: number,
    next: number,
    table: number = this.desc,
  ): void {
    const at = table + 16 * index
    this.ram.set64(at, address)
    this.ram.set32(at + 8, length)
    this.ram.set16(at + 12, flags)
    this.ram.set16(at + 14, next)
  }

  /** Fills descriptors from the next free one on and returns the head. */
  chain(...elements: readonly Element[]): number {
    const head = this.nextDescriptor % this.size
    elements.forEach(({ address, length, w }, i) => {
      const last = i === elements.length - 1
      const index = this.nextDescriptor++ % this.size
      const flags = (w === true ? DESCRIPTOR_F_WRITE : 0) | (last ? 0 : DESCRIPTOR_F_NEXT)
      this.describe(index, address, length, flags, last ? 0 : (index + 1) % this.size)
    })
    return head
  }

  /** An indirect table with these elements; returns its address. */
  table(elements: readonly Element[], align = 16): number {
    const table = this.ram.alloc(16 * elements.length, align)
    elements.forEach(({ address, length, w }, i) => {
      const last = i === elements.length - 1
      const flags = (w === true ? DESCRIPTOR_F_WRITE : 0) | (last ? 0 : DESCRIPTOR_F_NEXT)
      this.describe(i, address, length, flags, last ? 0 : i + 1, table)
    })
    return table
  }

  /** Direct elements and then an indirect table, as one chain; returns the head. */
  indirect(direct: readonly Element[], inTable: readonly Element[], flags = DESCRIPTOR_F_INDIRECT): number {
    const table = this.table(inTable)
    const head = this.nextDescriptor % this.size
    for (const { address, length, w } of direct) {
      const index = this.nextDescriptor++ % this.size
      this.describe(
        index,
        address,
        length,
        (w === true ? DESCRIPTOR_F_WRITE : 0) | DESCRIPTOR_F_NEXT,
        (index + 1) % this.size,
      )
    }
    this.describe(this.nextDescriptor++ % this.size, table, 16 * inTable.length, flags, 0)
    return head
  }

  /** Puts heads into the available ring and moves its index. */
  offer(...heads: readonly number[]): void {
    for (const head of heads) {
      this.ram.set16(this.avail + 4 + 2 * (this.index % this.size), head)
      this.index = (this.index + 1) & 0xffff
    }
    this.ram.set16(this.avail + 2, this.index)
  }

  get usedIndex(): number {
    return this.ram.u16(this.used + 2)
  }

  get availEvent(): number {
    return this.ram.u16(this.used + 4 + 8 * this.size)
  }

  set usedEvent(value: number) {
    this.ram.set16(this.avail + 4 + 2 * this.size, value)
  }

  set flags(value: number) {
    this.ram.set16(this.avail, value)
  }

  usedAt(index: number): Used {
    const at = this.used + 4 + 8 * (index % this.size)
    return { id: this.ram.u32(at), length: this.ram.u32(at + 4) }
  }

  /** What became used since the last call. */
  reap(): Used[] {
    const all: Used[] = []
    for (; this.seen !== this.usedIndex; this.seen = (this.seen + 1) & 0xffff) all.push(this.usedAt(this.seen))
    return all
  }
}

/** An interrupt line that remembers its edges. */
export class Line implements InterruptSink {
  asserted = false
  rises = 0

  level(asserted: boolean): void {
    if (asserted && !this.asserted) this.rises++
    this.asserted = asserted
  }
}

/** A driver's side of a device, whatever the transport: virtio 1.4 §3.1. */
export abstract class GuestDriver {
  abstract get status(): number
  abstract set status(value: number)
  /** 32 of the device's feature bits. */
  abstract deviceFeatures(word: number): number
  abstract driverFeatures(word: number, value: number): void
  /** Sets a queue's registers without making it ready. */
  abstract setQueue(index: number, ring: RingPlace, size?: number): void
  abstract enableQueue(index: number): void
  abstract queueReady(index: number): boolean
  abstract resetQueue(index: number): void
  /** Whether a reset of the queue is still under way. */
  abstract queueReset(index: number): boolean
  abstract kick(queue: number): void
  abstract config(offset: number, size: 1 | 2 | 4): number
  abstract setConfig(offset: number, size: 1 | 2 | 4, value: number): void
  abstract get generation(): number
  /** Whether the device wants an interrupt; leaves it so. */
  abstract get interrupting(): boolean
  /** Takes the causes of the interrupt, used buffers (1) and configuration (2), and ends it. */
  abstract acknowledge(): number

  offered(bit: number): boolean {
    return ((this.deviceFeatures(bit >>> 5) >>> (bit & 31)) & 1) === 1
  }

  /** Reset up to FEATURES_OK; returns whether the device accepted. */
  negotiate(...features: readonly number[]): boolean {
    this.status = 0
    this.status = STATUS_ACKNOWLEDGE
    this.status = STATUS_ACKNOWLEDGE | STATUS_DRIVER
    for (let word = 0; word < 4; word++) {
      let value = 0
      for (const bit of features) if (bit >>> 5 === word) value |= 1 << (bit & 31)
      this.driverFeatures(word, value >>> 0)
    }
    this.status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK
    return (this.status & STATUS_FEATURES_OK) !== 0
  }

  queue(index: number, ring: RingPlace): void {
    this.setQueue(index, ring)
    this.enableQueue(index)
  }

  driverOk(): void {
    this.status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK
  }

  /** The whole initialisation of a device with these rings. */
  start(rings: readonly RingPlace[], ...features: readonly number[]): void {
    if (!this.negotiate(VIRTIO_F_VERSION_1, ...features)) throw new Error('the device refused the features')
    rings.forEach((ring, i) => {
      this.queue(i, ring)
    })
    this.driverOk()
  }
}

/** Over mmio: register accesses of 32 bits. */
export class Driver extends GuestDriver {
  readonly bus: RegisterBus

  constructor(bus: RegisterBus) {
    super()
    this.bus = bus
  }

  r(offset: number): number {
    return this.bus.read(offset, 4)
  }

  w(offset: number, value: number): void {
    this.bus.write(offset, 4, value)
  }

  get status(): number {
    return this.r(MMIO_STATUS)
  }

  set status(value: number) {
    this.w(MMIO_STATUS, value)
  }

  deviceFeatures(word: number): number {
    this.w(MMIO_DEVICE_FEATURES_SEL, word)
    return this.r(MMIO_DEVICE_FEATURES)
  }

  driverFeatures(word: number, value: number): void {
    this.w(MMIO_DRIVER_FEATURES_SEL, word)
    this.w(MMIO_DRIVER_FEATURES, value)
  }

  setQueue(index: number, ring: RingPlace, size: number = ring.size): void {
    this.w(MMIO_QUEUE_SEL, index)
    this.w(MMIO_QUEUE_SIZE, size)
    this.setAddress(MMIO_QUEUE_DESC_LOW, MMIO_QUEUE_DESC_HIGH, ring.desc)
    this.setAddress(MMIO_QUEUE_DRIVER_LOW, MMIO_QUEUE_DRIVER_HIGH, ring.avail)
    this.setAddress(MMIO_QUEUE_DEVICE_LOW, MMIO_QUEUE_DEVICE_HIGH, ring.used)
  }

  enableQueue(index: number): void {
    this.w(MMIO_QUEUE_SEL, index)
    this.w(MMIO_QUEUE_READY, 1)
  }

  queueReady(index: number): boolean {
    this.w(MMIO_QUEUE_SEL, index)
    return this.r(MMIO_QUEUE_READY) === 1
  }

  resetQueue(index: number): void {
    this.w(MMIO_QUEUE_SEL, index)
    this.w(MMIO_QUEUE_RESET, 1)
  }

  queueReset(index: number): boolean {
    this.w(MMIO_QUEUE_SEL, index)
    return this.r(MMIO_QUEUE_RESET) === 1
  }

  kick(queue: number): void {
    this.w(MMIO_QUEUE_NOTIFY, queue)
  }

  config(offset: number, size: 1 | 2 | 4): number {
    return this.bus.read(MMIO_CONFIG + offset, size)
  }

  setConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    this.bus.write(MMIO_CONFIG + offset, size, value)
  }

  get generation(): number {
    return this.r(MMIO_CONFIG_GENERATION)
  }

  get interrupting(): boolean {
    return this.r(MMIO_INTERRUPT_STATUS) !== 0
  }

  acknowledge(): number {
    const causes = this.r(MMIO_INTERRUPT_STATUS)
    this.w(MMIO_INTERRUPT_ACK, causes)
    return causes
  }

  private setAddress(low: number, high: number, address: number): void {
    this.w(low, address % 2 ** 32)
    this.w(high, Math.floor(address / 2 ** 32))
  }
}

export function pattern(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + seed * 17 + 7) & 0xff)
}
