import type { DmaBackend, DmaProvider, DmaScheme, PlatformOffer, Suitability } from '@guestdma/dma'
import { IommuBackend, type IommuBackendOptions } from '@guestdma/iommu'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { IotlbDomain, type IotlbDomainOptions } from './iotlb-domain.ts'
import type { VhostUserTransport } from './vhost-user-transport.ts'

/** `enforcedBy` is `peer` by default: the back end itself looks each address up. */
export interface IotlbProviderOptions
  extends Pick<IommuBackendOptions, 'mode' | 'subGranule' | 'lazy' | 'wake' | 'enforcedBy'> {
  /** What the back end needs of its domain; `DPDK_IOTLB` for DPDK. */
  readonly domain?: IotlbDomainOptions
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
  const { domain: needs, onDomain, ...backend } = options
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
      const domain = new IotlbDomain(transport, needs)
      onDomain?.(domain)
      return new IommuBackend({ enforcedBy: 'peer', ...backend, name: ID, memory, ram, domain })
    },
  }
}

/**
 * The scheme of that provider, for `createMachine`: the device lives in the other process, so nothing is enforced here.
 *
 * @example
 * const transport = VhostUserTransport.connect(path, { name: 'net0', deviceId: 1, queues: 2, memory, iotlb: true, config })
 * const scheme = iotlbScheme(transport, { domain: DPDK_IOTLB })
 */
export function iotlbScheme(transport: VhostUserTransport, options: IotlbProviderOptions = {}): DmaScheme {
  const provider = iotlbProvider(transport, options)
  return {
    id: provider.id,
    provider,
    install(platform) {
      platform.declareRam(true)
      return () => platform.nothing()
    },
  }
}
