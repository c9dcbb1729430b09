import {
  type DmaBackend,
  type DmaProvider,
  type DmaScheme,
  type FactKey,
  factKey,
  type PlatformBuilder,
  type PlatformOffer,
  type PoolFact,
  type Suitability,
} from '@guestdma/dma'
import type { BusPort, DeviceAddress, Region } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { BounceBackend, type ClearPolicy } from './bounce-backend.ts'
import { BouncePool } from './bounce-pool.ts'

/** Where a platform keeps the slots of a pool: several devices' backends share one set of slots. */
export const bouncePoolFact: FactKey<BouncePool> = factKey<BouncePool>('bounce pool')

export interface SharedPoolOptions {
  /** Bytes of the pool. Default 4 MiB. */
  readonly size?: number
  /** One pool for all devices of the machine, or one for each (default). */
  readonly per?: 'device' | 'machine'
  /**
   * Memory that a pool consists of, where it is not guest RAM of the machine: a file of its own, say, whose descriptor is
   * all that another process is given. Called for each pool with the name of the device that comes first.
   */
  memory?(device: string): PoolFact
  /** See {@link ClearPolicy}. Default: `foreign` for a pool of one device, `on-return` for one of several. */
  readonly clear?: ClearPolicy
  /** See `BouncePoolOptions.reserve`. */
  readonly reserve?: number
}

/**
 * The `shared-pool` scheme: a `restricted-dma-pool` in host memory. The platform sets a span of guest RAM aside, the
 * device's port reaches that span and nothing else, and everything that crosses is copied into and out of it.
 */
export function sharedPoolScheme(options: SharedPoolOptions = {}): DmaScheme {
  const { size = 4 << 20, per = 'device', reserve } = options
  const key = factKey<{ fact: PoolFact; pool: BouncePool }>('shared pool')
  return {
    id: ID,
    provider: sharedPoolProvider(options, per === 'device'),
    install(platform: PlatformBuilder): () => BusPort {
      const make = (): { fact: PoolFact; pool: BouncePool } => {
        const fact = options.memory?.(platform.device) ?? inGuestRam(platform, size)
        const name = per === 'device' ? `${platform.device} pool` : 'default pool'
        return { fact, pool: new BouncePool({ name, pool: fact, ...(reserve === undefined ? {} : { reserve }) }) }
      }
      const { fact, pool } = per === 'device' ? make() : platform.shared(key, make)
      platform.declareRam(false)
      platform.declarePool(fact)
      platform.declareFact(bouncePoolFact, pool)
      return () => platform.window(fact.device, fact.window)
    },
  }
}

const ID = 'shared-pool'
const PAGE = 4096

// A pool in guest RAM appears on the bus where the guest sees it.
function inGuestRam(platform: PlatformBuilder, size: number): PoolFact {
  const { guest, window } = platform.reserve(size, PAGE)
  return { window, device: guest as number as DeviceAddress, home: 'guest-ram' }
}

function sharedPoolProvider({ clear }: SharedPoolOptions, exclusive: boolean): DmaProvider {
  return {
    id: ID,
    reach: 'pool',
    assess(offer: PlatformOffer): Suitability {
      const accessPlatform = offer.offered.has(VIRTIO_F_ACCESS_PLATFORM)
      const listed = offer.listed.has(ID)
      if (offer.pool === undefined) return { fit: 'unusable', why: 'the platform has no pool for this device' }
      if (accessPlatform && offer.iommu !== undefined)
        return { fit: 'unusable', why: 'the endpoint is behind an IOMMU' }
      if (!accessPlatform && offer.ramReachable && !listed) {
        return {
          fit: 'unusable',
          why: 'the device does not offer ACCESS_PLATFORM and can reach guest RAM; list the pool to use it',
        }
      }
      const why = listed
        ? 'listed by the caller'
        : accessPlatform
          ? 'the platform has a pool for this device'
          : 'devices reach the pool and not guest RAM'
      return { fit: 'usable', accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM).and(offer.offered), why }
    },
    create(offer: PlatformOffer): DmaBackend {
      const declared = offer.fact(bouncePoolFact)
      const pool = declared ?? poolOver(offer.device, offer.pool as PoolFact)
      // Who else was given a pool that came without its slots is not known here.
      const alone = exclusive && declared !== undefined
      return new BounceBackend({
        name: ID,
        memory: offer.memory,
        pool,
        exclusive: alone,
        ...(clear === undefined ? {} : { clear }),
        enforcedBy: offer.enforcedBy,
      })
    },
  }
}

// A pool that a platform declared without its slots. Several devices may be given the same memory: then they share the
// slots as well, since two owners of one slot would overwrite each other.
const pools = new WeakMap<Region, Map<string, BouncePool>>()

function poolOver(device: string, fact: PoolFact): BouncePool {
  const { region, offset, length } = fact.window
  const known = pools.get(region) ?? new Map<string, BouncePool>()
  pools.set(region, known)
  const key = `${offset} ${length} ${fact.device}`
  const pool = known.get(key) ?? new BouncePool({ name: `${device} pool`, pool: fact })
  known.set(key, pool)
  return pool
}
