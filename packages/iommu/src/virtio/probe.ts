import {
  IOMMU_PROPERTY_HEAD_BYTES,
  IOMMU_PROPERTY_TYPE_MASK,
  IOMMU_RESV_MEM_BYTES,
  IOMMU_RESV_MEM_END,
  IOMMU_RESV_MEM_START,
  IOMMU_RESV_MEM_SUBTYPE,
  VIRTIO_IOMMU_PROBE_T_NONE,
  VIRTIO_IOMMU_PROBE_T_RESV_MEM,
  VIRTIO_IOMMU_RESV_MEM_T_MSI,
} from '@guestdma/spec'
import { IommuError } from './errors.ts'

/** I/O virtual addresses that a driver may not map, ends included. */
export interface ReservedRange {
  readonly start: number
  readonly end: number
  /** `msi`: a doorbell for message-signalled interrupts. Subtypes that are not known count as `reserved`. */
  readonly kind: 'reserved' | 'msi'
}

/**
 * Reads the properties that a PROBE request returned: virtio 1.4 §5.13.6.6. What is not known is passed over.
 *
 * @throws IommuError `IOMMU_PROPERTY` for properties that run over the end, or ranges that end before they start
 */
export function parseProperties(name: string, properties: Uint8Array): ReservedRange[] {
  const view = new DataView(properties.buffer, properties.byteOffset, properties.byteLength)
  const ranges: ReservedRange[] = []
  for (let at = 0; at + IOMMU_PROPERTY_HEAD_BYTES <= properties.length; ) {
    const head = view.getUint16(at, true)
    const length = view.getUint16(at + 2, true)
    const type = head & IOMMU_PROPERTY_TYPE_MASK
    if (head === VIRTIO_IOMMU_PROBE_T_NONE) break
    const next = at + IOMMU_PROPERTY_HEAD_BYTES + length
    if (next > properties.length) {
      throw new IommuError('IOMMU_PROPERTY', name, `a property of ${length} bytes at ${at} runs over the end`, {
        at,
        length,
        bytes: properties.length,
      })
    }
    // A property whose reserved bits are not zero is to be ignored.
    if (head === VIRTIO_IOMMU_PROBE_T_RESV_MEM && type === head) {
      if (IOMMU_PROPERTY_HEAD_BYTES + length < IOMMU_RESV_MEM_BYTES)
        throw new IommuError('IOMMU_PROPERTY', name, `a RESV_MEM property of ${length} bytes is too short`, {
          at,
          length,
        })
      const start = address(view, at + IOMMU_RESV_MEM_START)
      const end = address(view, at + IOMMU_RESV_MEM_END)
      const msi = view.getUint8(at + IOMMU_RESV_MEM_SUBTYPE) === VIRTIO_IOMMU_RESV_MEM_T_MSI
      if (end < start)
        throw new IommuError('IOMMU_PROPERTY', name, `a reserved range ends at ${end} before it starts at ${start}`, {
          start,
          end,
        })
      ranges.push({ start, end, kind: msi ? 'msi' : 'reserved' })
    }
    at = next
  }
  return ranges
}

/** A 64-bit field as a number; what is beyond 2^53 − 1 saturates, since no address of ours lies there. */
export function address(view: { getUint32(at: number, little: boolean): number }, at: number): number {
  const value = view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true)
  return Math.min(value, Number.MAX_SAFE_INTEGER)
}
