import { type BusPort, checkSpan, FaultLog, type GuestMemory, hex, type InterruptSink, Region } from '@guestdma/memory'
import type { AccessFault, AccessFaultReason } from '../faults/access-fault.ts'
import { DeviceError } from '../faults/errors.ts'
import { Doorbell } from './doorbell.ts'

/** Device addresses [base, base + length) are bytes [offset, offset + length) of `region`. */
export interface BusWindow {
  readonly base: number
  readonly length: number
  readonly region: Region
  /** Byte in `region`. Defaults to 0. */
  readonly offset?: number
  /** 1 read, 2 write, 3 both, seen from the device. Defaults to 3. */
  readonly access?: 1 | 2 | 3
}

// Elements of `window`.
const BASE = 0
const LENGTH = 1
const OFFSET = 2
const ACCESS = 3
// In `request`, beside the question: the answer.
const ANSWER = 1

/**
 * A port that reaches zero, one or many windows of memory: everything, one pool, nothing. One class for all of them, so
 * that a device's accesses stay monomorphic; the window that served last is tried first.
 *
 * An access is granted up to the end of its window. Where another window follows directly, asking again for the rest
 * succeeds; otherwise that second request is the one that faults, and it names the first byte out of reach.
 *
 * @example
 * const port = new BusWindows('net0', [{ base: 0x5000_0000, length: 1 << 20, region, offset: 0 }])
 * port.request[0] = 0x5000_1000
 * port.resolve(64, ACCESS_READ) // 64; port.region and port.offset tell where
 *
 * @throws DeviceError `WINDOW_OVERLAP`, `WINDOW_OUTSIDE`, `WINDOW_ACCESS`; MemoryError `MEMORY_ADDRESS`,
 *   `MEMORY_LENGTH`
 */
export class BusWindows implements BusPort {
  declare readonly name: string
  readonly faults: FaultLog<AccessFault> = new FaultLog<AccessFault>()
  /** [0] is the device address to resolve. What follows is the port's own: see below. */
  readonly request: Float64Array = new Float64Array(2)
  /** The window that served last; it is tried first. */
  readonly window: Float64Array = new Float64Array(4)
  epoch = 0
  declare region: Region

  // Columns, sorted by base. Addresses and offsets stay out of object fields, where they would become heap numbers.
  private bases = new Float64Array(0)
  private lengths = new Float64Array(0)
  private offsets = new Float64Array(0)
  private accesses = new Uint8Array(0)
  private regions: Region[] = []
  private distinct: Region[] = []
  declare private readonly empty: Region
  private readonly doorbell = new Doorbell()

  constructor(name: string, windows: readonly BusWindow[] = []) {
    this.name = name
    this.empty = new Region(new ArrayBuffer(0), `${name} (no memory)`)
    this.region = this.empty
    this.setWindows(windows)
    this.epoch = 0
  }

  /** Where the last grant begins in {@link region}. */
  get offset(): number {
    return this.request[ANSWER]
  }

  /** The windows as they are now, by ascending base. */
  get windows(): readonly Required<BusWindow>[] {
    return this.regions.map((region, i) => ({
      base: this.bases[i],
      length: this.lengths[i],
      region,
      offset: this.offsets[i],
      access: this.accesses[i] as 1 | 2 | 3,
    }))
  }

  /**
   * For the platform: replaces all windows and bumps `epoch`, so that every earlier grant is asked for anew. Throws as
   * the constructor does.
   */
  setWindows(windows: readonly BusWindow[]): void {
    const sorted = [...windows].sort((a, b) => a.base - b.base)
    let end = 0
    for (const { base, length, region, offset = 0, access = 3 } of sorted) {
      const part = `${this.name} window ${hex(base)}`
      checkSpan(base, length, part)
      if (access !== 1 && access !== 2 && access !== 3) {
        throw new DeviceError('WINDOW_ACCESS', part, `access ${access} must be 1 (read), 2 (write) or 3 (both)`, {
          access,
        })
      }
      // Its memory may have grown.
      region.refresh()
      if (!Number.isInteger(offset) || offset < 0 || offset + length > region.length) {
        const message = `offset ${offset} and length ${length} must lie inside the ${region.length} bytes of ${region.name}`
        throw new DeviceError('WINDOW_OUTSIDE', part, message, { base, offset, length, regionLength: region.length })
      }
      if (base < end) {
        const message = `begins below ${hex(end)}, where the window before it ends; windows may not overlap`
        throw new DeviceError('WINDOW_OVERLAP', part, message, { base, end })
      }
      end = base + length
    }
    this.bases = Float64Array.from(sorted, (window) => window.base)
    this.lengths = Float64Array.from(sorted, (window) => window.length)
    this.offsets = Float64Array.from(sorted, (window) => window.offset ?? 0)
    this.accesses = Uint8Array.from(sorted, (window) => window.access ?? 3)
    this.regions = sorted.map((window) => window.region)
    this.distinct = [...new Set(this.regions)]
    this.window.fill(0)
    this.region = this.empty
    this.epoch++
  }

  resolve(length: number, access: 1 | 2): number {
    const { request, window } = this
    let into = request[0] - window[BASE]
    if (!(into >= 0 && into < window[LENGTH])) {
      if (!this.find(request[0])) return this.refuse(request[0], length, access, 'unmapped')
      into = request[0] - window[BASE]
    }
    if ((window[ACCESS] & access) === 0) return this.refuse(request[0], length, access, 'permission')
    request[ANSWER] = window[OFFSET] + into
    const left = window[LENGTH] - into
    return left < length ? left : length
  }

  outOfReach(high: number, low: number, length: number, access: 1 | 2): void {
    this.faults.record({ port: this.name, address: { high, low }, length, access, reason: 'range' })
  }

  /**
   * For the platform: a device's 32-bit writes to [base, base + length) are interrupt messages for `sink`, and not
   * writes to memory. One span; a later call replaces it. Throws `MEMORY_ADDRESS`, `MEMORY_LENGTH`.
   */
  setDoorbell(base: number, length: number, sink: InterruptSink): void {
    this.doorbell.set(this.name, base, length, sink)
  }

  message(data: number): boolean {
    return this.doorbell.ring(this.request, data)
  }

  refresh(): void {
    const distinct = this.distinct
    for (let i = 0; i < distinct.length; i++) if (distinct[i].refresh()) this.epoch++
  }

  // Makes the window at an address the one that is tried first.
  private find(address: number): boolean {
    const bases = this.bases
    let low = 0
    let high = bases.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (bases[middle] <= address) low = middle + 1
      else high = middle
    }
    const i = low - 1
    if (i < 0 || address - bases[i] >= this.lengths[i]) return false
    const { window } = this
    window[BASE] = bases[i]
    window[LENGTH] = this.lengths[i]
    window[OFFSET] = this.offsets[i]
    window[ACCESS] = this.accesses[i]
    this.region = this.regions[i]
    return true
  }

  private refuse(address: number, length: number, access: 1 | 2, reason: AccessFaultReason): number {
    this.faults.record({ port: this.name, address, length, access, reason })
    return 0
  }
}

/** What {@link everything} takes beside the memory. */
export interface EverythingOptions {
  readonly name?: string
  /** Added to a guest address to make the device address. Defaults to 0. */
  readonly busOffset?: number
}

/**
 * A port that reaches all of guest memory, to read and to write: a device without confinement. Throws as {@link
 * BusWindows} does.
 */
export function everything(memory: GuestMemory, options: EverythingOptions = {}): BusWindows {
  const { name = `all of ${memory.name}`, busOffset = 0 } = options
  return new BusWindows(
    name,
    memory.ranges.map(({ base, length, region, offset }) => ({ base: base + busOffset, length, region, offset })),
  )
}

/**
 * A port that reaches one window and nothing else: a pool, or memory on the device. Throws as {@link BusWindows} does.
 */
export function oneWindow(name: string, window: BusWindow): BusWindows {
  return new BusWindows(name, [window])
}

/** A port that reaches nothing: every access is a fault. */
export function nothing(name: string): BusWindows {
  return new BusWindows(name)
}
