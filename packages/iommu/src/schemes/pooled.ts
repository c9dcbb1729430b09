import { BounceBackend, BouncePool, type ClearPolicy } from '@guestdma/bounce'
import {
  DMA_OK,
  type DmaBackend,
  DmaError,
  type DmaProvider,
  type DmaScheme,
  factKey,
  type PlatformBuilder,
  type PlatformOffer,
  type PoolFact,
} from '@guestdma/dma'
import type { BusPort, DeviceAddress, GuestAddress } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import {
  DOMAIN_READ,
  DOMAIN_WRITE,
  disposeDomain,
  REQUEST_GUEST,
  REQUEST_IOVA,
  REQUEST_LENGTH,
} from '../backend/domain.ts'
import { IovaAllocator } from '../backend/iova-allocator.ts'
import type { VirtioIommuDomain } from '../virtio/virtio-domain.ts'
import { attach, behindForeign, behindOwn, type ForeignIommu, type IommuUnit, orDetach } from './unit.ts'
import { behindIommu } from './virtio-iommu.ts'

/** The guest address of a pool, which an IOMMU's driver needs and a device does not. */
const poolGuestFact = factKey<GuestAddress>('guest address of the pool')

export interface PooledIommuOptions {
  readonly id?: string
  /** Bytes of each device's pool. Default 4 MiB. */
  readonly size?: number
  readonly clear?: ClearPolicy
  readonly reserve?: number
  /**
   * Guest RAM is private: neither device nor IOMMU reaches more of it than the pools. Default false: RAM could be
   * mapped, but only the pool is ("simple mode").
   */
  readonly privateRam?: boolean
  /**
   * Memory that a pool consists of, where it is not guest RAM of the machine: memory that another process is given. Its
   * `device` is the address by which the IOMMU knows it. Called for each pool with the name of its device.
   */
  memory?(device: string): PoolFact
  /** The IOMMU of devices that live elsewhere. Default: one that this machine makes. */
  readonly iommu?: ForeignIommu
}

/**
 * A pool behind an IOMMU, mapped once when the device is brought up and never after: buffers are copied, and no request
 * is sent on the data path. `virtio-iommu-simple` where guest RAM could be mapped as well (the "simple mode" of the
 * SWIOTLB RFC's discussion), `virtio-iommu-pool` where RAM is private.
 */
export function pooledIommuScheme(options: PooledIommuOptions = {}): DmaScheme {
  const { size = 4 << 20, clear = 'foreign', reserve, privateRam = false } = options
  const id = options.id ?? (privateRam ? 'virtio-iommu-pool' : 'virtio-iommu-simple')
  const key = factKey<IommuUnit>(id)
  const provider: DmaProvider = {
    id,
    reach: 'pool',
    assess(offer) {
      const refused =
        offer.iommu === undefined
          ? 'the device is not behind an IOMMU'
          : offer.pool === undefined || offer.fact(poolGuestFact) === undefined
            ? 'the platform has no pool in guest RAM for this device'
            : behindIommu(offer)
      if (refused !== null) return { fit: 'unusable', why: refused }
      // Where the IOMMU can reach RAM, the pool is a choice and not the rule.
      if (offer.ramReachable && !offer.listed.has(id))
        return { fit: 'unusable', why: 'the IOMMU can reach guest RAM; list the pool to use it' }
      const why = offer.ramReachable ? 'listed by the caller' : 'guest RAM is private and the pool is not'
      return { fit: 'usable', accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM), why }
    },
    async create(offer: PlatformOffer): Promise<DmaBackend> {
      const { domain } = await attach(offer)
      const backend = orDetach(domain, () => {
        const pool = mapPool(id, offer, domain)
        const name = `${offer.device} pool`
        const slots = new BouncePool({ name, pool, ...(reserve === undefined ? {} : { reserve }) })
        return new BounceBackend({ name: id, memory: offer.memory, pool: slots, clear, enforcedBy: offer.enforcedBy })
      })
      return Object.assign(backend, {
        dispose(): void {
          disposeDomain(domain)
          BounceBackend.prototype.dispose.call(backend)
        },
        whenGone: (release: () => void): void => domain.whenGone(release),
      })
    },
  }
  return {
    id,
    provider,
    install(platform: PlatformBuilder): () => BusPort {
      const pool = options.memory?.(platform.device) ?? inGuestRam(platform, size)
      const { device, window } = pool
      platform.declareRam(!privateRam)
      platform.declarePool(pool)
      platform.declareFact(poolGuestFact, device as number as GuestAddress)
      if (options.iommu !== undefined) return behindForeign(platform, key, options.iommu)
      // Private RAM: under the IOMMU there is the pool and nothing else.
      const confined = privateRam ? { downstream: platform.window(device, window), ownPool: OWN_POOL } : {}
      return behindOwn(platform, key, platform.iommu({ key, ...confined }))
    },
  }
}

const POOL_ALIGN = 4096
const LARGEST_GRANULE = 65_536
/** Room for an IOMMU's own queues: their rings and cells take 64 KiB. */
const OWN_POOL = 1 << 19

// Without translation the IOMMU knows it by its guest address.
function inGuestRam(platform: PlatformBuilder, size: number): PoolFact {
  const { guest, window } = platform.reserve(size, Math.max(POOL_ALIGN, LARGEST_GRANULE))
  return { window, device: guest as number as DeviceAddress, home: 'guest-ram' }
}

// Maps the pool of an offer, once and for all, and says where the device sees it.
function mapPool(id: string, offer: PlatformOffer, domain: VirtioIommuDomain): PoolFact {
  const { window, home } = offer.pool as PoolFact
  const length = Math.floor(window.length / domain.granule) * domain.granule
  const iovas = new IovaAllocator({
    granule: Math.max(domain.granule, POOL_ALIGN),
    start: domain.inputStart,
    end: domain.inputEnd,
    reserved: domain.reserved,
  })
  const order = Math.max(0, Math.ceil(Math.log2(length / iovas.granule)))
  if (length === 0 || !iovas.take(order))
    throw new DmaError('DMA_ALLOC', id, `no I/O virtual addresses for a pool of ${window.length} bytes`, {
      length: window.length,
      granule: domain.granule,
    })
  const device = iovas.taken[0] as DeviceAddress
  domain.request[REQUEST_IOVA] = device
  domain.request[REQUEST_GUEST] = offer.fact(poolGuestFact) as GuestAddress
  domain.request[REQUEST_LENGTH] = length
  domain.map(DOMAIN_READ | DOMAIN_WRITE)
  if (domain.commit() !== DMA_OK)
    throw new DmaError('DMA_ALLOC', id, `the IOMMU did not map the pool of ${length} bytes`, { length })
  return { window: { ...window, length }, device, home }
}
