import type { IommuPlace, PlatformOffer, PoolFact, SharedPages } from '@guestdma/dma'
import type { BusPort, DeviceAddress, MemoryWindow } from '@guestdma/memory'
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
}

/**
 * The platform of a device that lives elsewhere: what a scheme declares is all there is of it here, and somebody else
 * enforces it.
 */
export class RemotePlatform extends DevicePlatform {
  readonly transport: string
  readonly enforcedBy: PlatformOffer['enforcedBy']
  readonly faults = 0
  private readonly cut: (() => boolean) | undefined

  constructor(
    device: string,
    transport: VirtioTransport,
    common: PlatformShared,
    { enforcedBy, detach }: RemoteEnforcement,
  ) {
    super(device, common)
    this.transport = transport.kind
    this.enforcedBy = enforcedBy
    this.cut = detach
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

  iommu(): IommuPlace {
    throw this.elsewhere('an IOMMU', 'give the scheme the iommu that the device is behind, { transport, endpoint }')
  }

  sharedPages(): SharedPages {
    throw this.elsewhere('pages that are shared one by one', 'take another scheme')
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

  private elsewhere(what: string, advice: string): MachineError {
    const message = `a scheme asks this machine for ${what}, and the device lives elsewhere; ${advice}`
    return new MachineError('MACHINE_REMOTE', this.device, message)
  }
}
