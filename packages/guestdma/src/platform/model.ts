import { type AccessFault, type BusWindows, everything, nothing, oneWindow, PagePort } from '@guestdma/devices'
import type { IommuPlace, IommuRequest, PoolFact, SharedPages } from '@guestdma/dma'
import {
  attempt,
  type BusPort,
  type DeviceAddress,
  type FaultLog,
  type InterruptSink,
  type MemoryWindow,
  Meter,
  Region,
} from '@guestdma/memory'
import type { PciTransport, VirtioTransport } from '@guestdma/transport'
import { MachineError } from '../config/errors.ts'
import { DevicePlatform } from './facts.ts'
import type { PlatformShared } from './shared.ts'

/** Where message-signalled interrupts go on these machines, as on a PC. */
export const DOORBELL_BASE = 0xfee0_0000
const DOORBELL_BYTES = 0x10_0000

/** A port that was made here. */
interface OwnPort {
  readonly port: BusPort
  readonly faults: FaultLog<AccessFault>
  /** Cuts it off and returns how to undo that; null where only somebody else can. */
  readonly cut: (() => () => void) | null
}

/** The platform of a device whose model runs here: it makes the ports that hold the device to what it may reach. */
export class ModelPlatform extends DevicePlatform {
  readonly transport: 'mmio' | 'pci'
  readonly enforcedBy = 'trusted-code'
  /** Memory on the device, for its function to present. */
  onDevice: { readonly device: DeviceAddress; readonly window: MemoryWindow } | undefined

  private readonly onFault: (fault: AccessFault) => void
  private readonly interrupts: InterruptSink
  private readonly ports: OwnPort[] = []
  private restore: (() => void)[] = []
  private port: BusPort | null = null

  constructor(
    device: string,
    transport: 'mmio' | 'pci',
    common: PlatformShared,
    onFault: (fault: AccessFault) => void,
    interrupts: InterruptSink,
  ) {
    super(device, common)
    this.transport = transport
    this.onFault = onFault
    this.interrupts = interrupts
  }

  deviceMemory(length: number): { device: DeviceAddress; window: MemoryWindow } {
    if (this.transport !== 'pci') {
      const message = "memory on the device lies behind a BAR; set the device's transport to 'pci'"
      throw new MachineError('MACHINE_CONFIG', this.device, message)
    }
    const region = new Region(new ArrayBuffer(length), `${this.device} memory`)
    region.meter = new Meter()
    // A BAR is a power of two and aligned to it.
    const bytes = 2 ** Math.ceil(Math.log2(Math.max(length, 4096)))
    const device = this.common.bars.take(this.device, bytes, true) as DeviceAddress
    this.onDevice = { device, window: { region, offset: 0, length } }
    return this.onDevice
  }

  everything(busOffset = 0): BusPort {
    return this.keep(everything(this.memory, { name: this.device, busOffset }))
  }

  window(at: DeviceAddress, window: MemoryWindow): BusPort {
    return this.keep(oneWindow(this.device, { base: at, ...window }))
  }

  nothing(): BusPort {
    return this.keep(nothing(this.device))
  }

  iommu(request: IommuRequest): IommuPlace {
    const downstream = request.downstream ?? this.everything()
    const place = this.behindIommu(request, {
      downstream,
      reserved: [{ start: DOORBELL_BASE, end: DOORBELL_BASE + DOORBELL_BYTES - 1, kind: 'msi' }],
    })
    const { port } = place
    port.faults.observer = this.onFault
    // What is under the IOMMU is cut, and with it everything that could be translated, unless that is a port of others.
    this.ports.push({ port, faults: port.faults, cut: this.canCut(downstream) ? () => () => {} : null })
    return place
  }

  sharedPages(): SharedPages {
    const port = new PagePort(this.device, this.memory)
    port.faults.observer = this.onFault
    port.setDoorbell(DOORBELL_BASE, DOORBELL_BYTES, this.interrupts)
    this.ports.push({
      port,
      faults: port.faults,
      cut: () => {
        port.setOpen(false)
        return () => port.setOpen(true)
      },
    })
    return port
  }

  /** Makes the device's port, by what a scheme's `install` returned. */
  enforce(make: () => BusPort): BusPort {
    this.port = make()
    return this.port
  }

  /** Where the device's port is one that this platform can close. */
  detach(): boolean {
    if (this.port === null || !this.canCut(this.port)) return false
    if (this.restore.length === 0) this.restore = this.ports.map(({ cut }) => cut?.() ?? (() => {}))
    return true
  }

  private canCut(port: BusPort): boolean {
    return this.ports.some((own) => own.port === port && own.cut !== null)
  }

  attach(): void {
    for (const restore of this.restore.splice(0)) restore()
  }

  /** Cuts the device off for good and gives back what was reserved for it. */
  override release(): void {
    const errors: unknown[] = []
    for (const { cut } of this.ports) attempt(errors, () => void cut?.())
    attempt(errors, () => super.release())
    if (errors.length > 0) throw errors[0]
  }

  get faults(): number {
    return this.ports.reduce((sum, own) => sum + own.faults.count, 0)
  }

  protected region(transport: VirtioTransport): PoolFact | undefined {
    if (transport.kind !== 'pci' || this.swiotlb === undefined) return this.swiotlb
    const { onDevice } = this
    return onDevice === undefined ? undefined : this.foundRegion(transport as PciTransport, onDevice.device)
  }

  private keep(port: BusWindows): BusPort {
    port.faults.observer = this.onFault
    port.setDoorbell(DOORBELL_BASE, DOORBELL_BYTES, this.interrupts)
    this.ports.push({
      port,
      faults: port.faults,
      cut: () => {
        const { windows } = port
        port.setWindows([])
        return () => port.setWindows(windows)
      },
    })
    return port
  }
}
