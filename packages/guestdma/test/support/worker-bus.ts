// How a driver reaches the device of a worker, in Node and in a page.
import type { DeviceWorker } from '@guestdma/devices/worker'
import { assignBars, MmioTransport, PciTransport, type VirtioTransport } from '@guestdma/transport'

/** Registers over mmio, or a PCI function with INTx or with MSI-X. */
export const BUSES = ['mmio', 'intx', 'msix'] as const
export type Bus = (typeof BUSES)[number]

/** Where messages go. */
export const DOORBELL = { base: 0xfee0_0000, length: 0x10_0000 } as const
/** The pool of a device, which is memory on it where its function says so. */
export const POOL_DEVICE = 0x4000_0000
export const POOL_BYTES = 2 << 20
const BARS = 0xe000_0000

export function reach(worker: DeviceWorker, bus: Bus): VirtioTransport {
  const transport = bus === 'mmio' ? MmioTransport.probe(worker.registers, 'far') : reachFunction(worker, bus)
  if (transport === null) throw new Error('no device')
  return transport
}

function reachFunction({ pci }: DeviceWorker, bus: Bus): PciTransport | null {
  let next = BARS
  assignBars(pci, ({ size, prefetchable }) => {
    if (prefetchable) return POOL_DEVICE
    next = Math.ceil(next / size) * size + size
    return next - size
  })
  const swiotlbMemory = { base: POOL_DEVICE, length: POOL_BYTES }
  const transport = PciTransport.probe(pci, 'far', { swiotlbRfc: true, swiotlbMemory })
  if (bus === 'msix' && transport !== null) {
    const used = transport.useMessages({ address: () => DOORBELL.base, data: (vector) => vector })
    if (!used) throw new Error('no messages')
    pci.onMessage = (_address, data) => transport.messageArrived(data)
  }
  return transport
}
