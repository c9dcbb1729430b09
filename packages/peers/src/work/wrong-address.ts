import { ForwardingBackend, withBackend } from '@guestdma/conformance'
import { DMA_OK, type DmaBackend, type DmaMappings, type DmaScheme, type DmaStatus } from '@guestdma/dma'

/**
 * A driver's backend that can be told to hand the device a wrong address, as a driver with a fault would, or a device that
 * kept one. Only mappings of one length are looked at.
 */
export class WrongAddress extends ForwardingBackend {
  /** Addresses of such mappings, in the order in which they were lent. */
  readonly lent: number[] = []
  /** The address that the next such mapping gets instead of its own. */
  next: number | null = null
  private readonly bytes: number
  private readonly own = new Map<number, number>()

  constructor(inner: DmaBackend, bytes: number) {
    super(inner)
    this.bytes = bytes
  }

  override map(m: DmaMappings, row: number): DmaStatus {
    const status = super.map(m, row)
    if (status !== DMA_OK || m.length[row] !== this.bytes) return status
    const address = m.device[row]
    if (this.next === null) this.lent.push(address)
    else {
      this.own.set(m.guest[row], address)
      m.device[row] = this.next
      this.next = null
    }
    return status
  }

  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    const own = this.own.get(m.guest[row])
    if (own !== undefined) {
      this.own.delete(m.guest[row])
      m.device[row] = own
    }
    return super.unmap(m, row, written)
  }
}

/** A scheme with such backends, each of which is told. */
export function wrongAddressScheme(scheme: DmaScheme, bytes: number, made: (backend: WrongAddress) => void): DmaScheme {
  return withBackend(scheme, (inner) => {
    const backend = new WrongAddress(inner, bytes)
    made(backend)
    return backend
  })
}
