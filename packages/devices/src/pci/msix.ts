import { ACCESS_WRITE, ADDRESS_HIGH_LIMIT, type BusPort, type RegisterBus } from '@guestdma/memory'
import {
  MSIX_ENTRY_ADDRESS_LOW,
  MSIX_ENTRY_BYTES,
  MSIX_ENTRY_CONTROL,
  MSIX_ENTRY_MASKED,
  VIRTIO_MSI_NO_VECTOR,
} from '@guestdma/spec'
import { isPart, partOf } from '../device/access-width.ts'
import type { VirtioDevice } from '../device/virtio-device.ts'
import { pciFault } from './fault.ts'

// Words of a table entry.
const WORDS = MSIX_ENTRY_BYTES / 4
const ADDRESS_LOW = 0
const ADDRESS_HIGH = 1
const DATA = 2
const CONTROL = 3
/** The table is alone in its pages, so that a driver can map it apart. */
const PAGE = 4096

/**
 * The MSI-X side of a function: the vectors that events are mapped to (virtio 1.4 §4.1.5.1.2), the table and the
 * pending bits behind their BAR (PCI 3.0 §6.8.2), and the messages.
 *
 * A message is a DMA write of the device. One that its port refuses is lost; the port keeps the fault.
 */
export class PciMsix implements RegisterBus {
  /** Entries of the table; 0 where there is no capability. */
  declare readonly vectors: number
  /** Where in the BAR the pending bits begin. The table begins at 0. */
  declare readonly pendingOffset: number
  /** Bytes of the BAR that are in use. */
  declare readonly bytes: number
  declare readonly table: Uint32Array
  declare readonly pending: Uint32Array
  /** The vector of each queue and, last, of configuration changes. NO_VECTOR where there is none. */
  declare readonly mapping: Uint16Array
  declare private readonly device: VirtioDevice
  declare private readonly bar: number
  declare private readonly written: () => void

  /** `written` is called when a mask may have changed. */
  constructor(device: VirtioDevice, vectors: number, bar: number, written: () => void) {
    this.device = device
    this.bar = bar
    this.written = written
    this.vectors = vectors
    this.table = new Uint32Array(vectors * WORDS)
    this.clearTable()
    // Pending bits come in 64-bit words.
    this.pending = new Uint32Array(2 * Math.ceil(vectors / 64))
    this.pendingOffset = Math.ceil((vectors * MSIX_ENTRY_BYTES) / PAGE) * PAGE
    this.bytes = this.pendingOffset + 4 * this.pending.length
    this.mapping = new Uint16Array(device.queues.length + 1).fill(VIRTIO_MSI_NO_VECTOR)
  }

  /**
   * Maps an event to a vector. False, and the event is unmapped, where there is no such vector. A message that the event
   * asked for, and that its old vector does not owe to another event too, goes out by the new vector or not at all
   * (virtio 1.4 §4.1.5.3, §4.1.5.4).
   */
  map(event: number, vector: number): boolean {
    const exists = vector < this.vectors
    const old = this.mapping[event]
    this.mapping[event] = exists ? vector : VIRTIO_MSI_NO_VECTOR
    if (old !== VIRTIO_MSI_NO_VECTOR && !this.mapping.includes(old) && this.isPending(old)) {
      this.pending[old >>> 5] &= ~(1 << (old & 31))
      this.request(event)
    }
    return exists || vector === VIRTIO_MSI_NO_VECTOR
  }

  /** An event wants its message. Unmapped, it gets none (virtio 1.4 §4.1.5.3, §4.1.5.4). */
  request(event: number): void {
    const vector = this.mapping[event]
    if (vector !== VIRTIO_MSI_NO_VECTOR) this.pending[vector >>> 5] |= 1 << (vector & 31)
  }

  /** The device was reset: all events are unmapped, nothing is pending. The table is PCI's and stays. */
  reset(): void {
    this.mapping.fill(VIRTIO_MSI_NO_VECTOR)
    this.pending.fill(0)
  }

  /** PCI was reset: all entries are masked (PCI 3.0 §6.8.2.9). */
  clearTable(): void {
    this.table.fill(0)
    for (let vector = 0; vector < this.vectors; vector++) this.table[vector * WORDS + CONTROL] = MSIX_ENTRY_MASKED
  }

  /** Is there a message for {@link deliver} to send? */
  get ready(): boolean {
    const { pending, table, vectors } = this
    for (let word = 0; word < pending.length; word++) {
      if (pending[word] === 0) continue
      for (let vector = 32 * word; vector < vectors && vector < 32 * (word + 1); vector++) {
        if (this.isPending(vector) && (table[vector * WORDS + CONTROL] & MSIX_ENTRY_MASKED) === 0) return true
      }
    }
    return false
  }

  /** Sends the pending messages whose entry is not masked. */
  deliver(port: BusPort): void {
    const { pending, table } = this
    for (let word = 0; word < pending.length; word++) {
      if (pending[word] === 0) continue
      // Nobody else refreshed the port if the device is not live.
      port.refresh()
      for (let vector = 32 * word; vector < this.vectors && vector < 32 * (word + 1); vector++) {
        const bit = vector & 31
        if ((pending[word] & (1 << bit)) === 0 || (table[vector * WORDS + CONTROL] & MSIX_ENTRY_MASKED) !== 0) continue
        // Before the message: whoever takes it may reset the device.
        pending[word] &= ~(1 << bit)
        this.send(port, vector * WORDS)
      }
    }
  }

  read(offset: number, size: 1 | 2 | 4): number {
    const array = this.arrayAt(offset)
    if (array === null) return pciFault(this.device, 'unknown', this.bar, offset, size, null)
    const into = offset & 3
    if (!isPart(into, size, 0, 4)) return pciFault(this.device, 'width', this.bar, offset, size, null)
    return partOf(array[(array === this.table ? offset : offset - this.pendingOffset) >>> 2], into, size)
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    const array = this.arrayAt(offset)
    if (array === null) pciFault(this.device, 'unknown', this.bar, offset, size, value)
    else if (size !== 4 || (offset & 3) !== 0) pciFault(this.device, 'width', this.bar, offset, size, value)
    else if (array === this.pending) pciFault(this.device, 'read-only', this.bar, offset, size, value)
    else {
      this.table[offset >>> 2] = tableValue(offset, value)
      this.written()
    }
  }

  private isPending(vector: number): boolean {
    return (this.pending[vector >>> 5] & (1 << (vector & 31))) !== 0
  }

  private arrayAt(offset: number): Uint32Array | null {
    if (offset < this.table.byteLength) return this.table
    return offset >= this.pendingOffset && offset < this.bytes ? this.pending : null
  }

  private send(port: BusPort, entry: number): void {
    const { table } = this
    const high = table[entry + ADDRESS_HIGH]
    const low = table[entry + ADDRESS_LOW]
    const data = table[entry + DATA]
    if (high >= ADDRESS_HIGH_LIMIT) {
      port.outOfReach?.(high, low, 4, ACCESS_WRITE)
      return
    }
    port.request[0] = high * 0x1_0000_0000 + low
    if (port.message?.(data) === true) return
    // In one piece but where a window of the port ends inside the word.
    for (let done = 0; done < 4; ) {
      port.request[0] = high * 0x1_0000_0000 + low + done
      const granted = port.resolve(4 - done, ACCESS_WRITE)
      if (granted === 0) return
      const { region, offset } = port
      if (granted === 4) region.view.setUint32(offset, data, true)
      else for (let i = 0; i < granted; i++) region.u8[offset + i] = data >>> (8 * (done + i))
      if (region.meter !== null) region.meter.store(granted === 4 ? 4 : 1, granted === 4 ? 1 : granted)
      if (region.onDeviceWrite !== null) region.onDeviceWrite(offset, granted)
      done += granted
    }
  }
}

/** What a table word becomes when `value` is written to it: PCI 3.0 §6.8.2.7 to §6.8.2.9. */
export function tableValue(offset: number, value: number): number {
  const field = offset % MSIX_ENTRY_BYTES
  if (field === MSIX_ENTRY_CONTROL) return value & MSIX_ENTRY_MASKED
  return field === MSIX_ENTRY_ADDRESS_LOW ? (value & ~3) >>> 0 : value
}
