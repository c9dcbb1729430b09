import { type AccessFault, everything, PagePort, type TranslationCopy } from '@guestdma/devices'
import type { IommuPlace, IommuRequest, PlatformOffer, PoolFact, SharedPages } from '@guestdma/dma'
import type { BusPort, DeviceAddress, FaultLog, MemoryWindow } from '@guestdma/memory'
import { PciTransport, type VirtioTransport } from '@guestdma/transport'
import { MachineError } from '../config/errors.ts'
import { DevicePlatform } from './facts.ts'
import type { PlatformShared } from './shared.ts'

/** Who holds a device to what it may reach, where the device lives elsewhere. */
export interface RemoteEnforcement {
  /** See `DmaTraits.enforcedBy`. */
  readonly enforcedBy: PlatformOffer['enforcedBy']
  /** Cuts the device off from memory. Returns whether it did. */
  detach?(): boolean
  /** Of a device in a worker: what decides on its addresses. */
  readonly translations: TranslationCopy | null
  /** Told of the accesses that were refused to such a device. */
  onFault(fault: AccessFault): void
}

/**
 * The platform of a device that lives elsewhere: what a scheme declares is all there is of it here, and somebody else
 * enforces it.
 */
export class RemotePlatform extends DevicePlatform {
  readonly transport: string
  readonly enforcedBy: PlatformOffer['enforcedBy']
  private readonly cut: (() => boolean) | undefined
  private readonly translations: TranslationCopy | null
  private readonly onFault: (fault: AccessFault) => void
  private refused: FaultLog<AccessFault> | null = null

  constructor(
    device: string,
    transport: VirtioTransport,
    common: PlatformShared,
    { enforcedBy, detach, translations, onFault }: RemoteEnforcement,
  ) {
    super(device, common)
    this.transport = transport.kind
    this.enforcedBy = enforcedBy
    this.cut = detach
    this.translations = translations
    this.onFault = onFault
  }

  deviceMemory(): { device: DeviceAddress; window: MemoryWindow } {
    throw this.elsewhere('memory on the device', 'give onDeviceScheme the memory of its region')
  }

  everything(): BusPort {
    throw this.elsewhere('a port', 'schemes make ports in what install returns')
  }

  window(): BusPort {
    throw this.elsewhere('a port', 'schemes make ports in what install returns')
  }

  nothing(): BusPort {
    throw this.elsewhere('a port', 'schemes make ports in what install returns')
  }

  iommu(request: IommuRequest): IommuPlace {
    const { translations } = this
    if (translations === null) {
      const advice =
        "give the scheme the iommu that the device is behind, { transport, endpoint }, or the entry a worker's translations"
      throw this.elsewhere('an IOMMU', advice)
    }
    if (request.downstream !== undefined) {
      throw this.elsewhere('a second stage', "the windows of the device's worker say what is under its IOMMU")
    }
    const downstream = everything(this.memory, { name: this.device })
    const place = this.behindIommu(request, { downstream, copy: translations })
    this.watch(place.port.faults)
    return place
  }

  sharedPages(): SharedPages {
    const { device, memory, translations } = this
    if (translations === null) {
      const advice = "give the entry the translations of the device's worker, or take another scheme"
      throw this.elsewhere('pages that are shared one by one', advice)
    }
    const port = new PagePort(device, memory, undefined, translations)
    this.watch(port.faults)
    return port
  }

  /** Whether a scheme decides on the addresses of the device's worker. */
  get translates(): boolean {
    return this.refused !== null
  }

  get faults(): number {
    return this.refused?.count ?? 0
  }

  detach(): boolean {
    return this.cut?.() ?? false
  }

  // Whoever cut it off lets it in again as part of the reset.
  attach(): void {}

  // A region that the function does not name itself may lie in the BAR of a neighbour.
  protected region(transport: VirtioTransport): PoolFact | undefined {
    const { swiotlb } = this
    // Not by `kind`: a transport that wraps another one has that as well.
    if (swiotlb === undefined || !(transport instanceof PciTransport) || transport.swiotlb === null) return swiotlb
    return this.foundRegion(transport, swiotlb.device)
  }

  private watch(faults: FaultLog<AccessFault>): void {
    this.refused = faults
    faults.observer = this.onFault
  }

  private elsewhere(what: string, advice: string): MachineError {
    const message = `a scheme asks this machine for ${what}, and the device lives elsewhere; ${advice}`
    return new MachineError('MACHINE_REMOTE', this.device, message)
  }
}
