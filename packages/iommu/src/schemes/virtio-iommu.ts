import { sharedPoolScheme } from '@guestdma/bounce'
import {
  type DmaBackend,
  type DmaProvider,
  type DmaScheme,
  type DmaTraits,
  type FactKey,
  factKey,
  type IommuPlace,
  type PlatformBuilder,
  type PlatformOffer,
  type PoolFact,
  type Suitability,
} from '@guestdma/dma'
import type { BusPort, GuestMemory, SpanAllocator } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { MmioTransport, resetDevice } from '@guestdma/transport'
import { IommuBackend } from '../backend/iommu-backend.ts'
import { IommuError } from '../virtio/errors.ts'
import type { VirtioIommuDomain } from '../virtio/virtio-domain.ts'
import { VirtioIommu, type VirtioIommuOptions } from '../virtio/virtio-iommu.ts'

/**
 * An IOMMU and its driver, shared by the devices behind it. A driver whose device failed is replaced when the next of
 * them is attached; each comes back with its own reset.
 */
export class IommuUnit {
  /** A turn is due: see `IommuPlace.wake`. */
  declare readonly wake: (() => void) | undefined
  declare private readonly options: () => VirtioIommuOptions
  private starting: Promise<VirtioIommu> | null = null
  private driver: VirtioIommu | null = null
  // Its device failed; it still holds its memory.
  private failed: { readonly driver: VirtioIommu; readonly options: VirtioIommuOptions } | null = null
  private current: VirtioIommuOptions | null = null
  // Backends with deferred removals want a turn as well.
  private readonly turns = new Set<() => number>()

  constructor(options: () => VirtioIommuOptions, wake?: () => void) {
    this.options = options
    this.wake = wake
  }

  /**
   * Brings the driver up, where it is not up or its device failed.
   *
   * @throws what `VirtioIommu.start` throws; DeviceStuckError. It may be tried again.
   */
  start(): Promise<VirtioIommu> {
    if (this.driver?.restartDue === true && this.current !== null) {
      this.failed = { driver: this.driver, options: this.current }
      this.driver = null
      this.starting = null
    }
    if (this.starting === null) {
      const starting = this.bringUp()
      this.starting = starting
      starting.catch(() => {
        if (this.starting === starting) this.starting = null
      })
    }
    return this.starting
  }

  private async bringUp(): Promise<VirtioIommu> {
    await this.closeFailed()
    this.current = this.options()
    this.driver = await VirtioIommu.start(this.current)
    return this.driver
  }

  // Takes back what a driver holds whose device failed: not before the device has confirmed a reset.
  private async closeFailed(): Promise<void> {
    const { failed } = this
    if (failed === null) return
    await resetDevice(failed.options.transport, failed.options.wait)
    this.failed = null
    await failed.driver.close()
  }

  /** Gives driver and backends a turn. */
  poll(): number {
    let done = this.driver?.poll() ?? 0
    for (const turn of this.turns) done += turn()
    return done
  }

  onTurn(turn: () => number): () => void {
    this.turns.add(turn)
    return () => this.turns.delete(turn)
  }

  async close(): Promise<void> {
    await this.closeFailed()
    await this.driver?.close()
  }
}

/** A device's place behind an IOMMU whose driver is here: what a platform declares for the providers of this package. */
export interface IommuEndpoint {
  readonly unit: IommuUnit
  readonly endpoint: number
}

export const iommuEndpointFact: FactKey<IommuEndpoint> = factKey<IommuEndpoint>('iommu endpoint')

export interface VirtioIommuSchemeOptions {
  /** Default `virtio-iommu`, with what differs from the defaults behind it: `virtio-iommu-lazy`, `virtio-iommu-byte`. */
  readonly id?: string
  /** See `IommuBackendOptions`. */
  readonly mode?: 'strict' | 'lazy'
  readonly subGranule?: 'share' | 'bounce'
  readonly lazy?: { readonly entries?: number; readonly ms?: number }
  readonly enforcedBy?: DmaTraits['enforcedBy']
  /** The smallest unit that the IOMMU maps, a power of two from 1 to 65536. Default 4096. */
  readonly granule?: number
  /** The IOMMU lets everything pass until its driver starts. Default false. */
  readonly bootBypass?: boolean
  /** Live mappings that the IOMMU can keep at most. */
  readonly maxMappings?: number
  /** A second stage under the IOMMU: what of guest memory it can reach. Default: all RAM. */
  downstream?(platform: PlatformBuilder): BusPort
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
            ...(options.enforcedBy === undefined ? {} : { enforcedBy: options.enforcedBy }),
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
    install(platform: PlatformBuilder): BusPort {
      const downstream = options.downstream?.(platform)
      const place = platform.iommu({
        key,
        granule,
        ...(options.bootBypass === undefined ? {} : { bootBypass: options.bootBypass }),
        ...(options.maxMappings === undefined ? {} : { maxMappings: options.maxMappings }),
        ...(downstream === undefined ? {} : { downstream }),
      })
      declareEndpoint(platform, key, place)
      platform.declareRam(true)
      return place.port
    },
  }
}

/** Declares that a device is behind an IOMMU whose driver is made here; `key` names the IOMMU. */
export function declareEndpoint(platform: PlatformBuilder, key: FactKey<IommuUnit>, place: IommuPlace): void {
  const { memory, ram } = platform
  const unit = platform.shared(key, () => {
    const made = new IommuUnit(() => unitOptions(memory, ram, place), place.wake?.bind(place))
    // The IOMMU's driver starts first: until then its unattached endpoints may be in bypass.
    place.prepare(async () => void (await made.start()))
    place.onPump(() => made.poll())
    place.onClose(() => made.close())
    return made
  })
  platform.declareFact(iommuEndpointFact, { unit, endpoint: place.endpoint })
}

/** For providers: brings the IOMMU's driver up where that has not happened, and attaches the offer's device. */
export async function attach(offer: PlatformOffer): Promise<{ unit: IommuUnit; domain: VirtioIommuDomain }> {
  const { unit, endpoint } = offer.fact(iommuEndpointFact) as IommuEndpoint
  const iommu = await unit.start()
  return { unit, domain: iommu.attach(endpoint, offer.device) }
}

/** For providers: what `make` makes; where it throws, the endpoint is detached again. */
export function orDetach<T>(domain: VirtioIommuDomain, make: () => T): T {
  try {
    return make()
  } catch (error) {
    try {
      domain.dispose()
    } catch {
      // The first error is the one to tell.
    }
    throw error
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

function unitOptions(memory: GuestMemory, ram: SpanAllocator, place: IommuPlace): VirtioIommuOptions {
  const transport = MmioTransport.probe(place.registers, 'iommu')
  if (transport === null)
    throw new IommuError('IOMMU_NO_DEVICE', 'iommu', 'there is no device in the place of the IOMMU')
  return {
    transport,
    memory,
    ram,
    wait: { pump: () => place.pump(), ...(place.deadlineMs === undefined ? {} : { deadlineMs: place.deadlineMs }) },
    observer: (fault) => place.report(fault),
    onBroken: (error) => place.failed?.(error),
    ...(place.ownPool === undefined ? {} : { dma: overPool(memory, ram, place.ownPool) }),
  }
}

// The IOMMU's own queues, where the IOMMU cannot reach all of guest RAM.
function overPool(memory: GuestMemory, ram: SpanAllocator, pool: PoolFact): NonNullable<VirtioIommuOptions['dma']> {
  const { provider } = sharedPoolScheme()
  return {
    providers: [provider],
    dma: provider.id,
    offer: (offered) => ({
      device: 'iommu',
      offered,
      transport: { kind: 'mmio', transitional: false },
      ramReachable: false,
      iommu: undefined,
      pool,
      region: undefined,
      swiotlbRfc: false,
      busOffset: 0,
      memory,
      ram,
      mayBlock: true,
      listed: new Set([provider.id]),
      fact: () => undefined,
    }),
  }
}
