import {
  BIDIRECTIONAL,
  DMA_EXHAUSTED,
  DMA_FAILED,
  DMA_OK,
  DMA_TOO_LONG,
  DMA_UNMAPPABLE,
  type DmaBackend,
  type DmaCounters,
  type DmaDirection,
  DmaError,
  type DmaLimits,
  type DmaMappings,
  type DmaRegion,
  type DmaStatus,
  type DmaTraits,
  FROM_DEVICE,
  newDmaCounters,
} from '@guestdma/dma'
import { type DeviceAddress, type GuestAddress, type GuestMemory, hex, type SpanAllocator } from '@guestdma/memory'
import {
  DOMAIN_READ,
  DOMAIN_WRITE,
  disposeDomain,
  type IommuDomain,
  REQUEST_GUEST,
  REQUEST_IOVA,
  REQUEST_LENGTH,
} from './domain.ts'
import { IovaAllocator } from './iova-allocator.ts'
import { PAGE_IOVA, PageCounts } from './page-counts.ts'
import { SubGranuleSlots, TOKEN_SLOTS } from './sub-granule.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const OK = DMA_OK
const EXHAUSTED = DMA_EXHAUSTED
const FAILED = DMA_FAILED
const TOO_LONG = DMA_TOO_LONG
const UNMAPPABLE = DMA_UNMAPPABLE
const FROM = FROM_DEVICE
const IOVA = REQUEST_IOVA
const GUEST = REQUEST_GUEST
const LENGTH = REQUEST_LENGTH

// Elements of `run`: the removals that are not queued yet, from START to END, and an address that travels.
const START = 0
const END = 1
const AT = 2

// Elements of `clock`.
const SINCE = 0
const ASKED = 1

// In a row's token, above its slots: in which round of commits it was mapped.
const ROUND = 22
const ROUND_MASK = 0x1ff

/** Linux's flush queue: so many entries, or so long. */
const LAZY_ENTRIES = 256
const LAZY_MS = 10
/** What `setTimeout` takes. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** How often standing mappings are held back before all of them are tried; doubled while that gains nothing. */
const FIRST_PATIENCE = 16
const MOST_PATIENCE = 4096

/** Bytes of one mapping; with its edges it stays well below 2^31. */
const LONGEST = 1 << 28

export interface IommuBackendOptions {
  /** The scheme's id. */
  readonly name: string
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  readonly domain: IommuDomain
  /**
   * `strict` (default): what was unmapped is out of reach when `commitUnmaps` returns. `lazy`: removals are queued, and
   * waited for when 256 of them are pending, when the oldest is 10 ms old, or by the way when maps are waited for.
   */
  readonly mode?: 'strict' | 'lazy'
  /**
   * Buffers that cover a granule only in part: `share` (default), the device reaches the whole granule and what else is
   * in it; `bounce`, it gets a copy of the buffer's part.
   */
  readonly subGranule?: 'share' | 'bounce'
  /** `entries` from 1 on, `ms` from 0 on. */
  readonly lazy?: { readonly entries?: number; readonly ms?: number }
  /**
   * Who holds the device to what is mapped; see `DmaTraits`. Default `trusted-code`: a device model of this library in
   * the same process. A device in another process that is given nothing else is held by `construction`, one behind an
   * IOMMU of somebody else's by its `peer`.
   */
  readonly enforcedBy?: DmaTraits['enforcedBy']
  /** Milliseconds on a clock that only goes forward. Default: `performance.now`. */
  now?(): number
  /**
   * Called when whoever owns the loop has something to do: deferred removals are due for {@link IommuBackend.poll}, or
   * the backend was disposed of, so that others have the room that it took. It only notes that. Without it nothing wakes
   * an owner who sleeps, and removals wait for the next batch.
   */
  wake?(): void
}

/** Counters of an IOMMU backend. */
export interface IommuBackendCounters extends DmaCounters {
  /** Requests for mappings and for removals that were queued; one removal may cover many mappings. */
  mapRequests: number
  unmapRequests: number
  /** Times that the CPU waited for the IOMMU. */
  synchronousCommits: number
  /** Unmaps after which a neighbour in the same granule still kept it within reach. */
  stillExposed: number
  /** Most entries that were unmapped and not yet revoked at one time. */
  staleHighWater: number
}

/**
 * Lends buffers in place through an IOMMU: a mapping gets I/O virtual addresses, and they go when it is taken back.
 * Works over any {@link IommuDomain}.
 *
 * Where granules are shared, buffers inside one of them and for the same access share its address as well, which is
 * mapped for the first and removed with the last: the device reaches the granule as long as any of them is lent in
 * either case. Device addresses of one batch are neighbours, so that their removals merge into few requests.
 */
export class IommuBackend implements DmaBackend {
  declare readonly name: string
  declare readonly traits: DmaTraits
  declare readonly limits: DmaLimits
  readonly counters: IommuBackendCounters = {
    ...newDmaCounters(),
    mapRequests: 0,
    unmapRequests: 0,
    synchronousCommits: 0,
    stillExposed: 0,
    staleHighWater: 0,
  }

  declare private readonly memory: GuestMemory
  declare private readonly ram: SpanAllocator
  declare private readonly domain: IommuDomain
  declare private readonly iovas: IovaAllocator
  declare private readonly pageCounts: PageCounts | null
  declare private readonly sharesPages: boolean
  declare private readonly slots: SubGranuleSlots | null
  declare private readonly granule: number
  declare private readonly mask: number
  // Granules of a length, as a shift.
  declare private readonly shift: number
  declare private readonly leastLength: number
  declare private readonly longest: number
  declare private readonly identity: boolean
  declare private readonly bounce: boolean
  // Bytes behind each mapping that stay unmapped.
  declare private readonly gap: number
  declare private readonly lazyEntries: number
  declare private readonly lazyMs: number
  declare private readonly now: (() => number) | undefined
  declare private readonly wake: (() => void) | undefined
  private readonly regions = new Map<DmaRegion, { guest: GuestAddress; length: number; iova: number; order: number }>()

  // Spans whose removal is queued and not yet known to be done.
  private pendingAt = new Float64Array(LAZY_ENTRIES)
  private pendingOrder = new Uint8Array(LAZY_ENTRIES)
  private pendingCount = 0
  // Not after the oldest of them was unmapped; when the clock was last asked. And whether they began since the last
  // commit.
  private readonly clock = new Float64Array(2)
  private fresh = false
  // Runs while removals are pending. One that finds none is the last: there is none for each batch.
  private timer: ReturnType<typeof setTimeout> | null = null
  private readonly run = new Float64Array(3)
  private mapsQueued = 0
  // What became of the maps since the last `commitMaps`, where something else waited for them first.
  private mapped: DmaStatus = DMA_OK
  // Whether the IOMMU had no room for them, and nothing was learned from it yet.
  private refused = false
  // Mappings since the last `commitMaps` that said Ok. After a failure it says so until as many were taken back: two
  // queues may have added to it.
  private unanswered = 0
  private round = 0
  // Mappings that wait for the outside world, how many of them may stay, how many may be tried, and whether some are.
  private standing = 0
  private standingLimit = Infinity
  private standingMost = Infinity
  private tried = false
  // Fewest live mappings that were too many.
  private refusedAt = Infinity
  // How often standing mappings were held back since all were tried last, and how often they are to be.
  private heldBack = 0
  private patience = FIRST_PATIENCE
  private removalsQueued = 0
  /** Set by {@link dispose}. */
  disposed = false

  /**
   * @throws DmaError `DMA_ALLOC` where there is no room for bounce slots; `DMA_LAZY` for `lazy` out of range; `DMA_GAP`
   *   where edges are bounced in a domain that needs gaps
   */
  constructor(options: IommuBackendOptions) {
    const { name, memory, ram, domain, mode = 'strict', subGranule = 'share', enforcedBy = 'trusted-code' } = options
    const { entries = LAZY_ENTRIES, ms = LAZY_MS } = options.lazy ?? {}
    const { granule } = domain
    if (!Number.isInteger(entries) || entries < 1 || !(ms >= 0))
      throw new DmaError(
        'DMA_LAZY',
        name,
        `lazy.entries ${entries} must be an integer from 1 on, and lazy.ms ${ms} a number from 0 on`,
        { entries, ms },
      )
    this.name = name
    this.memory = memory
    this.ram = ram
    this.domain = domain
    this.granule = granule
    this.mask = granule - 1
    this.shift = 31 - Math.clz32(granule)
    this.leastLength = domain.leastLength
    this.identity = domain.identity
    this.bounce = subGranule === 'bounce' && granule > 1
    this.gap = domain.gaps === true && !this.identity ? granule : 0
    if (this.bounce && this.gap > 0)
      throw new DmaError(
        'DMA_GAP',
        name,
        `${domain.name} needs a gap between mappings, and a buffer with bounced edges consists of neighbours; share granules`,
        { granule },
      )
    this.iovas = new IovaAllocator({
      granule,
      start: domain.inputStart,
      end: domain.inputEnd,
      reserved: domain.reserved,
    })
    // Wherever a buffer lies in its first granule.
    this.longest = Math.min(LONGEST, granule * 2 ** this.iovas.largestOrder - this.gap - (granule - 1))
    const shares = this.identity || (granule > 1 && !this.bounce)
    this.pageCounts = shares ? new PageCounts(memory, granule) : null
    // A granule whose address is shared is a span of its own, without a gap.
    this.sharesPages = shares && !this.identity && this.gap === 0
    // A single byte cannot be mapped by every IOMMU.
    this.slots =
      this.bounce || domain.leastLength > granule ? new SubGranuleSlots(name, Math.max(granule, 1), memory, ram) : null
    this.lazyEntries = mode === 'lazy' ? entries : 0
    this.lazyMs = mode === 'lazy' ? ms : 0
    this.now = options.now?.bind(options)
    this.wake = options.wake?.bind(options)
    if (this.lazyEntries > 0) this.clock[ASKED] = this.time()
    this.traits = {
      streaming: this.bounce ? 'mixed' : 'in-place',
      payload: 'plain',
      home: 'guest-ram',
      // Shared pages can be written by whoever they are shared with.
      readOnly: this.identity ? 'not-enforced' : 'enforced',
      reach: granule === 1 ? 'byte' : 'granule',
      // What shares its granule with a neighbour stays within reach until that is taken back too.
      revocation: mode === 'strict' && !shares ? 'strict' : 'deferred',
      enforcedBy,
      residue: 'none',
    }
    const { slots } = this
    this.limits = {
      granule,
      maxMappingLength: this.longest,
      maxLiveMappings: this.bounce && slots !== null ? slots.count : Infinity,
      assuredMappings: this.bounce && slots !== null ? slots.assured >>> 1 : Infinity,
      maxDeviceAddress: domain.inputEnd,
      overhead: 0,
      syncGranule: 1,
      staleEntries: shares ? Infinity : this.lazyEntries,
      staleNs: shares ? Infinity : this.lazyMs * 1e6,
    }
    domain.lentBy?.(() => this.lent())
  }

  alloc(length: number, align: number, direction: DmaDirection, use: 'ring' | 'payload'): DmaRegion {
    const { granule, counters } = this
    const whole = Math.ceil(Math.max(length, this.leastLength) / granule) * granule
    // A span lies at a multiple of its length.
    const order = this.order(Math.max(whole, align - this.gap))
    let guest: GuestAddress
    try {
      guest = this.ram.allocate(whole, Math.max(align, granule))
    } catch (cause) {
      throw new DmaError(
        'DMA_ALLOC',
        this.name,
        `no guest RAM for ${whole} bytes: ${(cause as Error).message}`,
        {
          length,
          align,
        },
        { cause },
      )
    }
    const { region, offset } = this.memory.window(guest, whole)
    region.refresh()
    region.u8.fill(0, offset, offset + whole)
    if (!this.identity && !this.iovas.take(order)) {
      this.ram.release(guest)
      throw new DmaError('DMA_ALLOC', this.name, `no I/O virtual addresses for ${whole} bytes`, { length, align })
    }
    const iova = this.identity ? guest : this.iovas.taken[0]
    // Devices read the rings that they write: their own index, say.
    const both = use === 'ring' && (direction === FROM || this.domain.ringsReadWrite === true)
    const allowed = access(both ? BIDIRECTIONAL : direction)
    // What became of maps before this one is for `commitMaps` to tell.
    if (this.mapsQueued > 0) this.wait()
    const { mapped, refused } = this
    this.mapped = OK
    if (this.identity) {
      this.run[AT] = guest
      this.shareEach(whole)
    } else this.queueMap(iova, guest, whole, allowed)
    const allocated: DmaRegion = { device: iova as DeviceAddress, region, offset, length: whole, direction }
    this.regions.set(allocated, { guest, length: whole, iova, order })
    counters.allocatedBytes += whole
    const removed = this.wait()
    const own = this.mapped
    this.mapped = mapped
    this.refused = refused
    if (removed === OK && own === OK) return allocated
    // Where removals do not work either, the memory stays out of use.
    if (removed === OK) this.free(allocated)
    throw new DmaError('DMA_ALLOC', this.name, `the IOMMU did not map ${whole} bytes`, { length, align })
  }

  free(region: DmaRegion): void {
    const held = this.regions.get(region)
    if (held === undefined)
      throw new DmaError('DMA_FREE', this.name, `the region at ${hex(region.device)} is not allocated here`, {
        device: region.device,
      })
    if (this.identity) {
      this.run[AT] = held.guest
      this.unshareEach(held.length)
    } else {
      this.run[AT] = held.iova
      this.queueUnmap(held.order)
    }
    // Without deferral: what is given back here may belong to anybody next.
    this.flushRun()
    if (this.wait() !== OK)
      throw new DmaError(
        'DMA_STILL_REACHABLE',
        this.name,
        `the IOMMU did not confirm that ${hex(region.device)} was unmapped`,
        {
          device: region.device,
        },
      )
    this.regions.delete(region)
    this.counters.allocatedBytes -= held.length
    this.ram.release(held.guest)
  }

  map(m: DmaMappings, row: number): DmaStatus {
    const length = m.length[row]
    const { counters, mask } = this
    if (!this.memory.contains(m.guest, row, length)) {
      counters.unmappable++
      return UNMAPPABLE
    }
    if (m.standing && this.standing >= this.standingLimit && !this.mayTry()) {
      counters.exhausted++
      return EXHAUSTED
    }
    const guest = m.guest[row]
    const into = guest & mask
    if (this.sharesPages && into + length <= this.granule) {
      // Inside one granule: buffers that share it, for the same access, share its address too.
      const pageCounts = this.pageCounts as PageCounts
      const allowed = m.direction[row]
      const at = pageCounts.locate(m.guest, row)
      const { cells } = pageCounts
      const slot = at + allowed
      if (cells[slot] === 0) {
        const { domain, iovas } = this
        if (!iovas.take(0) && !(this.reclaimed() && iovas.take(0))) return this.noAddresses()
        const { request } = domain
        const iova = iovas.taken[0]
        cells[slot + PAGE_IOVA] = iova
        request[IOVA] = iova
        request[GUEST] = guest - into
        request[LENGTH] = this.granule
        domain.map(allowed)
        counters.mapRequests++
        this.mapsQueued++
      }
      cells[at]++
      cells[slot]++
      m.device[row] = cells[slot + PAGE_IOVA] + into
      m.deviceLength[row] = length
      m.token[row] = this.round
      counters.maps++
      if (m.standing) this.standing++
      this.unanswered++
      return OK
    }
    if (length > this.longest && this.tooLong(m, row)) {
      counters.tooLong++
      return TOO_LONG
    }
    const whole = (into + length + mask) & ~mask
    if (this.identity) {
      m.device[row] = guest
      this.run[AT] = guest - into
      this.shareEach(whole)
    } else {
      const { iovas, domain } = this
      const order = this.order(whole)
      if (this.slots !== null && !this.takeSlots(m, row) && !(this.reclaimed() && this.takeSlots(m, row))) {
        counters.exhausted++
        return EXHAUSTED
      }
      if (!iovas.take(order) && !(this.reclaimed() && iovas.take(order))) {
        if (this.slots !== null) this.slots.giveBack(m, row)
        return this.noAddresses()
      }
      const iova = iovas.taken[0]
      if (this.slots !== null && (m.token[row] & TOKEN_SLOTS) !== 0) {
        this.mapAroundSlots(m, row)
      } else {
        const request = domain.request
        request[IOVA] = iova
        request[GUEST] = guest - into
        request[LENGTH] = whole
        domain.map(access(m.direction[row]))
        counters.mapRequests++
        this.mapsQueued++
        if (this.pageCounts !== null) this.countPages(m.guest, row, into, whole, 1)
      }
      m.device[row] = iova + into
    }
    m.deviceLength[row] = length
    m.token[row] = this.slots === null ? this.round : (m.token[row] & TOKEN_SLOTS) | this.round
    counters.maps++
    if (m.standing) this.standing++
    this.unanswered++
    return OK
  }

  unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    const { counters, mask } = this
    const length = m.length[row]
    const into = m.guest[row] & mask
    counters.unmaps++
    if (m.standing) this.standing--
    if (this.unanswered > 0 && (m.token[row] & ~TOKEN_SLOTS) === this.round && --this.unanswered === 0) this.mapped = OK
    if (this.sharesPages && into + length <= this.granule) {
      const pageCounts = this.pageCounts as PageCounts
      const at = pageCounts.locate(m.guest, row)
      const { cells } = pageCounts
      if (--cells[at] > 0) counters.stillExposed++
      // Others may still use the address.
      if (--cells[at + m.direction[row]] > 0) return OK
      this.run[AT] = m.device[row] - into
      this.queueUnmap(0)
      return OK
    }
    const whole = (into + length + mask) & ~mask
    if (this.identity) {
      this.run[AT] = m.guest[row] - into
      this.unshareEach(whole)
      return OK
    }
    if (this.slots !== null && (m.token[row] & TOKEN_SLOTS) !== 0) {
      const back = written < length ? written : length
      if (back > 0) counters.bytesCopiedFromDevice += this.slots.drain(m, row, 0, back)
      this.slots.retire(m, row)
    } else if (this.pageCounts !== null && this.countPages(m.guest, row, into, whole, -1) > 0) {
      counters.stillExposed++
    }
    this.run[AT] = m.device[row] - into
    this.queueUnmap(this.order(whole))
    return OK
  }

  syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.counters.syncs++
    if (!m.spans(row, offset, length)) return UNMAPPABLE
    if (this.slots !== null && (m.token[row] & TOKEN_SLOTS) !== 0)
      this.counters.bytesCopiedToDevice += this.slots.fill(m, row, offset, length)
    return OK
  }

  syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.counters.syncs++
    if (!m.spans(row, offset, length)) return UNMAPPABLE
    if (this.slots !== null && (m.token[row] & TOKEN_SLOTS) !== 0)
      this.counters.bytesCopiedFromDevice += this.slots.drain(m, row, offset, length)
    return OK
  }

  commitMaps(): DmaStatus {
    this.counters.commitMaps++
    const removed = this.mapsQueued === 0 ? OK : this.wait()
    if (removed !== OK) return removed
    if (this.refused) this.learnRoom()
    else if (this.standingLimit !== Infinity && this.mapped === OK) this.learnMoreRoom()
    const { mapped } = this
    if (mapped === OK) {
      this.unanswered = 0
      this.round = (((this.round >>> ROUND) + 1) & ROUND_MASK) << ROUND
    }
    return mapped
  }

  commitUnmaps(): DmaStatus {
    this.counters.commitUnmaps++
    this.flushRun()
    if (this.pendingCount === 0) return this.removalsQueued === 0 ? OK : this.wait()
    if (this.pendingCount > this.counters.staleHighWater) this.counters.staleHighWater = this.pendingCount
    const { fresh } = this
    this.fresh = false
    // Those that began to wait in this batch are not overdue, and the clock need not be asked.
    if (this.pendingCount < this.lazyEntries && (fresh || !this.overdue())) {
      if (this.timer === null && this.wake !== undefined) this.watchFor(this.lazyMs)
      return OK
    }
    return this.wait()
  }

  /** For whoever owns the loop: waits for deferred removals that are due. Returns how many there were. */
  poll(): number {
    const due = this.pendingCount
    if (due === 0 || this.disposed || !this.overdue()) return 0
    return this.wait() === OK ? due : 0
  }

  dispose(): void {
    if (this.disposed) return
    if (this.timer !== null) clearTimeout(this.timer)
    this.timer = null
    try {
      // The whole address space goes at once, and with it every mapping.
      disposeDomain(this.domain)
    } catch (error) {
      // Memory goes back once the domain is known to be gone.
      this.whenGone(() => this.release())
      throw error
    }
    this.release()
  }

  whenGone(release: () => void): void {
    this.domain.whenGone?.(release)
  }

  // The device can reach nothing of it any more.
  private release(): void {
    if (this.disposed) return
    this.disposed = true
    const { counters } = this
    for (const { guest, length } of this.regions.values()) {
      this.ram.release(guest)
      counters.allocatedBytes -= length
    }
    this.regions.clear()
    counters.unmaps = counters.maps
    this.slots?.dispose()
    this.wake?.()
  }

  // Some buffers above the limit fit all the same: it depends on where they begin.
  private tooLong(m: DmaMappings, row: number): boolean {
    const length = m.length[row]
    if (length > LONGEST) return true
    const whole = ((m.guest[row] & this.mask) + length + this.mask) & ~this.mask
    return this.order(whole) > this.iovas.largestOrder
  }

  // The order of a span: it holds 2^order granules, and a gap.
  private order(whole: number): number {
    const length = (whole < this.leastLength ? this.leastLength : whole) + this.gap
    return 32 - Math.clz32((length >>> this.shift) - 1)
  }

  // Slots for the granules that a buffer covers only in part. False where there are too few.
  private takeSlots(m: DmaMappings, row: number): boolean {
    const slots = this.slots as SubGranuleSlots
    const length = m.length[row]
    const into = m.guest[row] & this.mask
    const end = into + length
    const head = this.bounce ? into !== 0 || end < this.granule : length < this.leastLength
    const tail = this.bounce && end > this.granule && (end & this.mask) !== 0
    m.token[row] = 0
    if (!head && !tail) return true
    m.token[row] = slots.take(head, tail, m.standing)
    if (m.token[row] === 0) return false
    this.counters.bytesCopiedToDevice += slots.fill(m, row, 0, length)
    return true
  }

  // The span of I/O virtual addresses is whole: slots at its edges, the buffer's own granules in between.
  private mapAroundSlots(m: DmaMappings, row: number): void {
    const { granule, mask, slots, iovas } = this
    const token = m.token[row]
    const into = m.guest[row] & mask
    const whole = (into + m.length[row] + mask) & ~mask
    const allowed = access(m.direction[row])
    const edges = slots as SubGranuleSlots
    const guests = edges.guest
    const head = edges.headOf(token)
    const tail = edges.tailOf(token)
    const edge = granule < this.leastLength ? this.leastLength : granule
    const from = head >= 0 ? granule : 0
    const to = tail >= 0 ? whole - granule : whole
    if (head >= 0) this.queueMap(iovas.taken[0], guests[head], edge, allowed)
    if (to > from) this.queueMap(iovas.taken[0] + from, m.guest[row] - into + from, to - from, allowed)
    if (tail >= 0) this.queueMap(iovas.taken[0] + to, guests[tail], edge, allowed)
  }

  private queueMap(iova: number, guest: number, length: number, allowed: number): void {
    const { request } = this.domain
    request[IOVA] = iova
    request[GUEST] = guest
    request[LENGTH] = length
    this.domain.map(allowed)
    this.counters.mapRequests++
    this.mapsQueued++
  }

  // Removes the span at run[AT]; neighbours are collected into one request.
  private queueUnmap(order: number): void {
    const { run } = this
    const at = run[AT]
    const length = this.iovas.lengths[order]
    if (at === run[END]) {
      run[END] = at + length
    } else if (at + length === run[START]) {
      run[START] = at
    } else {
      this.flushRun()
      run[START] = at
      run[END] = at + length
    }
    const n = this.pendingCount
    if (n === this.pendingAt.length) this.growPending()
    if (n === 0 && this.lazyEntries > 0) {
      // When the clock was last asked: too early rather than too late, and it need not be asked for each batch.
      this.clock[SINCE] = this.clock[ASKED]
      this.fresh = this.lazyMs > 0
    }
    this.pendingAt[n] = at
    this.pendingOrder[n] = order
    this.pendingCount = n + 1
  }

  private flushRun(): void {
    const { run } = this
    if (run[END] === run[START]) return
    const { request } = this.domain
    request[IOVA] = run[START]
    request[LENGTH] = run[END] - run[START] - this.gap
    run[START] = run[END] = 0
    this.domain.unmap()
    this.counters.unmapRequests++
  }

  // Waits for everything that is queued. Ok: removed spans may be used again. What became of maps is kept for
  // `commitMaps` to tell: it says nothing about the removals.
  private wait(): DmaStatus {
    this.flushRun()
    const { domain, iovas, pendingAt, pendingOrder } = this
    this.counters.synchronousCommits++
    const status = domain.commit()
    if (status !== OK && this.mapped !== FAILED) this.mapped = status
    if (status === EXHAUSTED) this.refused = true
    this.mapsQueued = 0
    if (domain.broken && domain.detached !== true) return FAILED
    this.removalsQueued = 0
    for (let i = 0; i < this.pendingCount; i++) iovas.give(pendingAt, i, pendingOrder[i])
    this.pendingCount = 0
    if (this.slots !== null) this.counters.bytesCleared += this.slots.reclaim()
    return OK
  }

  // Deferred removals hold what a new mapping needs. Returns whether some of it may be free now.
  private reclaimed(): boolean {
    if (this.pendingCount === 0) return false
    return this.wait() === OK
  }

  // No span is free. Without a mapping of its own none will come back: what is allocated stays, and nobody else shares
  // the address space.
  private noAddresses(): DmaStatus {
    const { counters } = this
    if (this.domain.broken) return FAILED
    if (counters.maps === counters.unmaps && this.pendingCount === 0) {
      counters.tooLong++
      return TOO_LONG
    }
    counters.exhausted++
    return EXHAUSTED
  }

  private lent(): number {
    return this.counters.maps - this.counters.unmaps
  }

  // An IOMMU does not say how many mappings it can keep, and others may hold some of them for a while. Posted receive
  // buffers hold at most half of what was seen to fit, so that requests can always go on; so twice as many are tried.
  private learnRoom(): void {
    const live = this.lent()
    // A single mapping, and nothing else is lent to this device or to another one: nothing will be given back.
    if (live === 1 && this.unanswered === 1 && this.domain.exclusive === true) this.mapped = UNMAPPABLE
    this.tried = this.refused = false
    this.refusedAt = Math.min(this.refusedAt, live)
    this.standingLimit = Math.min(this.standingLimit, live >> 2)
    this.standingMost = Math.max(this.standingLimit, live >> 1)
  }

  private learnMoreRoom(): void {
    const { tried } = this
    const live = this.lent()
    if (live >> 1 > this.standingLimit) {
      this.standingLimit = live >> 1
      if (tried) this.patience = FIRST_PATIENCE
    }
    // What was tried and is too much to stay goes back all at once.
    if (tried && this.standing > this.standingLimit) this.mapped = EXHAUSTED
    if (tried || this.standingMost < this.standingLimit) this.standingMost = this.standingLimit
    this.tried = false
    // What was too much is not any more: the shortage has passed.
    if (live > this.refusedAt) this.standingLimit = this.standingMost = this.refusedAt = Infinity
  }

  // More standing mappings than may stay: may they be tried? Where there is none at all, nothing that arrives would
  // ever ask again, so a few are tried each time.
  private mayTry(): boolean {
    if (this.standing >= this.standingMost) {
      if (this.standing > this.standingLimit) return false
      if (++this.heldBack >= this.patience) {
        this.heldBack = 0
        this.patience = Math.min(2 * this.patience, MOST_PATIENCE)
        this.standingMost = Infinity
      } else if (this.standing === 0) this.standingMost = 2
      else return false
    }
    this.tried = true
    return true
  }

  private overdue(): boolean {
    if (this.lazyEntries === 0) return true
    const { clock } = this
    clock[ASKED] = this.time()
    const age = clock[ASKED] - clock[SINCE]
    // A clock that went back, or says nothing, must not put removals off for good.
    return !(age >= 0 && age < this.lazyMs)
  }

  private watchFor(milliseconds: number): void {
    if (milliseconds === Infinity) return
    // A timer that is later than the longest possible fires at once.
    this.timer = setTimeout(this.look, Math.min(Math.ceil(milliseconds), LONGEST_TIMER_MS))
  }

  private readonly look = (): void => {
    this.timer = null
    // What a broken domain keeps is given back by a reset.
    if (this.pendingCount === 0 || this.disposed || this.domain.broken) return
    const due = this.overdue()
    // Until the owner had a turn, and for removals that began after the timer did.
    this.watchFor(due ? this.lazyMs : this.clock[SINCE] + this.lazyMs - this.clock[ASKED])
    if (due) this.wake?.()
  }

  private time(): number {
    return this.now === undefined ? performance.now() : this.now()
  }

  private growPending(): void {
    const [at, order] = [new Float64Array(2 * this.pendingAt.length), new Uint8Array(2 * this.pendingAt.length)]
    at.set(this.pendingAt)
    order.set(this.pendingOrder)
    this.pendingAt = at
    this.pendingOrder = order
  }

  // Counts a mapping in, or out, of every granule that it touches. Returns the largest count that is left.
  private countPages(guest: Float64Array, row: number, into: number, whole: number, step: number): number {
    const pageCounts = this.pageCounts as PageCounts
    if (whole === this.granule) return pageCounts.add(guest, row, step)
    const { run } = this
    let most = 0
    for (let at = 0; at < whole; at += this.granule) {
      run[AT] = guest[row] - into + at
      const left = pageCounts.add(run, AT, step)
      if (left > most) most = left
    }
    return most
  }

  // Others may lend what else is in a page, in either direction, while it is shared.
  private shareEach(whole: number): void {
    const { counters, domain, granule, run } = this
    const { request } = domain
    const pageCounts = this.pageCounts as PageCounts
    for (let left = whole; left > 0; left -= granule) {
      if (pageCounts.add(run, AT, 1) === 1) {
        request[IOVA] = request[GUEST] = run[AT]
        request[LENGTH] = granule
        domain.map(DOMAIN_READ | DOMAIN_WRITE)
        counters.mapRequests++
        this.mapsQueued++
      }
      run[AT] += granule
    }
  }

  private unshareEach(whole: number): void {
    const { counters, domain, granule, run } = this
    const { request } = domain
    const pageCounts = this.pageCounts as PageCounts
    for (let left = whole; left > 0; left -= granule) {
      if (pageCounts.add(run, AT, -1) > 0) counters.stillExposed++
      else {
        request[IOVA] = run[AT]
        request[LENGTH] = granule
        domain.unmap()
        this.removalsQueued++
        counters.unmapRequests++
      }
      run[AT] += granule
    }
  }
}

// A direction as the device sees it: what goes to the device is what it may read. The bits are the same.
function access(direction: number): number {
  return direction
}
