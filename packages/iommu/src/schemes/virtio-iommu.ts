import {
  type DmaBackend,
  type DmaProvider,
  type DmaScheme,
  factKey,
  type PlatformBuilder,
  type PlatformOffer,
  type Suitability,
} from '@guestdma/dma'
import type { BusPort } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { IommuBackend } from '../backend/iommu-backend.ts'
import {
  attach,
  behindForeign,
  behindOwn,
  type ForeignIommu,
  type IommuUnit,
  iommuEndpointFact,
  orDetach,
} from './unit.ts'

export interface VirtioIommuSchemeOptions {
  /** Default `virtio-iommu`, with what differs from the defaults behind it: `virtio-iommu-lazy`, `virtio-iommu-byte`. */
  readonly id?: string
  /** See `IommuBackendOptions`. */
  readonly mode?: 'strict' | 'lazy'
  readonly subGranule?: 'share' | 'bounce'
  readonly lazy?: { readonly entries?: number; readonly ms?: number }
  /** The smallest unit that the IOMMU maps, a power of two from 1 to 65536. Default 4096. */
  readonly granule?: number
  /** The IOMMU lets everything pass until its driver starts. Default false. */
  readonly bootBypass?: boolean
  /** Live mappings that the IOMMU can keep at most. */
  readonly maxMappings?: number
  /** A second stage under the IOMMU: what of guest memory it can reach. Default: all RAM. */
  downstream?(platform: PlatformBuilder): BusPort
  /** The IOMMU of devices that live elsewhere. Default: one that this machine makes, as the options above say. */
  readonly iommu?: ForeignIommu
}

/**
 * The `virtio-iommu` scheme: every device of the machine that stands on this platform is an endpoint of one
 * virtio-iommu (virtio 1.4 §5.13) with a domain of its own, and reaches what is mapped for it while it is mapped.
 */
export function virtioIommuScheme(options: VirtioIommuSchemeOptions = {}): DmaScheme {
  const { mode = 'strict', subGranule = 'share', granule = 4096 } = options
  const variant = [
    mode === 'lazy' ? '-lazy' : '',
    granule === 1 ? '-byte' : '',
    subGranule === 'bounce' ? '-bounce' : '',
  ]
  const id = options.id ?? `virtio-iommu${variant.join('')}`
  const key = factKey<IommuUnit>(id)
  const provider: DmaProvider = {
    id,
    reach: granule === 1 ? 'byte' : 'granule',
    assess: (offer) => assess(offer),
    async create(offer: PlatformOffer): Promise<DmaBackend> {
      const { memory, ram } = offer
      const { unit, domain } = await attach(offer)
      const backend = orDetach(
        domain,
        () =>
          new IommuBackend({
            name: id,
            memory,
            ram,
            domain,
            mode,
            subGranule,
            ...(options.lazy === undefined ? {} : { lazy: options.lazy }),
            enforcedBy: offer.enforcedBy,
            ...(unit.wake === undefined ? {} : { wake: unit.wake }),
          }),
      )
      if (mode === 'lazy') {
        const stop = unit.onTurn(() => {
          if (backend.disposed) stop()
          return backend.poll()
        })
      }
      return backend
    },
  }
  return {
    id,
    provider,
    install(platform: PlatformBuilder): () => BusPort {
      platform.declareRam(true)
      if (options.iommu !== undefined) return behindForeign(platform, key, options.iommu)
      const downstream = options.downstream?.(platform)
      const place = platform.iommu({
        key,
        granule,
        ...(options.bootBypass === undefined ? {} : { bootBypass: options.bootBypass }),
        ...(options.maxMappings === undefined ? {} : { maxMappings: options.maxMappings }),
        ...(downstream === undefined ? {} : { downstream }),
      })
      return behindOwn(platform, key, place)
    },
  }
}

// The rows A ∧ I of the table in docs/schemes.md.
function assess(offer: PlatformOffer): Suitability {
  if (offer.iommu === undefined) return unusable('the device is not behind an IOMMU')
  const refused = behindIommu(offer)
  if (refused !== null) return unusable(refused)
  if (!offer.ramReachable) return unusable('guest RAM is private: the IOMMU cannot reach it')
  return {
    fit: 'usable',
    accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM),
    why: 'the device is behind an IOMMU that this driver drives',
  }
}

/** Why an IOMMU cannot be used for a device behind one; `null` where it can. */
export function behindIommu(offer: PlatformOffer): string | null {
  if (!offer.offered.has(VIRTIO_F_ACCESS_PLATFORM))
    return 'the device does not offer ACCESS_PLATFORM: it would use untranslated addresses'
  if (offer.fact(iommuEndpointFact) === undefined) return 'nobody drives the IOMMU that the device is behind'
  if (!offer.mayBlock) return 'its commits wait for the IOMMU, and this thread may not block'
  return null
}

function unusable(why: string): Suitability {
  return { fit: 'unusable', why }
}
