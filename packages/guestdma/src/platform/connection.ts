import { MmioRegisters, PciFunction, type VirtioDevice } from '@guestdma/devices'
import { assignBars, MmioTransport, PciTransport, type VirtioTransport } from '@guestdma/transport'
import { MachineError } from '../config/errors.ts'
import type { BarSpace } from './bar-space.ts'
import { DOORBELL_BASE, type ModelPlatform } from './model.ts'

/** How a driver and a device model are connected. */
export interface Connection {
  readonly transport: VirtioTransport
  /** The device's registers over mmio; null over PCI. */
  readonly registers: MmioRegisters | null
  /** The device's function over PCI; null over mmio. */
  readonly pci: PciFunction | null
  /** A message-signalled interrupt arrived for this device. */
  message(data: number): void
}

/** Puts registers before a device, and a transport before the registers. */
export function connect(
  device: VirtioDevice,
  platform: ModelPlatform,
  bars: BarSpace,
  interrupt: () => void,
): Connection {
  const interrupts = {
    level: (asserted: boolean): void => {
      if (asserted) interrupt()
    },
  }
  if (platform.transport === 'mmio') {
    const registers = new MmioRegisters(device, { interrupts })
    const transport = MmioTransport.probe(registers, platform.device)
    return { transport: found(transport, platform.device), registers, pci: null, message: () => {} }
  }
  const { onDevice, swiotlb } = platform
  const pci = new PciFunction(device, {
    interrupts,
    ...(onDevice === undefined ? {} : { swiotlb: { window: onDevice.window } }),
  })
  assignBars(pci, ({ size, is64, prefetchable }) =>
    is64 && prefetchable && onDevice !== undefined ? onDevice.device : bars.take(platform.device, size, is64),
  )
  const transport = found(
    PciTransport.probe(pci, platform.device, {
      swiotlbRfc: swiotlb !== undefined,
      swiotlbMemory: onDevice === undefined ? undefined : { base: onDevice.device, length: onDevice.window.length },
    }),
    platform.device,
  )
  transport.useMessages({ address: () => DOORBELL_BASE, data: (vector) => vector })
  return {
    transport,
    registers: null,
    pci,
    message: (data) => {
      transport.messageArrived(data)
      interrupt()
    },
  }
}

function found<T>(transport: T | null, name: string): T {
  if (transport === null) throw new MachineError('MACHINE_DEVICE_TYPE', name, 'the device model has device ID 0')
  return transport
}
