import { ACCESS_READ, ACCESS_WRITE, type BusPort } from '@guestdma/memory'
import { PeerError } from './ring-peer.ts'

/** The words of a ring as a device loads and stores them: plainly, and through its port. */
export class RingWords {
  private readonly port: BusPort

  constructor(port: BusPort) {
    this.port = port
  }

  load16(address: number): number {
    const { region, offset } = this.at(address, 2, ACCESS_READ)
    return region.view.getUint16(offset, true)
  }

  load32(address: number): number {
    const { region, offset } = this.at(address, 4, ACCESS_READ)
    return region.view.getUint32(offset, true)
  }

  store16(address: number, value: number): void {
    const { region, offset } = this.at(address, 2, ACCESS_WRITE)
    region.view.setUint16(offset, value, true)
  }

  store32(address: number, value: number): void {
    const { region, offset } = this.at(address, 4, ACCESS_WRITE)
    region.view.setUint32(offset, value, true)
  }

  private at(address: number, length: number, access: 1 | 2): BusPort {
    const { port } = this
    port.refresh()
    port.request[0] = address
    const granted = port.resolve(length, access)
    if (granted !== length)
      throw new PeerError('swiotlb/inside', `the port refuses ${length} bytes of the ring at ${address}`)
    return port
  }
}
