import type { DmaBackend, DmaProvider, DmaTraits, PlatformOffer, Suitability } from '@guestdma/dma'
import { IommuBackend, type IommuBackendOptions } from '@guestdma/iommu'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { IotlbDomain, type IotlbDomainOptions } from './iotlb-domain.ts'
import type { VhostUserTransport } from './vhost-user-transport.ts'

export interface IotlbProviderOptions
  extends IotlbDomainOptions,
    Pick<IommuBackendOptions, 'mode' | 'subGranule' | 'lazy' | 'wake'> {
  /** Default `peer`: the back end itself looks each address up. */
  readonly enforcedBy?: DmaTraits['enforcedBy']
  /** Told of each domain, for its counters. */
  onDomain?(domain: IotlbDomain): void
}

const ID = 'vhost-iotlb'

/**
 * The `vhost-iotlb` provider: in-place DMA whose addresses the back end of `transport` translates by asking this
 * process. The back end maps all memory that it was given, and is trusted to use what it is told to: another process
 * holds it to the windows, but nobody holds it to the mappings.
 */
export function iotlbProvider(transport: VhostUserTransport, options: IotlbProviderOptions = {}): DmaProvider {
  const { enforcedBy = 'peer', onDomain, iovaBytes, gaps, ringsReadWrite, ...backend } = options
  return {
    id: ID,
    reach: 'granule',
    assess(offer: PlatformOffer): Suitability {
      const why = !offer.offered.has(VIRTIO_F_ACCESS_PLATFORM)
        ? 'the back end does not translate addresses'
        : !offer.mayBlock
          ? 'its commits wait for the back end, and this thread may not block'
          : null
      if (why !== null) return { fit: 'unusable', why }
      const accept = FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM)
      return { fit: 'usable', accept, why: 'the back end asks this process for translations' }
    },
    create({ memory, ram }: PlatformOffer): DmaBackend {
      const domain = new IotlbDomain(transport, {
        ...(iovaBytes === undefined ? {} : { iovaBytes }),
        ...(gaps === undefined ? {} : { gaps }),
        ...(ringsReadWrite === undefined ? {} : { ringsReadWrite }),
      })
      onDomain?.(domain)
      return new IommuBackend({ ...backend, name: ID, memory, ram, domain, enforcedBy })
    },
  }
}
