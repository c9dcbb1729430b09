import { ADDRESS_LIMIT } from '@guestdma/memory'
import {
  FeatureSet,
  IOMMU_CONFIG_BYPASS,
  IOMMU_CONFIG_DOMAIN_END,
  IOMMU_CONFIG_DOMAIN_START,
  IOMMU_CONFIG_INPUT_END,
  IOMMU_CONFIG_INPUT_START,
  IOMMU_CONFIG_PAGE_SIZE_MASK,
  IOMMU_CONFIG_PROBE_SIZE,
  IOMMU_CONFIG_SIZE,
  VIRTIO_IOMMU_F_BYPASS_CONFIG,
  VIRTIO_IOMMU_F_DOMAIN_RANGE,
  VIRTIO_IOMMU_F_INPUT_RANGE,
  VIRTIO_IOMMU_F_MAP_UNMAP,
  VIRTIO_IOMMU_F_MMIO,
  VIRTIO_IOMMU_F_PROBE,
} from '@guestdma/spec'
import { ConfigSpace } from '../device/config-space.ts'
import type { DeviceOptions } from '../device/virtio-device.ts'
import { DeviceError } from '../faults/errors.ts'

/** Both ends belong to it. */
export interface IommuRange {
  readonly start: number
  readonly end: number
}

/** Options of an IOMMU; the defaults give pages of 4 KiB, 48-bit addresses and no bypass. */
export interface IommuDeviceOptions extends DeviceOptions {
  /** Bytes: a power of two from 1 to 65536 to which mappings are aligned. Defaults to 4096. */
  readonly granule?: number
  /** Addresses that can be mapped, below 2^53. INPUT_RANGE is always offered. Defaults to 0 to 2^48 - 1. */
  readonly inputRange?: IommuRange
  /** Offers DOMAIN_RANGE: the domain numbers that can be used. */
  readonly domainRange?: IommuRange
  /** The most domains at a time; ATTACH beyond is NOMEM. Defaults to 65536. */
  readonly maxDomains?: number
  /** The most mappings of all domains together; MAP beyond is NOMEM. Defaults to 2^20. */
  readonly maxMappings?: number
  /** Offers PROBE. Defaults to true. */
  readonly probe?: boolean
  /** Bytes of properties that PROBE answers with; each reserved region takes 24. Defaults to 512. */
  readonly probeSize?: number
  /** Offers MMIO: the flag that maps device registers. Defaults to false. */
  readonly mmio?: boolean
  /**
   * What endpoints without a domain may do. `absent`: nothing, and BYPASS_CONFIG is not offered. `off`, `on`: the
   * driver decides, and its choice begins as 0 (nothing) or 1 (everything). Defaults to `off`.
   */
  readonly bypass?: 'absent' | 'off' | 'on'
  /** The largest sizes of the request queue and of the event queue. Defaults to 256 and 64. */
  readonly queueSizes?: readonly [requests: number, events: number]
}

/** What an IOMMU did since it was made; `domains` and `mappings` are what exists now. */
export interface IommuDeviceCounters {
  attach: number
  detach: number
  map: number
  unmap: number
  probe: number
  /** Of those: answered with another status than OK. */
  rejected: number
  /** Requests of a type that is unknown or was not negotiated, or without room for an answer: used with length 0. */
  unanswered: number
  domains: number
  mappings: number
  /** Faults that were written to the event queue. */
  faultsReported: number
  /** Faults that were not: too many at once, or no driver. */
  faultsDropped: number
  /** Event buffers that cannot hold a fault: used with length 0. */
  shortEventBuffers: number
  /** Accesses that a recently used translation answered, and those that looked for one. */
  tlbHits: number
  tlbMisses: number
}

/** struct virtio_iommu_config as fields: virtio 1.4 §5.13.4. */
const FIELDS = [
  ...[0, 4, 8, 12, 16, 20, 24, 28, 32].map((offset) => ({ offset, width: 4 }) as const),
  { offset: IOMMU_CONFIG_BYPASS, width: 1, writable: true },
  { offset: 37, width: 1 },
  { offset: 38, width: 1 },
  { offset: 39, width: 1 },
] as const

const MAX_GRANULE = 65536
// Larger pages are a hint to the driver (§5.13.6): one mapping costs the same whatever its size.
const LARGEST_PAGE = 2 ** 30

/** The defaults filled in. */
export interface IommuLimits {
  readonly granule: number
  readonly input: IommuRange
  readonly domain: IommuRange
  readonly maxDomains: number
  readonly maxMappings: number
  readonly probeSize: number
}

/** Throws `DEVICE_OPTION`. */
export function iommuLimits(options: IommuDeviceOptions): IommuLimits {
  const { name, granule = 4096, maxDomains = 65536, maxMappings = 2 ** 20, probeSize = 512 } = options
  const { inputRange: input = { start: 0, end: 2 ** 48 - 1 }, domainRange: domain = { start: 0, end: 2 ** 32 - 1 } } =
    options
  const check = (option: string, value: number, least: number, most: number): void => {
    if (Number.isInteger(value) && value >= least && value <= most) return
    throw new DeviceError('DEVICE_OPTION', name, `${option} ${value} must be an integer from ${least} to ${most}`, {
      [option]: value,
    })
  }
  check('granule', granule, 1, MAX_GRANULE)
  if ((granule & (granule - 1)) !== 0) {
    throw new DeviceError('DEVICE_OPTION', name, `granule ${granule} must be a power of two`, { granule })
  }
  check('inputRange.end', input.end, 0, ADDRESS_LIMIT - 1)
  check('inputRange.start', input.start, 0, input.end)
  check('domainRange.end', domain.end, 0, 2 ** 32 - 1)
  check('domainRange.start', domain.start, 0, domain.end)
  check('maxDomains', maxDomains, 1, 2 ** 24)
  check('maxMappings', maxMappings, 1, 2 ** 24)
  check('probeSize', probeSize, 1, 65536)
  return { granule, input, domain, maxDomains, maxMappings, probeSize }
}

/** The features that follow from the options. BYPASS (3) is superseded (§5.13.3.2), so it is not among them. */
export function iommuFeatures(options: IommuDeviceOptions): FeatureSet {
  const bits: number[] = [VIRTIO_IOMMU_F_INPUT_RANGE, VIRTIO_IOMMU_F_MAP_UNMAP]
  if (options.domainRange !== undefined) bits.push(VIRTIO_IOMMU_F_DOMAIN_RANGE)
  if (options.probe !== false) bits.push(VIRTIO_IOMMU_F_PROBE)
  if (options.mmio === true) bits.push(VIRTIO_IOMMU_F_MMIO)
  if (options.bypass !== 'absent') bits.push(VIRTIO_IOMMU_F_BYPASS_CONFIG)
  return FeatureSet.of(...bits)
}

/** The configuration space that follows from the options: §5.13.4. */
export function iommuConfig(options: IommuDeviceOptions, limits: IommuLimits): ConfigSpace {
  const config = new ConfigSpace(IOMMU_CONFIG_SIZE, FIELDS)
  config.write64(IOMMU_CONFIG_PAGE_SIZE_MASK, LARGEST_PAGE * 2 - limits.granule)
  config.write64(IOMMU_CONFIG_INPUT_START, limits.input.start)
  config.write64(IOMMU_CONFIG_INPUT_END, limits.input.end)
  if (options.domainRange !== undefined) {
    config.write(IOMMU_CONFIG_DOMAIN_START, 4, limits.domain.start)
    config.write(IOMMU_CONFIG_DOMAIN_END, 4, limits.domain.end)
  }
  if (options.probe !== false) config.write(IOMMU_CONFIG_PROBE_SIZE, 4, limits.probeSize)
  config.write(IOMMU_CONFIG_BYPASS, 1, options.bypass === 'on' ? 1 : 0)
  return config
}

/** All zero. */
export function iommuCounters(): IommuDeviceCounters {
  return {
    attach: 0,
    detach: 0,
    map: 0,
    unmap: 0,
    probe: 0,
    rejected: 0,
    unanswered: 0,
    domains: 0,
    mappings: 0,
    faultsReported: 0,
    faultsDropped: 0,
    shortEventBuffers: 0,
    tlbHits: 0,
    tlbMisses: 0,
  }
}
