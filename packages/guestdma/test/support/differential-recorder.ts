import { ForwardingBackend, withBackend } from '@guestdma/conformance'
import { IommuDevice, type MmioRegisters, PagePort } from '@guestdma/devices'
import {
  DMA_OK,
  type DmaBackend,
  type DmaDirection,
  type DmaMappings,
  type DmaRegion,
  type DmaScheme,
  type DmaStatus,
  type DmaTraits,
  type IommuRequest,
  type PlatformBuilder,
} from '@guestdma/dma'
import { DeviceReach } from './differential-reach.ts'
import type { Variant } from './differential-schemes.ts'

/**
 * A backend that writes down what is lent and allocated at each moment. It also counts what it was given and got back
 * itself: the wrapped backend's own counters are what is tested.
 */
class RecordingBackend extends ForwardingBackend {
  private readonly reach: DeviceReach

  constructor(inner: DmaBackend, reach: DeviceReach) {
    super(inner)
    this.reach = reach
    reach.begin(inner)
  }

  override alloc(length: number, align: number, direction: DmaDirection, use: 'ring' | 'payload'): DmaRegion {
    const region = super.alloc(length, align, direction, use)
    this.reach.allocated(region, use)
    return region
  }

  override free(region: DmaRegion): void {
    super.free(region)
    this.reach.freed(region)
  }

  override map(m: DmaMappings, row: number): DmaStatus {
    const status = super.map(m, row)
    if (status === DMA_OK) this.reach.mapped(m, row)
    return status
  }

  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    const status = super.unmap(m, row, written)
    this.reach.unmapped(m, row)
    return status
  }

  override commitUnmaps(): DmaStatus {
    const status = super.commitUnmaps()
    if (status === DMA_OK) this.reach.committed()
    return status
  }

  override dispose(): void {
    super.dispose()
    this.reach.end()
  }
}

/** What a machine's devices can reach and did reach, by device; and the IOMMUs and shared pages behind that. */
export class Recorder {
  readonly devices = new Map<string, DeviceReach>()
  readonly iommus = new Set<IommuDevice>()
  readonly pages: PagePort[] = []
  /** Of each backend. */
  readonly traits: DmaTraits[] = []
  private readonly variantOf: (device: string) => Variant

  constructor(variantOf: (device: string) => Variant) {
    this.variantOf = variantOf
  }

  device(name: string): DeviceReach {
    const known = this.devices.get(name)
    if (known !== undefined) return known
    const { staleEntries = 0, shared } = this.variantOf(name)
    const made = new DeviceReach(name, staleEntries, shared === true ? this.devices : undefined)
    this.devices.set(name, made)
    return made
  }

  /** Sums a figure over all devices. */
  total(figure: (reach: DeviceReach) => number): number {
    return [...this.devices.values()].reduce((sum, reach) => sum + figure(reach), 0)
  }

  get violations(): string[] {
    return [...this.devices.values()].flatMap((reach) => reach.violations)
  }

  /** The same scheme, with all of its backends recorded. */
  wrap(scheme: DmaScheme): DmaScheme {
    const recorded = withBackend(scheme, (backend, { device }) => {
      this.traits.push(backend.traits)
      return new RecordingBackend(backend, this.device(device))
    })
    return { ...recorded, install: (platform) => scheme.install(this.watch(platform)) }
  }

  // Notes which IOMMU and which pages a scheme asks for; everything else is the platform's.
  private watch(platform: PlatformBuilder): PlatformBuilder {
    const own: Partial<PlatformBuilder> = {
      iommu: (request: IommuRequest) => {
        const place = platform.iommu(request)
        const { device } = place.registers as MmioRegisters
        if (device instanceof IommuDevice) this.iommus.add(device)
        return place
      },
      sharedPages: () => {
        const shared = platform.sharedPages()
        if (shared instanceof PagePort) this.pages.push(shared)
        return shared
      },
    }
    return new Proxy(platform, {
      get: (target, key): unknown => {
        const value: unknown = Reflect.get(own, key) ?? Reflect.get(target, key, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
  }
}
