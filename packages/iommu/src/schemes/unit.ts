import { sharedPoolScheme } from '@guestdma/bounce'
import {
  type FactKey,
  factKey,
  type IommuPlace,
  type MachineHooks,
  type PlatformBuilder,
  type PlatformOffer,
  type PoolFact,
  platformOffer,
} from '@guestdma/dma'
import type { BusPort, GuestMemory, SpanAllocator } from '@guestdma/memory'
import { MmioTransport, resetDevice, type VirtioTransport } from '@guestdma/transport'
import { disposeDomain } from '../backend/domain.ts'
import { IommuError } from '../virtio/errors.ts'
import type { VirtioIommuDomain } from '../virtio/virtio-domain.ts'
import { VirtioIommu, type VirtioIommuOptions } from '../virtio/virtio-iommu.ts'

/**
 * An IOMMU and its driver, shared by the devices behind it. A driver whose device failed is replaced when the next of
 * them is attached; each comes back with its own reset.
 */
export class IommuUnit {
  /** A turn is due: see `MachineHooks.wake`. */
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

/** An IOMMU that lives elsewhere, as the devices behind it do. Its driver is here. */
export interface ForeignIommu {
  /** How its driver reaches it. Called for each bring-up. */
  transport(): VirtioTransport
  /** The endpoint ID by which it knows a device; over PCI that is usually the requester ID. */
  endpoint(device: string): number
  /** What the IOMMU itself reaches, where that is not all of guest RAM. */
  readonly ownPool?: PoolFact
}

/** Declares that a device is behind an IOMMU of this machine; `key` names the IOMMU. Returns what enforces it. */
export function behindOwn(platform: PlatformBuilder, key: FactKey<IommuUnit>, place: IommuPlace): () => BusPort {
  const transport = (): VirtioTransport => {
    const found = MmioTransport.probe(place.registers, place.name)
    if (found !== null) return found
    throw new IommuError('IOMMU_NO_DEVICE', place.name, 'there is no device in the place of the IOMMU')
  }
  declareEndpoint(platform, key, place.endpoint, { transport, pump: () => place.pump(), ownPool: place.ownPool })
  return () => place.port
}

/** Declares that a device that lives elsewhere is behind an IOMMU that does too. */
export function behindForeign(platform: PlatformBuilder, key: FactKey<IommuUnit>, iommu: ForeignIommu): () => BusPort {
  const { device } = platform
  platform.declareIommu({ bypass: false })
  declareEndpoint(platform, key, iommu.endpoint(device), {
    transport: () => iommu.transport(),
    pump: () => {},
    ownPool: iommu.ownPool,
  })
  return () => {
    const message = 'a device model of this machine cannot stand behind an IOMMU that lives elsewhere'
    throw new IommuError('IOMMU_FOREIGN', device, message)
  }
}

/** How a unit's driver reaches its device, lets it work, and what that device reaches. */
interface UnitPlace {
  transport(): VirtioTransport
  pump(): void
  readonly ownPool: PoolFact | undefined
}

function declareEndpoint(platform: PlatformBuilder, key: FactKey<IommuUnit>, endpoint: number, place: UnitPlace): void {
  const { hooks, memory, ram } = platform
  const unit = platform.shared(key, () => {
    const made = new IommuUnit(() => unitOptions(memory, ram, hooks, place), hooks.wake?.bind(hooks))
    // The IOMMU's driver starts first: until then its unattached endpoints may be in bypass.
    hooks.prepare(async () => void (await made.start()))
    hooks.onPump(() => made.poll())
    hooks.onClose(() => made.close())
    return made
  })
  platform.declareFact(iommuEndpointFact, { unit, endpoint })
}

/** For providers: brings the IOMMU's driver up where that has not happened, and attaches the offer's device. */
export async function attach(offer: PlatformOffer): Promise<{ unit: IommuUnit; domain: VirtioIommuDomain }> {
  const { unit, endpoint } = offer.fact(iommuEndpointFact) as IommuEndpoint
  const iommu = await unit.start()
  return { unit, domain: iommu.attach(endpoint, offer.device) }
}

/**
 * For providers: what `make` makes; where it throws, the endpoint is detached again, and the error is thrown on.
 *
 * @throws DmaError `DMA_STILL_REACHABLE` where the endpoint could not be detached; its message says what `make` threw
 */
export function orDetach<T>(domain: VirtioIommuDomain, make: () => T): T {
  try {
    return make()
  } catch (error) {
    disposeDomain(domain, error)
    throw error
  }
}

function unitOptions(
  memory: GuestMemory,
  ram: SpanAllocator,
  hooks: MachineHooks,
  { transport, pump, ownPool }: UnitPlace,
): VirtioIommuOptions {
  return {
    transport: transport(),
    memory,
    ram,
    wait: { pump, ...(hooks.deadlineMs === undefined ? {} : { deadlineMs: hooks.deadlineMs }) },
    observer: (fault) => hooks.report(fault),
    onBroken: (error) => hooks.failed?.(error),
    ...(ownPool === undefined ? {} : { dma: overPool(memory, ram, ownPool) }),
  }
}

// The IOMMU's own queues, where the IOMMU cannot reach all of guest RAM.
function overPool(memory: GuestMemory, ram: SpanAllocator, pool: PoolFact): NonNullable<VirtioIommuOptions['dma']> {
  const { provider } = sharedPoolScheme()
  return {
    providers: [provider],
    dma: provider.id,
    offer: (offered) =>
      platformOffer({
        device: 'iommu',
        offered,
        ramReachable: false,
        pool,
        memory,
        ram,
        listed: new Set([provider.id]),
      }),
  }
}
