import { DMA_OK } from '@guestdma/dma'
import { DOMAIN_WRITE } from '@guestdma/iommu'
import { type GuestAddress, guestAddress } from '@guestdma/memory'
import type { IotlbDomain } from '@guestdma/vhost-user'
import { expectIs } from '../work/workloads.ts'

interface Lent {
  readonly iova: number
  readonly guest: GuestAddress
  readonly length: number
  readonly access: number
}

/** What a domain lends to a device, so that a case can take it back under the driver. */
export class LentPages {
  private readonly domain: IotlbDomain
  private readonly lent: Lent[] = []

  /** Follows the domain from here on. */
  constructor(domain: IotlbDomain) {
    this.domain = domain
    const map = domain.map.bind(domain)
    domain.map = (access) => {
      const [iova, guest, length] = domain.request
      this.lent.push({ iova, guest: guestAddress(guest), length, access })
      map(access)
    }
  }

  /** How many questions for a translation were refused. */
  get refused(): number {
    return this.domain.counters.missesRefused
  }

  /** What the device may only write: a net driver's receive buffers, as rings are lent for both directions. */
  receiveBuffers(): Lent {
    const found = this.lent.filter(({ access }) => access === DOMAIN_WRITE)
    expectIs('mappings that are only written', found.length, 1)
    return found[0]
  }

  takeBack({ iova, length }: Lent): void {
    this.domain.request.set([iova, 0, length])
    this.domain.unmap()
    expectIs('the removal', this.domain.commit(), DMA_OK)
  }

  lendAgain({ iova, guest, length, access }: Lent): void {
    this.domain.request.set([iova, guest, length])
    this.domain.map(access)
    expectIs('the mapping', this.domain.commit(), DMA_OK)
  }
}
