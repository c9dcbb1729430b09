import { type DmaBackend, type DmaRegion, FROM_DEVICE } from '@guestdma/dma'
import { PciTransport, type VirtioTransport } from '@guestdma/transport'
import { MachineError } from '../config/errors.ts'

const BYTES = 4096
const BYTES_EACH = 4

/**
 * Message-signalled interrupts as writes into memory that both sides see. The memory comes from the device's backend, so
 * that an IOMMU maps it and a pool holds it, and is given back with the backend.
 */
export class MessageMemory {
  private readonly transport: PciTransport
  private readonly region: DmaRegion

  /** @throws MachineError `MACHINE_CONFIG` where the device has no messages; DmaError `DMA_ALLOC` */
  constructor(transport: VirtioTransport, backend: DmaBackend) {
    if (!(transport instanceof PciTransport)) {
      const { kind } = transport
      const message = `only a device over PCI, by a PciTransport, has messages, and this one is reached over ${kind}`
      throw new MachineError('MACHINE_CONFIG', transport.name, message)
    }
    this.transport = transport
    // A ring is what a backend never transforms.
    this.region = backend.alloc(BYTES, BYTES, FROM_DEVICE, 'ring')
    const { device } = this.region
    const used = this.transport.useMessages({
      address: (vector) => device + BYTES_EACH * (vector % VECTORS),
      data: (vector) => vector + 1,
    })
    if (!used) throw new MachineError('MACHINE_CONFIG', transport.name, 'the device has no MSI-X to send messages with')
  }

  /** Takes the messages that arrived. Returns whether there were any. */
  poll(): boolean {
    const { region, offset } = this.region
    // Guest memory that grew has another buffer.
    region.refresh()
    const at = offset / BYTES_EACH
    let arrived = false
    for (let i = 0; i < VECTORS; i++) {
      // What the device completed before a message is seen after it, so one that is written in between is not missed.
      const data = Atomics.exchange(region.u32, at + i, 0)
      if (data === 0) continue
      arrived = true
      this.transport.messageArrived(data - 1)
    }
    return arrived
  }
}

/** More vectors than queues of any device here: a message of a higher one falls onto the word of a lower one. */
const VECTORS = 64
