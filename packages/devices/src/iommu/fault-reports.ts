import { Region } from '@guestdma/memory'
import {
  IOMMU_FAULT_ADDRESS,
  IOMMU_FAULT_BYTES,
  IOMMU_FAULT_ENDPOINT,
  IOMMU_FAULT_FLAGS,
  IOMMU_FAULT_REASON,
  VIRTIO_IOMMU_FAULT_F_ADDRESS,
  VIRTIO_IOMMU_FAULT_F_READ,
  VIRTIO_IOMMU_FAULT_F_WRITE,
} from '@guestdma/spec'

/** Faults that wait for an event buffer; more are dropped, since what makes them does not wait for the driver. */
const MOST_PENDING = 256
const WORDS = IOMMU_FAULT_BYTES / 4

/** Faults on their way to the event queue: a bounded ring of struct virtio_iommu_fault (virtio 1.4 §5.13.6.9). */
export class PendingFaults {
  /** The records, as the driver gets them. */
  readonly region: Region = new Region(new ArrayBuffer(MOST_PENDING * IOMMU_FAULT_BYTES), 'IOMMU faults')
  count = 0
  private first = 0

  /** Where the oldest record stands in `region`. */
  get offset(): number {
    return this.first * IOMMU_FAULT_BYTES
  }

  /** Adds a record; false if there is no room. The address comes as halves, the access as 1 read, 2 write. */
  add(endpoint: number, reason: number, access: 1 | 2, high: number, low: number): boolean {
    if (this.count === MOST_PENDING) return false
    const at = ((this.first + this.count) % MOST_PENDING) * WORDS
    const words = this.region.u32
    // The reserved fields are never written, and so stay zero.
    words[at + IOMMU_FAULT_REASON / 4] = reason
    words[at + IOMMU_FAULT_FLAGS / 4] =
      VIRTIO_IOMMU_FAULT_F_ADDRESS | (access === 1 ? VIRTIO_IOMMU_FAULT_F_READ : VIRTIO_IOMMU_FAULT_F_WRITE)
    words[at + IOMMU_FAULT_ENDPOINT / 4] = endpoint
    words[at + IOMMU_FAULT_ADDRESS / 4] = low
    words[at + IOMMU_FAULT_ADDRESS / 4 + 1] = high
    this.count++
    return true
  }

  /** Forgets the oldest record. */
  shift(): void {
    this.first = (this.first + 1) % MOST_PENDING
    this.count--
  }

  clear(): void {
    this.count = 0
  }
}
