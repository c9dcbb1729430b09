import { type BusPort, FaultLog, type GuestMemory, hex, type InterruptSink, Region } from '@guestdma/memory'
import type { AccessFault, AccessFaultReason } from '../faults/access-fault.ts'
import { DeviceError } from '../faults/errors.ts'
import { Doorbell } from './doorbell.ts'
import type { TranslationCopy, TranslationSource } from './translation-copy.ts'

const CHUNK_BITS = 15
const CHUNK = 1 << CHUNK_BITS
const BOTH = 3

/**
 * A port that reaches those pages of guest RAM that are shared at the moment, at their guest addresses: what a host
 * lets a device of a confidential guest use, when the guest changes the state of single pages.
 *
 * @example
 * const port = new PagePort('net0', memory)
 * port.pages.set([0x8000_3000, 4096])
 * port.share()
 */
export class PagePort implements BusPort, TranslationSource {
  declare readonly name: string
  declare readonly pageBytes: number
  readonly faults: FaultLog<AccessFault> = new FaultLog<AccessFault>()
  readonly request: Float64Array = new Float64Array(1)
  /** [0]: guest address, [1]: bytes of what is shared or taken back next. Whole pages. */
  readonly pages: Float64Array = new Float64Array(2)
  /** From the last grant's first byte to the end of the shared pages that were looked at. */
  readonly window: Float64Array = new Float64Array(4)
  epoch = 0
  declare region: Region
  offset = 0
  /** Pages that are shared now. */
  shared = 0

  declare private readonly memory: GuestMemory
  private readonly doorbell = new Doorbell()
  private open = true
  // By page, in chunks that are made when they are first needed: 1 where it is shared.
  private readonly chunks = new Map<number, Uint8Array>()
  // The chunk that was changed last.
  private near: Uint8Array = new Uint8Array(CHUNK)
  private nearNumber = -1

  declare private readonly copy: TranslationCopy | null
  // What the copy is told.
  private readonly keys = new Float64Array(4)

  /** `copy`: of a device in a worker, whose translations follow (`DeviceWorker.translations`). */
  constructor(name: string, memory: GuestMemory, pageBytes = 4096, copy: TranslationCopy | null = null) {
    if (!Number.isInteger(pageBytes) || pageBytes < 8 || (pageBytes & (pageBytes - 1)) !== 0) {
      throw new DeviceError('DEVICE_OPTION', name, `a page of ${pageBytes} bytes must be a power of two from 8 on`, {
        pageBytes,
      })
    }
    this.name = name
    this.memory = memory
    this.pageBytes = pageBytes
    this.region = new Region(new ArrayBuffer(0), `${name} (no memory)`)
    this.copy = copy
    copy?.follow(this)
  }

  /** Shares {@link pages}. Throws DeviceError `PAGE_SPAN` unless those are whole pages. */
  share(): void {
    this.set(1)
  }

  /**
   * Takes {@link pages} back: no access that is asked for from now on reaches them, where the device is in this thread.
   * {@link settle} waits for one in a worker. Throws as {@link share} does.
   */
  unshare(): void {
    this.set(0)
    this.revoke()
  }

  /** Takes all pages back, as {@link unshare} does. */
  clear(): void {
    for (const chunk of this.chunks.values()) chunk.fill(0)
    this.shared = 0
    this.revoke()
    this.copyReach()
  }

  /** Waits until a device in a worker cannot use anything that was taken back. False: it may, and counts as lost. */
  settle(): boolean {
    return this.copy === null || this.copy.settle()
  }

  replay(copy: TranslationCopy): void {
    copy.reach(this.open ? 'mapped' : 'nothing', this.pageBytes)
    if (!this.open) return
    for (const [number, chunk] of this.chunks) {
      for (let at = chunk.indexOf(1); at >= 0; at = chunk.indexOf(1, at + 1))
        this.copyPage(copy, number * CHUNK + at, 1)
    }
  }

  refused(fault: AccessFault): void {
    this.faults.record(fault)
  }

  /** Calls `visit` with the guest address of each page that is shared now. For what is not the data path. */
  forEach(visit: (page: number) => void): void {
    for (const [number, chunk] of this.chunks) {
      for (let at = chunk.indexOf(1); at >= 0; at = chunk.indexOf(1, at + 1))
        visit((number * CHUNK + at) * this.pageBytes)
    }
  }

  resolve(length: number, access: 1 | 2): number {
    const { request, pageBytes, memory } = this
    const address = request[0]
    const left = memory.locate(request, 0, Infinity)
    if (left === 0 || !this.open) return this.refuse(length, access, 'unmapped')
    const granted = left < length ? left : length
    const page = Math.floor(address / pageBytes)
    const chunk = this.chunkOf(page)
    if (chunk === null) return this.refuse(length, access, 'unmapped')
    // No further than the chunk, whatever the length: asking again gets the rest.
    const at = page % CHUNK
    const last = Math.min(at + Math.floor(((address % pageBytes) + granted - 1) / pageBytes), CHUNK - 1)
    let i = at
    while (i <= last && chunk[i] === 1) i++
    if (i === at) return this.refuse(length, access, 'unmapped')
    const end = page + i - at
    this.region = memory.region
    this.offset = memory.offset
    const reach = end * pageBytes - address
    const { window } = this
    window[0] = address
    window[1] = reach < left ? reach : left
    window[2] = this.offset
    window[3] = 3
    return reach < granted ? reach : granted
  }

  outOfReach(high: number, low: number, length: number, access: 1 | 2): void {
    this.faults.record({ port: this.name, address: { high, low }, length, access, reason: 'range' })
  }

  /** For the platform: shuts the port, whatever is shared, and opens it again. */
  setOpen(open: boolean): void {
    this.open = open
    this.revoke()
    this.copyReach()
  }

  /** For the platform: messages to [base, base + length) are interrupts. */
  setDoorbell(base: number, length: number, sink: InterruptSink): void {
    this.doorbell.set(this.name, base, length, sink)
  }

  message(data: number): boolean {
    return this.doorbell.ring(this.request, data)
  }

  refresh(): void {
    const { regions } = this.memory
    for (let i = 0; i < regions.length; i++) if (regions[i].refresh()) this.revoke()
  }

  private revoke(): void {
    this.epoch++
    this.window[1] = 0
  }

  private copyReach(): void {
    if (this.copy !== null) this.replay(this.copy)
  }

  private copyPage(copy: TranslationCopy, page: number, value: 0 | 1): void {
    const { keys, pageBytes } = this
    keys[0] = keys[2] = page * pageBytes
    keys[1] = keys[0] + pageBytes - 1
    keys[3] = BOTH
    if (value === 1) copy.mapped(keys)
    else copy.unmapped(keys)
  }

  private chunkOf(page: number): Uint8Array | null {
    const number = Math.floor(page / CHUNK)
    return number === this.nearNumber ? this.near : (this.chunks.get(number) ?? null)
  }

  private set(value: 0 | 1): void {
    const { pageBytes, pages } = this
    const guest = pages[0]
    const length = pages[1]
    if (guest % pageBytes !== 0 || length % pageBytes !== 0 || !(length > 0)) {
      throw new DeviceError('PAGE_SPAN', this.name, `${hex(guest)} + ${length} is not whole pages of ${pageBytes}`, {
        guest,
        length,
        pageBytes,
      })
    }
    const first = Math.floor(guest / pageBytes)
    const count = length / pageBytes
    for (let i = 0; i < count; i++) {
      const page = first + i
      const number = Math.floor(page / CHUNK)
      const chunk = number === this.nearNumber ? this.near : this.chunk(number)
      const at = page % CHUNK
      const was = chunk[at]
      chunk[at] = value
      this.shared += value - was
      if (this.copy !== null && was !== value && this.open) this.copyPage(this.copy, page, value)
    }
  }

  private chunk(number: number): Uint8Array {
    const chunk = this.chunks.get(number) ?? new Uint8Array(CHUNK)
    this.chunks.set(number, chunk)
    this.nearNumber = number
    this.near = chunk
    return chunk
  }

  private refuse(length: number, access: 1 | 2, reason: AccessFaultReason): number {
    this.faults.record({ port: this.name, address: this.request[0], length, access, reason })
    return 0
  }
}
