import { type AccessFault, type AccessFaultReason, BusWindows } from '@guestdma/devices'
import { type BusPort, type FaultLog, Region } from '@guestdma/memory'
import type { MappedWindow } from './mapped-table.ts'

interface Entry {
  readonly iova: number
  readonly length: number
  readonly permission: number
  readonly window: MappedWindow
  /** Byte in the window's region. */
  readonly offset: number
}

/** Entries that are kept: those of 256 MiB in single pages. */
const MAX_ENTRIES = 65_536
const ANSWER = 1
const PAGE = 4096
/** Bytes of a buffer whose pages are asked for together. */
const AHEAD = 65_536

/**
 * What a served device reaches where the front end translates (vhost-user, "IOMMU support"): the entries that the front
 * end gave. For an address without one it asks, and is {@link pending} until the front end said more. Where the front
 * end agreed to no translation, all windows of its table, at their guest addresses.
 *
 * Make the device with it and with `accessPlatform: 'offered'`; a `VhostUserServer` does the rest.
 *
 * @example
 * const device = new BlkDevice({ name: 'disk0', port: new IotlbPort('disk0'), accessPlatform: 'offered', store })
 */
export class IotlbPort implements BusPort {
  readonly name: string
  readonly request: Float64Array = new Float64Array(2)
  readonly window: Float64Array = new Float64Array(4)
  readonly faults: FaultLog<AccessFault>
  epoch = 0
  pending = false
  region: Region
  /** For the server: asks the front end for an entry. False: none will come. */
  onMiss: ((iova: number, access: 1 | 2) => boolean) | null = null
  private readonly plain: BusWindows
  private windows: readonly MappedWindow[] = []
  private translating = false
  /** By ascending address, without overlaps. */
  private entries: Entry[] = []

  constructor(name: string) {
    this.name = name
    this.plain = new BusWindows(name)
    this.faults = this.plain.faults
    this.region = new Region(new ArrayBuffer(0), `${name} (no memory)`)
  }

  /** Where the last grant begins in {@link region}. */
  get offset(): number {
    return this.request[ANSWER]
  }

  /** For the server: the windows that the front end passed. Forgets every entry. */
  setWindows(windows: readonly MappedWindow[]): void {
    this.windows = windows
    this.plain.setWindows(windows)
    this.forget()
  }

  /** For the server: whether the front end translates. Forgets every entry. */
  setTranslating(translating: boolean): void {
    this.translating = translating
    this.forget()
  }

  /** For the server: an update. Returns false where no window of the table has all of [user, user + length). */
  update(iova: number, length: number, user: number, permission: number): boolean {
    const window = this.windows.find((one) => user >= one.user && user + length <= one.user + one.length)
    if (window === undefined || !(length > 0) || permission > 3) return false
    const offset = window.offset + (user - window.user)
    const known = this.find(iova)
    // Some front ends repeat themselves; what stays as it is makes no grant invalid.
    if (known?.iova === iova && known.length === length && known.offset === offset && known.window === window)
      if (known.permission === permission) return true
    this.invalidate(iova, length)
    if (this.entries.length === MAX_ENTRIES) this.entries.length = 0
    this.entries.splice(this.behind(iova), 0, { iova, length, permission, window, offset })
    return true
  }

  /** For the server: whether an entry allows this access. */
  has(iova: number, access: 1 | 2): boolean {
    return ((this.find(iova)?.permission ?? 0) & access) !== 0
  }

  /** For the server, between two polls: takes every entry back that has an address of [iova, iova + length). */
  invalidate(iova: number, length: number): void {
    const end = this.behind(iova + length - 1)
    let first = end
    while (first > 0 && this.entries[first - 1].iova + this.entries[first - 1].length > iova) first--
    if (first === end) return
    this.entries.splice(first, end - first)
    this.revoke()
  }

  resolve(length: number, access: 1 | 2): number {
    this.pending = false
    if (!this.translating) return this.resolvePlain(length, access)
    const address = this.request[0]
    const entry = this.find(address)
    if (entry === undefined || (entry.permission & access) === 0) {
      this.pending = this.onMiss?.(address, access) === true
      if (this.pending) {
        this.askAhead(address, length, access)
        return 0
      }
      return this.refuse(address, length, access, entry === undefined ? 'unmapped' : 'permission')
    }
    const into = address - entry.iova
    this.region = entry.window.region
    this.request[ANSWER] = entry.offset + into
    this.window[0] = entry.iova
    this.window[1] = entry.length
    this.window[2] = entry.offset
    this.window[3] = entry.permission
    return Math.min(length, entry.length - into)
  }

  outOfReach(high: number, low: number, length: number, access: 1 | 2): void {
    this.plain.outOfReach(high, low, length, access)
  }

  // A mapping never grows.
  refresh(): void {}

  private resolvePlain(length: number, access: 1 | 2): number {
    const { plain } = this
    plain.request[0] = this.request[0]
    const granted = plain.resolve(length, access)
    this.region = plain.region
    this.request[ANSWER] = plain.offset
    this.window.set(plain.window)
    return granted
  }

  // Front ends answer page by page: the rest of a buffer is asked for at once.
  private askAhead(address: number, length: number, access: 1 | 2): void {
    const end = address + Math.min(length, AHEAD)
    for (let at = address - (address % PAGE) + PAGE; at < end; at += PAGE) {
      if (!this.has(at, access)) this.onMiss?.(at, access)
    }
  }

  private find(address: number): Entry | undefined {
    const entry = this.entries[this.behind(address) - 1]
    return entry !== undefined && address < entry.iova + entry.length ? entry : undefined
  }

  // The first entry that begins behind an address.
  private behind(address: number): number {
    const { entries } = this
    let low = 0
    let high = entries.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (entries[middle].iova <= address) low = middle + 1
      else high = middle
    }
    return low
  }

  private forget(): void {
    this.entries = []
    this.revoke()
  }

  private revoke(): void {
    this.window.fill(0)
    this.epoch++
  }

  private refuse(address: number, length: number, access: 1 | 2, reason: AccessFaultReason): number {
    this.faults.record({ port: this.name, address, length, access, reason })
    return 0
  }
}
