import type {
  DmaBackend,
  DmaProvider,
  DmaScheme,
  PlatformBuilder,
  PlatformOffer,
  PoolFact,
  Suitability,
  SwiotlbDeclaration,
} from '@guestdma/dma'
import type { BusPort, DeviceAddress } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_SWIOTLB, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import { BounceBackend, type ClearPolicy } from './bounce-backend.ts'
import { BouncePool } from './bounce-pool.ts'

export interface OnDeviceOptions {
  /** Bytes of the region, a multiple of 4096. Default 4 MiB. */
  readonly size?: number
  /**
   * Does the device offer VIRTIO_F_SWIOTLB (27)? `required` (default): it refuses to go on without it. `offered`: it
   * goes on. `absent`: there is a region and no bit, which is a hint (SWIOTLB RFC 3/3).
   */
  readonly bit?: SwiotlbDeclaration['bit']
  /** See `SwiotlbDeclaration`. Default `bus`. */
  readonly addressing?: SwiotlbDeclaration['addressing']
  /**
   * Where the device itself sees its region, if that is not where the guest put the BAR: a device that was passed
   * through to a guest keeps the host's address. Bus addressing then leads nowhere; offsets do not depend on it.
   */
  readonly deviceView?: number
  /**
   * The region of a device that lives elsewhere, as this side maps it, with its address on the bus. It may lie in the BAR
   * of a neighbour.
   */
  memory?(device: string): PoolFact
  /** See {@link ClearPolicy}. */
  readonly clear?: ClearPolicy
  /** See `BouncePoolOptions.reserve`. */
  readonly reserve?: number
}

/**
 * The `on-device` scheme: the SWIOTLB RFC of April 2025. The device brings a region for bounce buffers along and
 * reaches nothing else; rings, tables, cells and payload all lie in it. Over PCI it is memory on the device, found by
 * capability (RFC 3/3). Over mmio it is a `restricted-dma-pool` that the devicetree names, hence guest RAM whatever the
 * bit says (RFC 2/3).
 */
export function onDeviceScheme(options: OnDeviceOptions = {}): DmaScheme {
  const { size = 4 << 20, bit = 'required', addressing = 'bus', deviceView } = options
  return {
    id: ID,
    provider: onDeviceProvider(options),
    install(platform: PlatformBuilder): () => BusPort {
      const { device, window, home } = options.memory?.(platform.device) ?? ownRegion(platform, size)
      // An offset is the same in either view: the device adds where it sees the region.
      const at = (addressing === 'offset' ? 0 : (deviceView ?? device)) as DeviceAddress
      platform.declareRam(false)
      platform.declareSwiotlb({ window, device: addressing === 'offset' ? at : device, home, addressing, bit })
      return () => platform.window(at, window)
    },
  }
}

const ID = 'on-device'
const PAGE = 4096

function ownRegion(platform: PlatformBuilder, size: number): PoolFact {
  if (platform.transport === 'pci') return { ...platform.deviceMemory(size), home: 'device-memory' }
  const { guest, window } = platform.reserve(size, PAGE)
  return { window, device: guest as number as DeviceAddress, home: 'guest-ram' }
}

function onDeviceProvider({ clear, reserve }: OnDeviceOptions): DmaProvider {
  return {
    id: ID,
    reach: 'pool',
    assess(offer: PlatformOffer): Suitability {
      const { region } = offer
      if (region === undefined) return { fit: 'unusable', why: 'the device has no region for bounce buffers' }
      const accept = FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM).and(offer.offered)
      if (meansSwiotlb(offer)) {
        const both = accept.or(FeatureSet.of(VIRTIO_F_SWIOTLB))
        return { fit: 'required', accept: both, why: 'the device offers SWIOTLB (27) and has a region for it' }
      }
      return {
        fit: 'usable',
        accept,
        why: 'the device has a region for bounce buffers, as a hint: 27 does not mean SWIOTLB here',
      }
    },
    create(offer: PlatformOffer): DmaBackend {
      const region = offer.region as PoolFact
      const pool = new BouncePool({
        name: `${offer.device} region`,
        pool: region,
        ...(reserve === undefined ? {} : { reserve }),
      })
      return new BounceBackend({
        name: ID,
        memory: offer.memory,
        pool,
        ...(clear === undefined ? {} : { clear }),
        enforcedBy: offer.enforcedBy,
      })
    },
  }
}

/**
 * Does feature bit 27 mean SWIOTLB here? It is the legacy ANY_LAYOUT otherwise, which testpmd, Linux vhost and others
 * offer together with VERSION_1, and is ignored without complaint.
 */
export function meansSwiotlb(offer: PlatformOffer): boolean {
  const { offered, transport, region, swiotlbRfc } = offer
  return (
    swiotlbRfc &&
    region !== undefined &&
    offered.has(VIRTIO_F_SWIOTLB) &&
    offered.has(VIRTIO_F_VERSION_1) &&
    !transport.transitional &&
    transport.kind !== 'vhost-user'
  )
}
