import type { DmaBackend, DmaMappings, DmaRegion } from '@guestdma/dma'
import { ACCESS_READ, ACCESS_WRITE, type BusPort, type GuestMemory, guestAddress, hex } from '@guestdma/memory'

const BOTH = ACCESS_READ | ACCESS_WRITE
const SLOT_BYTES = 2048
/** Completed mappings that are remembered, and how many of them one callback looks at. */
const REMEMBERED = 512
const LOOKED_AT = 4
const MOST_MESSAGES = 20

/** Bytes that a device was lent or given, at the addresses that it was told. */
interface Span {
  readonly device: number
  readonly length: number
  /** What the device may do there: `ACCESS_READ`, `ACCESS_WRITE` or both. */
  readonly access: number
  /** Guest address of a mapping; -1 for what was allocated. */
  readonly guest: number
  /** The port's epoch when it last granted something of it; -1: never. */
  epoch: number
}

/** A mapping that was taken back, and what was the count of all that were. */
interface Revoked extends Span {
  readonly order: number
}

/**
 * What one device may reach at each moment, as its backend's traits and live mappings say, held against what its port
 * grants. It believes neither port nor backend.
 */
export class DeviceReach {
  readonly name: string
  readonly violations: string[] = []
  /** Accesses that the port granted; looks at addresses out of reach, and those that were refused. */
  accesses = 0
  probes = 0
  refused = 0
  /** Completed mappings that were found out of reach, found stale but within bounds, and written to in vain. */
  revokedChecked = 0
  staleSeen = 0
  writtenInVain = 0
  windows = 0
  maps = 0
  unmaps = 0
  backends = 0
  /** The device's port is being asked by a test: its faults are the test's. */
  probing = false
  /** Backends that were disposed of, with what is wrong with their books. */
  readonly unbalanced: string[] = []

  // Unmapped entries that may stay reachable where removals are deferred; 0: none.
  private readonly staleEntries: number
  // Everybody who uses the same memory as this device: it may write to their part of it.
  private readonly sharers: ReadonlyMap<string, DeviceReach>
  private backend: DmaBackend | null = null
  private inner: BusPort | null = null
  private readonly rows = new Map<DmaMappings, Map<number, Span>>()
  private readonly byAddress = new Map<number, Span>()
  private readonly lent = new Set<Span>()
  private readonly given = new Map<DmaRegion, Span>()
  private uncommitted: Revoked[] = []
  private revoked: Revoked[] = []

  constructor(name: string, staleEntries: number, sharers: ReadonlyMap<string, DeviceReach> = new Map()) {
    this.name = name
    this.sharers = sharers
    this.staleEntries = staleEntries
  }

  /** The port that the platform made. */
  watch(inner: BusPort): void {
    this.inner = inner
  }

  begin(backend: DmaBackend): void {
    if (this.backend !== null) this.violate('a second backend while the first one lives')
    this.backend = backend
    this.backends++
    // What shares a granule with a neighbour may stay in reach for ever; where nothing does, the bound is what was set.
    const { staleEntries } = backend.limits
    if (backend.traits.reach !== 'all' && staleEntries !== Infinity && staleEntries !== this.staleEntries)
      this.violate(`limits.staleEntries is ${staleEntries}, not ${this.staleEntries}`)
  }

  end(): void {
    const { backend, lent } = this
    if (backend === null) return
    const { maps, unmaps, allocatedBytes } = backend.counters
    const left = `maps ${maps}, unmaps ${unmaps}, allocated ${allocatedBytes}, left lent ${lent.size}`
    if (maps !== unmaps || allocatedBytes !== 0 || lent.size !== 0) this.unbalanced.push(left)
    this.backend = null
    this.rows.clear()
    this.byAddress.clear()
    lent.clear()
    this.given.clear()
    this.uncommitted = []
    this.revoked = []
  }

  get live(): boolean {
    return this.backend !== null
  }

  mapped(m: DmaMappings, row: number): void {
    const span: Span = {
      device: m.device[row],
      length: m.deviceLength[row],
      access: m.direction[row],
      guest: m.guest[row],
      epoch: -1,
    }
    const rows = this.rows.get(m) ?? new Map<number, Span>()
    this.rows.set(m, rows)
    if (rows.has(row)) this.violate(`row ${row} is mapped twice`)
    const { backend } = this
    if (backend !== null && span.device + span.length - 1 > backend.limits.maxDeviceAddress)
      this.violate(`a mapping at ${hex(span.device)} lies above maxDeviceAddress`)
    rows.set(row, span)
    this.lent.add(span)
    this.byAddress.set(span.device, span)
    this.maps++
  }

  unmapped(m: DmaMappings, row: number): void {
    const span = this.rows.get(m)?.get(row)
    if (span === undefined) {
      this.violate(`row ${row} is unmapped and was not mapped`)
      return
    }
    this.rows.get(m)?.delete(row)
    this.lent.delete(span)
    if (this.byAddress.get(span.device) === span) this.byAddress.delete(span.device)
    this.unmaps++
    this.uncommitted.push({ ...span, order: this.unmaps })
  }

  committed(): void {
    this.revoked.push(...this.uncommitted)
    this.uncommitted = []
    if (this.revoked.length > 2 * REMEMBERED) this.revoked = this.revoked.slice(-REMEMBERED)
    this.checkWindow()
  }

  allocated(region: DmaRegion, use: 'ring' | 'payload'): void {
    // Devices read the rings that they write.
    const access = use === 'ring' ? region.direction | ACCESS_READ : region.direction
    const span: Span = { device: region.device, length: region.length, access, guest: -1, epoch: -1 }
    this.given.set(region, span)
  }

  freed(region: DmaRegion): void {
    if (!this.given.delete(region)) this.violate(`${hex(region.device)} is freed and was not allocated`)
  }

  /** The device's port granted `granted` bytes at `address`: are they lent or given now, and for this access? */
  granted(address: number, granted: number, access: number): void {
    this.accesses++
    const span = this.spanAt(address, granted)
    if (span === null) {
      this.violate(`an access at ${hex(address)} + ${granted}, where nothing is lent`)
      return
    }
    if ((span.access & access) === 0)
      this.violate(`an access of kind ${access} at ${hex(address)}, lent for ${span.access}`)
    span.epoch = (this.inner as BusPort).epoch
    this.checkWindow(span)
  }

  /** Asks the port for addresses around what is lent; `pick(n)` returns an integer below n. */
  probe(pick: (limit: number) => number, memory: GuestMemory): void {
    const { backend, inner, lent } = this
    if (backend === null || inner === null || backend.traits.reach === 'all') return
    const spans = this.spans()
    const [{ base, end: top }] = memory.ranges
    const { granule } = backend.limits
    for (let i = 0; i < 6 && spans.length > 0; i++) {
      const span = spans[pick(spans.length)]
      const { device, length, guest } = span
      const beside = [device - 1, device + length, first(span, granule) - 1, end(span, granule)]
      const places = [...beside, device + 2 * length, guest, base + pick(top - base)]
      const address = places[pick(places.length)]
      if (address < 0) continue
      const access = pick(2) === 0 ? ACCESS_READ : ACCESS_WRITE
      if (this.ask(inner, address, access) && !this.reachable(address, 1))
        this.violate(`the port grants ${hex(address)}, which is out of reach (${backend.traits.reach})`)
    }
    if (backend.traits.readOnly !== 'enforced' || backend.traits.streaming === 'copied') return
    for (const { device, length, access } of [...lent].slice(0, 2)) {
      if ((access & ACCESS_WRITE) === 0 && this.ask(inner, device + pick(length), ACCESS_WRITE))
        this.violate(`the port lets the device write to ${hex(device)}, which was lent for reading`)
    }
  }

  /**
   * Writes to the device addresses of mappings that were taken back last. Where revocation is immediate they are out of
   * reach unless something lent lies there; where it is deferred they may be within reach for a while; where a copy was
   * lent the write reaches the copy and not the guest.
   */
  checkRevoked(memory: GuestMemory): void {
    const { backend, revoked } = this
    if (backend === null || backend.traits.reach === 'all') return
    if (this.staleEntries > 0) {
      const recent = this.recent()
      const late = revoked.filter((span) => !recent.has(this.granuleOf(span)))
      for (const span of late.slice(-LOOKED_AT)) this.checkGone(span, 'late')
      for (const span of revoked.slice(-LOOKED_AT)) this.checkGone(span, 'early')
      return
    }
    for (const span of revoked.slice(-LOOKED_AT)) {
      if (backend.traits.streaming === 'copied') this.checkCopy(span, memory)
      else this.checkGone(span, 'strict')
    }
  }

  /** Whatever may have been deferred is over: nothing that was taken back is within reach. */
  checkAllRevoked(): void {
    const { backend, revoked } = this
    if (backend === null || backend.traits.reach === 'all' || backend.traits.streaming === 'copied') return
    for (const span of revoked) this.checkGone(span, 'strict')
  }

  // `early`: removals are deferred, and this one may be; `late`: this one may not, but the address may have been lent
  // and taken back again since.
  private checkGone(span: Revoked, when: 'strict' | 'early' | 'late'): void {
    const { inner } = this
    if (inner === null) return
    const { device, length, access, epoch } = span
    for (const address of length === 1 ? [device] : [device, device + length - 1]) {
      if (this.reachable(address, 1, when === 'late')) continue
      const kept =
        this.ask(inner, address, ACCESS_WRITE) ||
        ((access & ACCESS_READ) !== 0 && this.ask(inner, address, ACCESS_READ))
      if (kept && when === 'early') this.staleSeen++
      else if (kept)
        this.violate(
          `${hex(address)} is within reach although it was taken back ${this.unmaps - span.order} unmaps ago`,
        )
      else {
        this.revokedChecked++
        // A device that kept the port's answer must learn that it is void.
        if (epoch >= 0 && inner.epoch === epoch)
          this.violate(`${hex(address)} was taken back and the epoch is the same`)
      }
    }
  }

  private checkCopy({ device, length, guest }: Revoked, memory: GuestMemory): void {
    const { inner } = this
    const bytes = Math.min(length, 64)
    const overlaps = ({ device: at, length: l }: Span): boolean => at < device + bytes && at + l > device
    if (inner === null || [this, ...this.sharers.values()].some((user) => user.spans().some(overlaps))) return
    const before = memory.read(guestAddress(guest), bytes)
    inner.refresh()
    inner.request[0] = device
    this.probing = true
    const granted = inner.resolve(bytes, ACCESS_WRITE)
    this.probing = false
    if (granted < bytes) {
      this.violate(`the pool is not there at ${hex(device)}`)
      return
    }
    inner.region.refresh()
    inner.region.u8.fill(0xdb, inner.offset, inner.offset + bytes)
    const after = memory.read(guestAddress(guest), bytes)
    if (before.some((byte, i) => byte !== after[i]))
      this.violate(`a write to ${hex(device)} changed a buffer that was taken back`)
    this.writtenInVain++
  }

  private ask(inner: BusPort, address: number, access: 1 | 2): boolean {
    this.probes++
    this.probing = true
    inner.refresh()
    inner.request[0] = address
    const granted = inner.resolve(1, access) > 0
    this.probing = false
    if (!granted) this.refused++
    return granted
  }

  // Buffers inside one granule share its address, which goes with the last of them: what may be stale is counted in
  // granules that were left, newest first.
  private recent(): ReadonlySet<number> {
    const granules = new Set<number>()
    // One that is still lent in part was not left.
    const lent = new Set(this.spans().map((span) => this.granuleOf(span)))
    for (let i = this.revoked.length - 1; i >= 0 && granules.size < this.staleEntries; i--) {
      const granule = this.granuleOf(this.revoked[i])
      if (!lent.has(granule)) granules.add(granule)
    }
    return granules
  }

  private granuleOf({ device }: Span): number {
    return Math.floor(device / (this.backend?.limits.granule ?? 1))
  }

  private spans(): Span[] {
    return [...this.lent, ...this.given.values()]
  }

  // The span that holds all of [address, address + length); null where none does.
  private spanAt(address: number, length: number): Span | null {
    const holds = (span: Span): boolean => address >= span.device && address + length <= span.device + span.length
    const known = this.byAddress.get(address)
    if (known !== undefined && holds(known)) return known
    for (const span of this.given.values()) if (holds(span)) return span
    for (const span of this.lent) if (holds(span)) return span
    return null
  }

  // Do the traits let the device reach all of [address, address + length) now?
  private reachable(address: number, length: number, stale = true): boolean {
    const { backend } = this
    if (backend === null) return false
    const { reach } = backend.traits
    if (reach === 'all') return true
    if (reach === 'pool') {
      const { maxDeviceAddress } = backend.limits
      const { slots = 0 } = backend.counters as { readonly slots?: number }
      return address > maxDeviceAddress - slots * SLOT_BYTES && address + length - 1 <= maxDeviceAddress
    }
    const { granule } = backend.limits
    const spans = this.spans()
    if (stale) spans.push(...this.uncommitted)
    if (stale && this.staleEntries > 0) {
      const recent = this.recent()
      spans.push(...this.revoked.filter((span) => recent.has(this.granuleOf(span))))
    }
    let at = address
    while (at < address + length) {
      const span = spans.find((one) => at >= first(one, granule) && at < end(one, granule))
      if (span === undefined) return false
      at = end(span, granule)
    }
    return true
  }

  // What the port says about its last grant may be no more than what is within reach.
  private checkWindow(around?: Span): void {
    const { backend, inner } = this
    if (backend === null || inner === null || backend.traits.reach === 'all') return
    const [base, length, , access] = inner.window
    if (length === 0 || (access & BOTH) === 0) return
    this.windows++
    const { granule } = backend.limits
    const held = around !== undefined && backend.traits.reach !== 'pool'
    if (held && base >= first(around, granule) && base + length <= end(around, granule)) return
    if (!this.reachable(base, length)) this.violate(`the port's window ${hex(base)} + ${length} is more than its reach`)
  }

  private violate(what: string): void {
    const message = `${this.name}: ${what}`
    if (this.violations.length < MOST_MESSAGES && !this.violations.includes(message)) this.violations.push(message)
  }
}

// Where the granules of a span begin.
function first({ device }: Span, granule: number): number {
  return device - (device % granule)
}

// Where they end. A single byte is mapped as two where an IOMMU cannot map one.
function end({ device, length }: Span, granule: number): number {
  const bytes = granule === 1 && length === 1 ? 2 : length
  return Math.ceil((device + bytes) / granule) * granule
}
