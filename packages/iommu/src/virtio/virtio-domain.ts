import { DMA_FAILED, DMA_OK, type DmaStatus } from '@guestdma/dma'
import { observe } from '@guestdma/memory'
import { VIRTIO_IOMMU_S_OK } from '@guestdma/spec'
import type { IommuDomain } from '../backend/domain.ts'
import { describeRequestStatus, IommuError, NO_STATUS } from './errors.ts'
import type { ReservedRange } from './probe.ts'

/** What a domain asks of the driver of its IOMMU. */
export interface DomainOwner {
  readonly granule: number
  readonly inputStart: number
  readonly inputEnd: number
  /** Puts the domain's `request` into the queue: a MAP with this access, or an UNMAP for 0. */
  queue(domain: VirtioIommuDomain, access: number): void
  /** Sends what is queued and waits until it was answered. */
  settle(): void
  /** Detaches the domain's endpoint. Returns OK (0), the status of a DETACH that was refused, or `NO_STATUS`. */
  release(domain: VirtioIommuDomain): number
  /** Why the device answers nothing any more; null while it does. */
  readonly broken: IommuError | null
  /** Whether nothing is lent through any other domain. */
  lendsAlone(domain: VirtioIommuDomain): boolean
}

/** One endpoint's address space in a virtio-iommu. */
export class VirtioIommuDomain implements IommuDomain {
  declare readonly name: string
  declare readonly granule: number
  declare readonly leastLength: number
  readonly identity = false
  declare readonly inputStart: number
  declare readonly inputEnd: number
  declare readonly reserved: readonly ReservedRange[]
  readonly request: Float64Array = new Float64Array(3)
  declare readonly id: number
  declare readonly endpoint: number
  /** The driver's: its place among the domains. */
  declare readonly index: number
  /** The driver's: the worst status since the last commit. */
  failed: DmaStatus = DMA_OK
  /** The driver's: what the endpoint can reach is not known any more. */
  broken = false

  /** The driver's: a reset of the IOMMU took everything away. */
  detached = false
  /** Given up by its backend. The driver keeps what it could not detach. */
  disposed = false

  declare private readonly iommu: DomainOwner
  private readonly releases: (() => void)[] = []
  private count: () => number = () => 0
  private gone = false

  constructor(
    iommu: DomainOwner,
    index: number,
    id: number,
    endpoint: number,
    name: string,
    reserved: readonly ReservedRange[],
  ) {
    this.iommu = iommu
    this.index = index
    this.id = id
    this.endpoint = endpoint
    this.name = name
    this.granule = iommu.granule
    // virt_end must be strictly greater than virt_start: virtio 1.4 §5.13.6.5.
    this.leastLength = Math.max(2, iommu.granule)
    this.inputStart = iommu.inputStart
    this.inputEnd = iommu.inputEnd
    this.reserved = reserved
  }

  get exclusive(): boolean {
    return this.iommu.lendsAlone(this)
  }

  lentBy(count: () => number): void {
    this.count = count
  }

  /** The driver's: mappings that may be given back. Rings, a pool and what nobody can remove any more are none. */
  get lent(): number {
    return this.broken || this.disposed ? 0 : this.count()
  }

  map(access: number): void {
    this.iommu.queue(this, access)
  }

  unmap(): void {
    this.iommu.queue(this, 0)
  }

  commit(): DmaStatus {
    this.iommu.settle()
    const { failed } = this
    this.failed = DMA_OK
    return this.broken ? DMA_FAILED : failed
  }

  /**
   * Detaches the endpoint: all of its mappings go at once, also where single removals were refused. Called again, it asks
   * once more.
   *
   * @throws IommuError `IOMMU_DETACH` where the device does not confirm it, each time. The mappings go when the endpoint is
   *   attached again or the IOMMU is reset. That the platform cut the device off removes none of them: it lets the device
   *   in again, and they would be there
   */
  dispose(): void {
    this.disposed = true
    if (this.gone) return
    const { iommu, endpoint, id: domain } = this
    const status = iommu.release(this)
    if (status === VIRTIO_IOMMU_S_OK) return
    const message = `the IOMMU did not confirm that endpoint ${endpoint} was detached: ${describeRequestStatus(status)}`
    const details = { endpoint, domain, status: status === NO_STATUS ? null : status }
    throw new IommuError('IOMMU_DETACH', this.name, message, details, { cause: iommu.broken ?? undefined })
  }

  whenGone(release: () => void): void {
    if (this.gone) release()
    else this.releases.push(release)
  }

  /** The driver's: the endpoint cannot reach anything of this domain any more. */
  wentAway(): void {
    this.gone = true
    // One that throws keeps no other from its memory, nor the driver from its reset.
    for (const release of this.releases.splice(0)) observe(release, undefined)
  }
}
