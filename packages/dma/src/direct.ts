import {
  ADDRESS_LIMIT,
  attempt,
  type BusPort,
  type DeviceAddress,
  type GuestAddress,
  type GuestMemory,
  hex,
  type MemoryWindow,
  type SpanAllocator,
} from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import {
  type DmaBackend,
  type DmaCounters,
  type DmaLimits,
  type DmaRegion,
  type DmaTraits,
  newDmaCounters,
} from './backend.ts'
import { DmaError } from './errors.ts'
import type { DmaMappings } from './mappings.ts'
import type { PlatformOffer, Suitability } from './offer.ts'
import type { PlatformBuilder } from './platform.ts'
import type { DmaProvider, DmaScheme } from './scheme.ts'
import { DMA_OK, DMA_UNMAPPABLE, type DmaDirection, type DmaStatus } from './status.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const OK = DMA_OK
const UNMAPPABLE = DMA_UNMAPPABLE

/**
 * No confinement: the device is given the guest's own addresses, plus a bus offset where ACCESS_PLATFORM was accepted.
 * The measure that every other scheme is held against, and the backend under an IOMMU driver's own request queue.
 *
 * @example
 * const backend = new DirectBackend({ memory, ram: new SpanAllocator(guestAddress(0x8010_0000), 1 << 20) })
 */
export class DirectBackend implements DmaBackend {
  readonly name = 'direct'
  readonly traits: DmaTraits = {
    streaming: 'in-place',
    payload: 'plain',
    home: 'guest-ram',
    readOnly: 'not-enforced',
    reach: 'all',
    revocation: 'none',
    enforcedBy: 'nothing',
    residue: 'none',
  }
  declare readonly limits: DmaLimits
  readonly counters: DmaCounters = newDmaCounters()

  declare private readonly memory: GuestMemory
  declare private readonly ram: SpanAllocator
  declare private readonly busOffset: number
  private readonly regions = new Map<DmaRegion, GuestAddress>()

  constructor({ memory, ram, busOffset = 0 }: { memory: GuestMemory; ram: SpanAllocator; busOffset?: number }) {
    this.memory = memory
    this.ram = ram
    const bottom = memory.ranges[0].base + busOffset
    const end = memory.ranges[memory.ranges.length - 1].end + busOffset
    if (!Number.isInteger(busOffset) || bottom < 0 || end > ADDRESS_LIMIT) {
      const message = `a bus offset of ${busOffset} puts device addresses outside of 0 to 2^53 - 1`
      throw new DmaError('DMA_BUS_OFFSET', this.name, message, { busOffset })
    }
    if (busOffset % BUS_ALIGN !== 0) {
      throw new DmaError(
        'DMA_BUS_OFFSET',
        this.name,
        `a bus offset of ${hex(busOffset)} is not a multiple of ${BUS_ALIGN}, so aligned rings would not stay aligned`,
        { busOffset },
      )
    }
    this.busOffset = busOffset
    const top = memory.ranges[memory.ranges.length - 1]
    this.limits = {
      granule: 1,
      maxMappingLength: 0xffff_ffff,
      maxLiveMappings: Infinity,
      assuredMappings: Infinity,
      maxDeviceAddress: top.base + top.length - 1 + busOffset,
      overhead: 0,
      syncGranule: 1,
      staleEntries: Infinity,
      staleNs: Infinity,
    }
  }

  alloc(length: number, align: number, direction: DmaDirection, _use: 'ring' | 'payload'): DmaRegion {
    let guest: GuestAddress | undefined
    let window: MemoryWindow
    try {
      guest = this.ram.allocate(length, align)
      window = this.memory.window(guest, length)
    } catch (cause) {
      if (guest !== undefined) this.ram.release(guest)
      throw new DmaError(
        'DMA_ALLOC',
        this.name,
        `no guest RAM for ${length} bytes: ${(cause as Error).message}`,
        {
          length,
          align,
        },
        { cause },
      )
    }
    const { region, offset } = window
    region.refresh()
    region.u8.fill(0, offset, offset + length)
    const allocated: DmaRegion = {
      device: (guest + this.busOffset) as DeviceAddress,
      region,
      offset,
      length,
      direction,
    }
    this.regions.set(allocated, guest)
    this.counters.allocatedBytes += length
    return allocated
  }

  free(region: DmaRegion): void {
    const guest = this.regions.get(region)
    if (guest === undefined)
      throw new DmaError('DMA_FREE', this.name, `the region at ${hex(region.device)} is not allocated here`, {
        device: region.device,
      })
    this.regions.delete(region)
    this.ram.release(guest)
    this.counters.allocatedBytes -= region.length
  }

  map(m: DmaMappings, row: number): DmaStatus {
    const length = m.length[row]
    if (!this.memory.contains(m.guest, row, length)) {
      this.counters.unmappable++
      return UNMAPPABLE
    }
    const guest = m.guest[row]
    m.device[row] = this.busOffset === 0 ? guest : guest + this.busOffset
    m.deviceLength[row] = length
    this.counters.maps++
    return OK
  }

  unmap(_m: DmaMappings, _row: number, _written: number): DmaStatus {
    this.counters.unmaps++
    return OK
  }

  syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.counters.syncs++
    return m.spans(row, offset, length) ? OK : UNMAPPABLE
  }

  syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.counters.syncs++
    return m.spans(row, offset, length) ? OK : UNMAPPABLE
  }

  commitMaps(): DmaStatus {
    this.counters.commitMaps++
    return OK
  }

  commitUnmaps(): DmaStatus {
    this.counters.commitUnmaps++
    return OK
  }

  dispose(): void {
    const errors: unknown[] = []
    for (const region of [...this.regions.keys()]) attempt(errors, () => this.free(region))
    if (errors.length > 0) throw errors[0]
  }
}

/**
 * The `direct` scheme. A bus offset makes device addresses differ from guest addresses; a driver may use it only where
 * the device offers ACCESS_PLATFORM (virtio 1.4 §6: without it, only physical addresses).
 */
export function directScheme({ busOffset = 0 }: { busOffset?: number } = {}): DmaScheme {
  return {
    id: directProvider.id,
    provider: directProvider,
    install(platform: PlatformBuilder): () => BusPort {
      platform.declareRam(true, busOffset)
      return () => platform.everything(busOffset)
    },
  }
}

// A page: no alignment that `alloc` is asked for is larger.
const BUS_ALIGN = 4096

const directProvider: DmaProvider = {
  id: 'direct',
  reach: 'all',
  assess(offer: PlatformOffer): Suitability {
    const accessPlatform = offer.offered.has(VIRTIO_F_ACCESS_PLATFORM)
    const listed = offer.listed.has('direct')
    if (!offer.ramReachable) return unusable('guest RAM is not reachable by devices on this platform')
    if (!accessPlatform) {
      if (offer.busOffset === 0)
        return usable('the device does not offer ACCESS_PLATFORM: it uses physical addresses', FeatureSet.empty)
      return unusable(`the bus is offset by ${hex(offer.busOffset)} and the device does not offer ACCESS_PLATFORM`)
    }
    const accept = FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM)
    if (offer.iommu !== undefined) {
      if (!listed) return unusable('the endpoint is behind an IOMMU')
      if (!offer.iommu.bypass) return unusable('the endpoint is behind an IOMMU and not in bypass')
      return usable('listed by the caller, and the endpoint is in bypass', accept)
    }
    if (offer.pool !== undefined && !listed) return unusable('the platform has a pool for this device')
    return usable(listed ? 'listed by the caller' : 'the platform neither translates nor confines this device', accept)
  },
  create(offer: PlatformOffer, agreed: FeatureSet): DmaBackend {
    const { memory, ram, busOffset } = offer
    return new DirectBackend({ memory, ram, busOffset: agreed.has(VIRTIO_F_ACCESS_PLATFORM) ? busOffset : 0 })
  },
}

function usable(why: string, accept: FeatureSet): Suitability {
  return { fit: 'usable', accept, why }
}

function unusable(why: string): Suitability {
  return { fit: 'unusable', why }
}
