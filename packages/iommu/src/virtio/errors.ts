import { GuestDmaError } from '@guestdma/memory'

/** An IOMMU that cannot be brought up, failed, or refused an endpoint. */
export class IommuError extends GuestDmaError<keyof typeof IOMMU_CODES> {}

/** No status of the specification: what a status byte is before the device writes it. */
export const NO_STATUS = 0xff

const STATUS = ['OK', 'IOERR', 'UNSUPP', 'DEVERR', 'INVAL', 'RANGE', 'NOENT', 'FAULT', 'NOMEM']

/** A status of virtio 1.4 §5.13.6 by its name, for messages. */
export function describeRequestStatus(status: number): string {
  return STATUS[status] ?? (status === NO_STATUS ? 'no status' : `status ${status}`)
}

export const IOMMU_CODES = {
  IOMMU_ATTACH: {
    meaning: 'The IOMMU refused to attach an endpoint to a domain.',
    advice: 'Check the endpoint ID against the facts of the platform; details.status is the answer.',
  },
  IOMMU_BYPASS: {
    meaning: 'The IOMMU keeps endpoints in bypass mode that are attached to no domain.',
    advice: 'Let the device offer BYPASS_CONFIG and turn bypass off.',
  },
  IOMMU_CLOSED: {
    meaning: 'The driver of the IOMMU was closed.',
    advice: 'Start it again.',
  },
  IOMMU_DETACH: {
    meaning:
      'The IOMMU did not confirm that an endpoint left its domain, so that the endpoint may still reach what is mapped there.',
    advice:
      'Leave that memory out of use until the endpoint is attached again or the IOMMU was reset; details.status is the answer.',
  },
  IOMMU_DOMAINS: {
    meaning: 'All domains of the IOMMU are in use.',
    advice: 'Put fewer devices behind it, or let it offer a wider domain range.',
  },
  IOMMU_EVENTS: {
    meaning: 'The event queue of the IOMMU broke, so that no more faults are reported.',
    advice: 'Reset all devices behind the IOMMU to have reports again.',
  },
  IOMMU_FOREIGN: {
    meaning: 'A device model of this machine was put behind an IOMMU that lives elsewhere.',
    advice:
      'Give the scheme no iommu, so that the machine makes one, or give the device a transport to where it lives.',
  },
  IOMMU_GRANULE: {
    meaning: 'The page sizes of the IOMMU have no granule that is supported.',
    advice: 'Let the device offer a page size within the bounds that the message names.',
  },
  IOMMU_MODE: {
    meaning: 'The IOMMU does not offer MAP_UNMAP, the only mode that the driver has.',
    advice: 'Let the device offer MAP_UNMAP (bit 2).',
  },
  IOMMU_NO_DEVICE: {
    meaning: 'There is no IOMMU in this place.',
    advice: 'Check the place in the platform: the transport must lead to a device of type 23.',
  },
  IOMMU_PROBE: {
    meaning: 'The IOMMU refused to probe an endpoint.',
    advice: 'Check the endpoint ID against the facts of the platform; details.status is the answer.',
  },
  IOMMU_PROPERTY: {
    meaning: 'A property that the IOMMU returned for a probe is not well formed.',
    advice: 'Mend the device; details say where in the answer.',
  },
  IOMMU_RANGE: {
    meaning: 'A range in the configuration of the IOMMU ends before it starts, or its probe size is out of range.',
    advice: 'Mend input_range, domain_range or probe_size.',
  },
  IOMMU_STUCK: {
    meaning:
      'The IOMMU failed or did not answer in time. Its driver resets it, and after that nothing behind it reaches memory.',
    advice: 'Look at the message and the cause, then reset the IOMMU and the devices behind it.',
  },
} as const
