import { GuestDmaError } from '@guestdma/memory'

/**
 * An IOMMU that cannot be brought up or refused an endpoint. Codes: `IOMMU_MODE`, `IOMMU_GRANULE`, `IOMMU_RANGE`,
 * `IOMMU_BYPASS`, `IOMMU_PROBE`, `IOMMU_ATTACH`, `IOMMU_DOMAINS`, `IOMMU_STUCK`, `IOMMU_EVENTS`,
 * `IOMMU_CLOSED`.
 */
export class IommuError extends GuestDmaError {}

const STATUS = ['OK', 'IOERR', 'UNSUPP', 'DEVERR', 'INVAL', 'RANGE', 'NOENT', 'FAULT', 'NOMEM']

/** A status of virtio 1.4 §5.13.6 by its name, for messages. */
export function describeRequestStatus(status: number): string {
  return STATUS[status] ?? `status ${status}`
}
