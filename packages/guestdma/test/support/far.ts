import {
  BlkDevice,
  everything,
  IommuDevice,
  LoopbackLink,
  MemoryBlockStore,
  MmioRegisters,
  NetDevice,
  oneWindow,
  PciFunction,
  type VirtioDevice,
} from '@guestdma/devices'
import type { PoolFact } from '@guestdma/dma'
import { type BusPort, type DeviceAddress, type GuestMemory, Region, type RegisterBus } from '@guestdma/memory'
import { assignBars, MmioTransport, PciTransport, type VirtioTransport } from '@guestdma/transport'
import { MAC } from './machines.ts'

/**
 * Devices that a machine under test did not make: it is given a transport and nothing else. `turn` is what another
 * process would do by itself.
 */
export class FarSide {
  readonly devices: VirtioDevice[] = []
  /** While it is set, every access to registers fails, as where the other process is gone. */
  gone = false
  interrupt: (() => void) | null = null

  turn(): number {
    let work = 0
    for (const device of this.devices) work += device.poll(64)
    return work
  }

  blk(port: BusPort, bytes: Uint8Array): VirtioTransport {
    return this.mmio(new BlkDevice({ name: 'far disk', port, store: new MemoryBlockStore(bytes), ...CONFINED }), 'disk')
  }

  net(port: BusPort): VirtioTransport {
    return this.mmio(new NetDevice({ name: 'far net', port, mac: MAC, link: new LoopbackLink(), ...CONFINED }), 'net')
  }

  mmio(device: VirtioDevice, name: string): VirtioTransport {
    this.devices.push(device)
    // The other process does not wait for us to poll it.
    device.onWork = () => void queueMicrotask(() => this.turn())
    const level = (asserted: boolean): void => {
      if (asserted) this.interrupt?.()
    }
    const registers = new MmioRegisters(device, { interrupts: { level } })
    const transport = MmioTransport.probe(this.line(registers), name)
    if (transport === null) throw new Error('no device')
    return transport
  }

  pci(device: VirtioDevice, name: string): PciTransport {
    this.devices.push(device)
    device.onWork = () => void queueMicrotask(() => this.turn())
    const pci = new PciFunction(device, { msixVectors: 4 })
    let next = 0xe000_0000
    assignBars(pci, ({ size }) => {
      const at = Math.ceil(next / size) * size
      next = at + size
      return at
    })
    const transport = PciTransport.probe(pci, name)
    if (transport === null) throw new Error('no device')
    return transport
  }

  /** An IOMMU of the other side, with a device behind it. */
  behindIommu(memory: GuestMemory, endpoint: number): { iommu: () => VirtioTransport; port: BusPort } {
    const iommu = new IommuDevice({ name: 'far iommu', port: everything(memory) })
    this.devices.push(iommu)
    const registers = new MmioRegisters(iommu, { notify: 'inline' })
    const port = iommu.addEndpoint(endpoint, { name: 'far disk', downstream: everything(memory) })
    return {
      port,
      iommu: () => {
        const transport = MmioTransport.probe(this.line(registers), 'far iommu')
        if (transport === null) throw new Error('no IOMMU')
        return transport
      },
    }
  }

  private line(registers: MmioRegisters): RegisterBus {
    const check = (): void => {
      if (this.gone) throw new Error('the socket is closed')
    }
    return {
      read: (offset, size) => {
        check()
        return registers.read(offset, size)
      },
      write: (offset, size, value) => {
        check()
        registers.write(offset, size, value)
      },
    }
  }
}

/** A real device outside of a guest offers it, since it may be confined. */
export const CONFINED = { accessPlatform: 'offered' as const }

/** Memory that is no guest RAM: a file of its own, of which the other side is given nothing else. */
export function ownMemory(bytes: number, device: number, home: PoolFact['home']): { pool: PoolFact; port: BusPort } {
  const region = new Region(new ArrayBuffer(bytes), 'a file')
  const window = { region, offset: 0, length: bytes }
  return {
    pool: { window, device: device as DeviceAddress, home },
    port: oneWindow('far', { base: device as DeviceAddress, ...window }),
  }
}
