import { type BusWindow, BusWindows } from '@guestdma/devices'
import {
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
  type DmaScheme,
  type DmaStatus,
  type DmaTraits,
  FROM_DEVICE,
  factKey,
  newDmaCounters,
  type PlatformBuilder,
  TO_DEVICE,
} from '@guestdma/dma'
import { type DeviceAddress, type GuestAddress, type GuestMemory, hex, type SpanAllocator } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'

export interface ExactOptions {
  /** The unit of reach: a power of two. Default 1: the device reaches what is lent and not one byte more. */
  readonly granule?: number
  /** Unmapped entries that may stay reachable. Default 0: strict. */
  readonly staleEntries?: number
  /** Longest mapping. Default 2^32 - 1. */
  readonly maxMappingLength?: number
  /**
   * Device address less guest address, a multiple of 4096. Default 0x1_2000_0000, so that device addresses exceed 32
   * bits.
   */
  readonly busOffset?: number
}

const BUS_OFFSET = 0x1_2000_0000

interface Span {
  readonly guest: number
  readonly length: number
  readonly access: number
}

/**
 * A perfect IOMMU, to hold drivers and suites against: buffers are lent in place, and the device's port opens when maps
 * are committed and closes when unmaps are, for exactly the granules that are lent and in the direction they are lent.
 * Whoever publishes before the commit, or uses an address after the unmap, meets a fault.
 *
 * Every commit rebuilds the port's windows, so keep live mappings in the hundreds.
 */
export class ExactBackend implements DmaBackend {
  readonly name = 'exact'
  readonly traits: DmaTraits
  readonly limits: DmaLimits
  readonly counters: DmaCounters = newDmaCounters()

  private readonly memory: GuestMemory
  private readonly ram: SpanAllocator
  private readonly port: BusWindows
  private readonly busOffset: number
  private readonly regions = new Map<DmaRegion, Span>()
  private readonly live = new Map<number, Span>()
  private readonly stale: Span[] = []
  private readonly staleEntries: number
  private nextToken = 1
  private dirty = false

  constructor(setup: { memory: GuestMemory; ram: SpanAllocator; port: BusWindows }, options: ExactOptions = {}) {
    const { granule = 1, staleEntries = 0, maxMappingLength = 0xffff_ffff, busOffset = BUS_OFFSET } = options
    this.memory = setup.memory
    this.ram = setup.ram
    this.port = setup.port
    this.busOffset = busOffset
    this.staleEntries = staleEntries
    this.traits = {
      streaming: 'in-place',
      payload: 'plain',
      home: 'guest-ram',
      readOnly: 'enforced',
      reach: granule === 1 ? 'byte' : 'granule',
      // What shares a granule with a neighbour stays within reach as long as that is lent.
      revocation: staleEntries === 0 && granule === 1 ? 'strict' : 'deferred',
      enforcedBy: 'trusted-code',
      residue: 'none',
    }
    this.limits = {
      granule,
      maxMappingLength,
      maxLiveMappings: 2 ** 31,
      assuredMappings: 2 ** 31,
      maxDeviceAddress: this.memory.ranges[this.memory.ranges.length - 1].end - 1 + busOffset,
      overhead: 0,
      syncGranule: 1,
      staleEntries: granule === 1 ? staleEntries : Infinity,
      staleNs: staleEntries === 0 && granule === 1 ? 0 : Infinity,
    }
  }

  alloc(length: number, align: number, direction: DmaDirection, _use: 'ring' | 'payload'): DmaRegion {
    const { granule } = this.limits
    const whole = Math.ceil(length / granule) * granule
    let guest: GuestAddress
    try {
      guest = this.ram.allocate(whole, Math.max(align, granule))
    } catch (cause) {
      throw new DmaError(
        'DMA_ALLOC',
        this.name,
        `no guest RAM: ${(cause as Error).message}`,
        { length, align },
        { cause },
      )
    }
    const { region, offset } = this.memory.window(guest, whole)
    region.refresh()
    region.u8.fill(0, offset, offset + whole)
    const allocated: DmaRegion = {
      device: (guest + this.busOffset) as DeviceAddress,
      region,
      offset,
      length: whole,
      direction,
    }
    this.regions.set(allocated, { guest, length: whole, access: 3 })
    this.counters.allocatedBytes += whole
    this.open()
    return allocated
  }

  free(region: DmaRegion): void {
    const span = this.regions.get(region)
    if (span === undefined)
      throw new DmaError('DMA_FREE', this.name, `the region at ${hex(region.device)} is not allocated here`)
    this.regions.delete(region)
    this.open()
    this.ram.release(span.guest as GuestAddress)
    this.counters.allocatedBytes -= region.length
  }

  map(m: DmaMappings, row: number): DmaStatus {
    const length = m.length[row]
    if (length > this.limits.maxMappingLength) {
      this.counters.tooLong++
      return DMA_TOO_LONG
    }
    if (!this.memory.contains(m.guest, row, length)) {
      this.counters.unmappable++
      return DMA_UNMAPPABLE
    }
    const direction = m.direction[row]
    const access = ((direction & TO_DEVICE) !== 0 ? 1 : 0) | ((direction & FROM_DEVICE) !== 0 ? 2 : 0)
    const token = this.nextToken++
    this.live.set(token, { guest: m.guest[row], length, access })
    m.device[row] = m.guest[row] + this.busOffset
    m.deviceLength[row] = length
    m.token[row] = token
    this.counters.maps++
    this.dirty = true
    return DMA_OK
  }

  unmap(m: DmaMappings, row: number, _written: number): DmaStatus {
    const token = m.token[row]
    const span = this.live.get(token)
    if (span === undefined) throw new DmaError('DMA_NOT_MAPPED', this.name, `row ${row} is not mapped`, { row })
    this.live.delete(token)
    this.stale.push(span)
    this.counters.unmaps++
    this.dirty = true
    return DMA_OK
  }

  syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.counters.syncs++
    return m.spans(row, offset, length) ? DMA_OK : DMA_UNMAPPABLE
  }

  syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.counters.syncs++
    return m.spans(row, offset, length) ? DMA_OK : DMA_UNMAPPABLE
  }

  commitMaps(): DmaStatus {
    this.counters.commitMaps++
    if (this.dirty) this.open()
    return DMA_OK
  }

  commitUnmaps(): DmaStatus {
    this.counters.commitUnmaps++
    if (this.stale.length > this.staleEntries) this.stale.length = 0
    if (this.dirty) this.open()
    return DMA_OK
  }

  dispose(): void {
    this.live.clear()
    this.stale.length = 0
    for (const region of [...this.regions.keys()]) this.free(region)
    this.open()
  }

  // Spans may overlap, windows may not: between two neighbouring edges the accesses of all spans that cover them add
  // up.
  private open(): void {
    this.dirty = false
    // Windows are checked against their buffers, of which one that grew has no bytes until then.
    this.memory.refresh()
    const edges: { at: number; read: number; write: number }[] = []
    const { granule } = this.limits
    for (const { guest, length, access } of [...this.regions.values(), ...this.live.values(), ...this.stale]) {
      const [range] = this.memory.ranges.filter(({ base, end }) => guest >= base && guest < end)
      const from = Math.max(Math.floor(guest / granule) * granule, range.base)
      const to = Math.min(Math.ceil((guest + length) / granule) * granule, range.end)
      const [read, write] = [access & 1, access >>> 1]
      edges.push({ at: from, read, write }, { at: to, read: -read, write: -write })
    }
    edges.sort((a, b) => a.at - b.at)
    const windows: BusWindow[] = []
    let readers = 0
    let writers = 0
    for (const [i, { at, read, write }] of edges.entries()) {
      readers += read
      writers += write
      const end = edges[i + 1]?.at ?? at
      const access = (readers > 0 ? 1 : 0) | (writers > 0 ? 2 : 0)
      if (end === at || access === 0) continue
      const { region, offset } = this.memory.window(at as GuestAddress, end - at)
      windows.push({ base: at + this.busOffset, length: end - at, region, offset, access: access as 1 | 2 | 3 })
    }
    this.port.setWindows(windows)
  }
}

const portFact = factKey<BusWindows>('exact port')

/** The scheme of {@link ExactBackend}. */
export function exactScheme(options: ExactOptions = {}): DmaScheme {
  return {
    id: 'exact',
    provider: {
      id: 'exact',
      reach: (options.granule ?? 1) === 1 ? 'byte' : 'granule',
      assess: ({ fact }) =>
        fact(portFact) === undefined
          ? { fit: 'unusable', why: 'the platform has no port that opens and closes for this device' }
          : { fit: 'usable', accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM), why: 'a double for tests' },
      create: ({ memory, ram, fact }) => new ExactBackend({ memory, ram, port: fact(portFact) as BusWindows }, options),
    },
    install(platform: PlatformBuilder) {
      const port = new BusWindows(platform.device)
      platform.declareRam(true, options.busOffset ?? BUS_OFFSET)
      platform.declareFact(portFact, port)
      return () => port
    },
  }
}
