import { ADDRESS_HIGH_LIMIT, ADDRESS_LIMIT } from '@guestdma/memory'
import {
  IOMMU_ATTACH_DOMAIN,
  IOMMU_ATTACH_ENDPOINT,
  IOMMU_ATTACH_FLAGS,
  IOMMU_ATTACH_RESERVED,
  IOMMU_DETACH_DOMAIN,
  IOMMU_DETACH_ENDPOINT,
  IOMMU_MAP_DOMAIN,
  IOMMU_MAP_FLAGS,
  IOMMU_MAP_PHYS_START,
  IOMMU_MAP_VIRT_END,
  IOMMU_MAP_VIRT_START,
  IOMMU_UNMAP_DOMAIN,
  IOMMU_UNMAP_RESERVED,
  IOMMU_UNMAP_VIRT_END,
  IOMMU_UNMAP_VIRT_START,
  VIRTIO_IOMMU_ATTACH_F_BYPASS,
  VIRTIO_IOMMU_S_DEVERR,
  VIRTIO_IOMMU_S_INVAL,
  VIRTIO_IOMMU_S_NOENT,
  VIRTIO_IOMMU_S_NOMEM,
  VIRTIO_IOMMU_S_OK,
  VIRTIO_IOMMU_S_RANGE,
  VIRTIO_IOMMU_S_UNSUPP,
} from '@guestdma/spec'
import type { IommuDeviceCounters, IommuLimits } from './config.ts'
import { IommuDomain } from './domain.ts'
import type { IommuPort } from './iommu-port.ts'
import { MAPPING_END, MAPPING_FLAGS, MAPPING_PHYS, MAPPING_START, MappingPool } from './mapping-pool.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use. Fields as words.
const OK = VIRTIO_IOMMU_S_OK
const DEVERR = VIRTIO_IOMMU_S_DEVERR
const INVAL = VIRTIO_IOMMU_S_INVAL
const RANGE = VIRTIO_IOMMU_S_RANGE
const NOENT = VIRTIO_IOMMU_S_NOENT
const HIGH_LIMIT = ADDRESS_HIGH_LIMIT
const LAST_ADDRESS = ADDRESS_LIMIT - 1
const TWO_32 = 2 ** 32
const MAP_DOMAIN = IOMMU_MAP_DOMAIN / 4
const MAP_START = IOMMU_MAP_VIRT_START / 4
const MAP_END = IOMMU_MAP_VIRT_END / 4
const MAP_PHYS = IOMMU_MAP_PHYS_START / 4
const MAP_FLAGS = IOMMU_MAP_FLAGS / 4
const UNMAP_DOMAIN = IOMMU_UNMAP_DOMAIN / 4
const UNMAP_START = IOMMU_UNMAP_VIRT_START / 4
const UNMAP_END = IOMMU_UNMAP_VIRT_END / 4
const UNMAP_RESERVED = IOMMU_UNMAP_RESERVED / 4
const KEY_START = MAPPING_START
const KEY_END = MAPPING_END
const KEY_PHYS = MAPPING_PHYS
const KEY_FLAGS = MAPPING_FLAGS

/** Not a status: the request is not done yet. */
export const UNFINISHED = -3
/** To remove so many mappings is as much work as a request. */
export const MAPPINGS_PER_UNIT = 16
/** And to forget so many of them with their domain. */
const FORGOTTEN_PER_UNIT = 256

/**
 * The endpoints and domains of an IOMMU, and the requests that change them (virtio 1.4 §5.13.6.3 to §5.13.6.6). A
 * request is `words[at]` and up, its head first; each word is loaded once. The answer is the status. A request that is
 * rejected changes nothing.
 *
 * What takes something away from a device in a worker is answered once that device cannot use it any more. Where the
 * device does not let go of it in time, the answer is DEVERR: the same request again finds out whether it has by then.
 */
export class IommuRequests {
  readonly ports: Map<number, IommuPort> = new Map()
  /** By number as a signed integer: an unsigned one may be a heap number. */
  readonly domains: Map<number, IommuDomain> = new Map()
  /** The flags that the driver may use, as negotiated. */
  mapFlags = 0
  attachFlags = 0
  /** Whether endpoints without a domain are in bypass mode. */
  bypass = false
  /** What requests cost beyond the first unit of each, since whoever asks set it to 0. */
  work = 0

  declare private readonly limits: IommuLimits
  declare private readonly counters: IommuDeviceCounters
  declare private readonly misaligned: number
  declare private readonly input: Float64Array
  private readonly pool = new MappingPool()
  private recent: IommuDomain | null = null

  constructor(limits: IommuLimits, counters: IommuDeviceCounters) {
    this.limits = limits
    this.counters = counters
    this.misaligned = limits.granule - 1
    this.input = Float64Array.of(limits.input.start, limits.input.end)
  }

  /** §5.13.6.3.2. A domain number out of the configured range is RANGE: no rule names a status. */
  attach(words: Uint32Array, at: number): number {
    const number = words[at + IOMMU_ATTACH_DOMAIN / 4]
    const endpoint = words[at + IOMMU_ATTACH_ENDPOINT / 4]
    const flags = words[at + IOMMU_ATTACH_FLAGS / 4]
    if (words[at + IOMMU_ATTACH_RESERVED / 4] !== 0 || (flags & ~this.attachFlags) !== 0) return INVAL
    const port = this.ports.get(endpoint)
    if (port === undefined) return NOENT
    const { domain: range, maxDomains } = this.limits
    if (number < range.start || number > range.end) return RANGE
    const bypass = (flags & VIRTIO_IOMMU_ATTACH_F_BYPASS) !== 0
    let domain = this.lookup(number | 0)
    const left = port.domain
    if (domain !== null) {
      if ((domain.mappings === null) !== bypass) return INVAL
      if (domain === left) return OK
      this.work += Math.floor(port.reserved.length / MAPPINGS_PER_UNIT)
      if (!domain.admits(port)) return VIRTIO_IOMMU_S_UNSUPP
    } else {
      // The domain that it leaves may go with it.
      const remaining = this.domains.size - (left !== null && left.endpoints.length === 1 ? 1 : 0)
      if (remaining >= maxDomains) return VIRTIO_IOMMU_S_NOMEM
    }
    if (!port.revokeCopy()) return DEVERR
    if (left !== null) this.leave(port, left)
    domain ??= this.create(number | 0, bypass)
    domain.add(port)
    port.assign(domain, false)
    return OK
  }

  /** §5.13.6.4.2 */
  detach(words: Uint32Array, at: number): number {
    const number = words[at + IOMMU_DETACH_DOMAIN / 4]
    const port = this.ports.get(words[at + IOMMU_DETACH_ENDPOINT / 4])
    if (port === undefined) return NOENT
    const domain = this.lookup(number | 0)
    if (domain === null || port.domain !== domain) return INVAL
    if (!port.revokeCopy()) return DEVERR
    this.leave(port, domain)
    port.assign(null, this.bypass)
    return OK
  }

  /**
   * §5.13.6.5.2. Beyond the statuses that the text gives: a range outside of `input_range`, or a physical range that
   * does not end below 2^53, is RANGE, as a limit is exceeded; a reserved region in the range is INVAL, as a mapping
   * is; and so is an end that is not behind the start, which makes no range (§5.13.6.5.1: "strictly greater", so a
   * single byte cannot be mapped).
   */
  map(words: Uint32Array, at: number): number {
    const number = words[at + MAP_DOMAIN] | 0
    const startLow = words[at + MAP_START]
    const startHigh = words[at + MAP_START + 1]
    const endLow = words[at + MAP_END]
    const endHigh = words[at + MAP_END + 1]
    const physLow = words[at + MAP_PHYS]
    const physHigh = words[at + MAP_PHYS + 1]
    const flags = words[at + MAP_FLAGS] | 0
    // The only status that is a MUST, so it comes first.
    if ((flags & ~this.mapFlags) !== 0) return INVAL
    const domain = this.lookup(number)
    if (domain === null) return NOENT
    const { mappings } = domain
    if (mappings === null) return INVAL
    if (((startLow | physLow | (endLow + 1)) & this.misaligned) !== 0) return RANGE
    const { input } = this
    if (startHigh >= HIGH_LIMIT || endHigh >= HIGH_LIMIT || physHigh >= HIGH_LIMIT) {
      // Without the exact numbers: below `start`, whatever their size, is still no range.
      return endHigh < startHigh || (endHigh === startHigh && endLow <= startLow) ? INVAL : RANGE
    }
    const start = startHigh * TWO_32 + startLow
    const end = endHigh * TWO_32 + endLow
    const phys = physHigh * TWO_32 + physLow
    if (end <= start) return INVAL
    if (start < input[0] || end > input[1] || phys > LAST_ADDRESS - (end - start)) return RANGE
    const { keys } = mappings
    keys[KEY_START] = start
    keys[KEY_END] = end
    keys[KEY_PHYS] = phys
    keys[KEY_FLAGS] = flags
    if (domain.reserves(keys)) return INVAL
    const { counters } = this
    if (counters.mappings >= this.limits.maxMappings) return mappings.overlaps() ? INVAL : VIRTIO_IOMMU_S_NOMEM
    if (!mappings.insert()) return INVAL
    counters.mappings++
    domain.mapped(keys)
    return OK
  }

  /**
   * Takes `most` mappings away at most. Where there are more it answers {@link UNFINISHED}: the same request again goes
   * on with the rest.
   *
   * §5.13.6.6.2. The range may lie anywhere in 64 bits: nothing is mapped from 2^53 on. Where `reserved` is not zero,
   * the request is rejected; a range that ends before it begins is INVAL.
   */
  unmap(words: Uint32Array, at: number, most: number): number {
    const number = words[at + UNMAP_DOMAIN] | 0
    const startLow = words[at + UNMAP_START]
    const startHigh = words[at + UNMAP_START + 1]
    const endLow = words[at + UNMAP_END]
    const endHigh = words[at + UNMAP_END + 1]
    if (words[at + UNMAP_RESERVED] !== 0) return INVAL
    const domain = this.lookup(number)
    if (domain === null) return NOENT
    const { mappings } = domain
    if (mappings === null) return INVAL
    if (endHigh < startHigh || (endHigh === startHigh && endLow < startLow)) return INVAL
    if (startHigh >= HIGH_LIMIT) return OK
    const { keys } = mappings
    keys[KEY_START] = startHigh * TWO_32 + startLow
    keys[KEY_END] = endHigh >= HIGH_LIMIT ? LAST_ADDRESS : endHigh * TWO_32 + endLow
    const removed = mappings.remove(most)
    if (removed < 0) return RANGE
    if (removed > 0) {
      this.counters.mappings -= removed
      this.work += (removed / MAPPINGS_PER_UNIT) | 0
      domain.unmapped(keys)
    }
    // Also where nothing was removed: the same request may have done that, and not have been confirmed.
    if (!domain.settle()) return DEVERR
    return removed < most ? OK : UNFINISHED
  }

  /** A new endpoint. */
  addPort(port: IommuPort): void {
    this.ports.set(port.endpoint, port)
    port.assign(null, this.bypass)
  }

  /** Whether no endpoint can use anything any more that was taken away from it. */
  get settled(): boolean {
    for (const port of this.ports.values()) if (!port.settled) return false
    return true
  }

  /** The caller looks whether that is {@link settled}. */
  setBypass(bypass: boolean): void {
    if (bypass === this.bypass) return
    this.bypass = bypass
    for (const port of this.ports.values()) if (port.domain === null) port.assign(null, bypass)
  }

  /** Detaches everything and revokes all grants: §5.13.5. The caller looks whether that is {@link settled}. */
  reset(bypass: boolean): void {
    this.bypass = bypass
    for (const port of this.ports.values()) {
      if (port.domain !== null) this.leave(port, port.domain)
      port.assign(null, bypass)
    }
  }

  private lookup(number: number): IommuDomain | null {
    const { recent } = this
    if (recent !== null && recent.id === number) return recent
    const found = this.domains.get(number)
    if (found === undefined) return null
    this.recent = found
    return found
  }

  private create(number: number, bypass: boolean): IommuDomain {
    const domain = new IommuDomain(number, bypass ? null : this.pool)
    this.domains.set(number, domain)
    this.counters.domains++
    return domain
  }

  // The caller assigns the port anew.
  private leave(port: IommuPort, domain: IommuDomain): void {
    domain.remove(port)
    if (domain.endpoints.length > 0) return
    const { mappings } = domain
    if (mappings !== null) {
      this.counters.mappings -= mappings.count
      this.work += Math.floor(mappings.count / FORGOTTEN_PER_UNIT)
      mappings.dispose()
    }
    this.domains.delete(domain.id)
    this.counters.domains--
    this.recent = null
  }
}
