import { ADDRESS_LIMIT, type BusPort, FaultLog, type Region } from '@guestdma/memory'
import {
  VIRTIO_IOMMU_FAULT_R_DOMAIN,
  VIRTIO_IOMMU_FAULT_R_MAPPING,
  VIRTIO_IOMMU_FAULT_R_UNKNOWN,
  VIRTIO_IOMMU_MAP_F_WRITE,
} from '@guestdma/spec'
import type { AccessFault, AccessFaultReason } from '../faults/access-fault.ts'
import { DeviceError } from '../faults/errors.ts'
import type { DoorbellSpan, TranslationCopy, TranslationSource } from '../ports/translation-copy.ts'
import type { IommuDeviceCounters, IommuRange } from './config.ts'
import type { IommuDomain } from './domain.ts'
import { MAPPING_CHUNK, MAPPING_CHUNK_MASK, MAPPING_END, MAPPING_FLAGS, MAPPING_PHYS } from './mapping-pool.ts'
import type { Mappings } from './mappings.ts'

/** Addresses of an endpoint that are not mapped: RESV_MEM of virtio 1.4 §5.13.6.8.1. Both ends belong to it. */
export interface ReservedRegion extends IommuRange {
  /** `msi`: a doorbell, where messages pass without translation. `reserved`: nothing is reached there. */
  readonly kind: 'reserved' | 'msi'
}

/** What stands behind an IOMMU under a number. */
export interface EndpointOptions {
  /** Names the endpoint in faults. */
  readonly name: string
  /** Where translated (guest-physical) addresses go: everything, or a second stage that allows less. */
  readonly downstream: BusPort
  /** Not overlapping, and at most one of kind `msi` (§5.13.6.8.1.2). Defaults to none. */
  readonly reserved?: readonly ReservedRegion[]
  /**
   * Of a device in a worker, which translates by a copy: `DeviceWorker.translations`. The reserved regions of such an
   * endpoint are the doorbell of its worker, where it has one.
   */
  readonly copy?: TranslationCopy
}

/** What a port needs of its IOMMU. */
export interface IommuOwner {
  readonly name: string
  readonly counters: IommuDeviceCounters
  readonly granule: number
  /** Takes a fault for the event queue. */
  faulted(endpoint: number, reason: number, access: 1 | 2, high: number, low: number): void
  /** Of an owner whose mappings are a copy: accesses follow, from wherever they are made. */
  begin?(): void
  /** Of an owner whose mappings are a copy: takes over what was added since. Returns whether there was anything. */
  catchUp?(): boolean
}

/** The reserved regions of a port that has a doorbell at `span` and nothing else. */
export function doorbellRegions(span: DoorbellSpan | null): readonly ReservedRegion[] {
  return span === null ? [] : [{ start: span.base, end: span.base + span.length - 1, kind: 'msi' }]
}

// Elements of `window`, and of an entry of recent translations.
const BASE = 0
const LENGTH = 1
const OFFSET = 2
const ACCESS = 3
const GENERATION = 4
const ENTRY = 5
// In `request`, beside the question: the answer.
const ANSWER = 1

// Recent translations, by address: a power of two of them, and the least bytes that have one of their own.
const ENTRIES = 64
const ENTRY_MASK = ENTRIES - 1
const LEAST_SPACING = 512
// An unmapped range over more entries than this drops them all.
const FEW_ENTRIES = 8
const TWO_32 = 2 ** 32
const BOTH = 3
/** Not a reason of {@link IommuOwner.faulted}: the IOMMU did not refuse. */
export const NOT_REPORTED = -1

/**
 * What one endpoint reaches through an IOMMU: virtio 1.4 §5.13. Made by `IommuDevice.addEndpoint`; give it to the
 * endpoint as its `port`.
 *
 * With a domain, an address goes through the domain's mappings and from there to `downstream`; what is granted ends
 * where the mapping or the downstream's grant ends, and asking again gets the rest. In bypass mode an address goes to
 * `downstream` as it is. Reserved regions are reached in neither mode (§5.13.6.8.1.2), but for messages to a doorbell.
 *
 * Every refusal is in {@link faults}. One of the IOMMU is reported to the driver as well: reason DOMAIN without a
 * domain, MAPPING for a missing mapping or permission, UNKNOWN where `downstream` refused a translated address.
 * What `downstream` refuses in bypass mode was allowed by the IOMMU, and is not reported.
 */
export class IommuPort implements BusPort, TranslationSource {
  declare readonly name: string
  /** The number by which the driver knows the endpoint. */
  declare readonly endpoint: number
  declare readonly downstream: BusPort
  declare readonly reserved: readonly ReservedRegion[]
  readonly faults: FaultLog<AccessFault> = new FaultLog<AccessFault>()
  /** [0] is the device address to resolve. What follows is the port's own. */
  readonly request: Float64Array = new Float64Array(2)
  /** The intersection of the last mapping and the downstream's window. */
  readonly window: Float64Array = new Float64Array(4)
  declare region: Region
  /** For the IOMMU: the domain that the endpoint is attached to. Change it with {@link assign}. */
  domain: IommuDomain | null = null

  declare private readonly owner: IommuOwner
  declare private readonly copy: TranslationCopy | null
  /** Of its IOMMU; `tlbHits` and `tlbMisses` are those of all its ports. */
  declare readonly counters: IommuDeviceCounters
  declare private spacing: number
  declare private readonly starts: Float64Array
  declare private readonly ends: Float64Array
  declare private downstreamEpoch: number
  private bypass = false
  private mappings: Mappings | null = null
  private changes = 0
  private generation = 0
  private readonly entries = new Float64Array(ENTRIES * ENTRY)
  declare private readonly regions: Region[]

  /** @throws DeviceError `DEVICE_OPTION` */
  constructor(endpoint: number, options: EndpointOptions, owner: IommuOwner) {
    const { name, downstream, copy = null } = options
    const { reserved = doorbellRegions(copy?.doorbell ?? null) } = options
    this.name = name
    this.endpoint = endpoint
    this.downstream = downstream
    this.reserved = sortedRegions(name, reserved)
    if (copy !== null && (options.reserved?.length ?? 0) > 0) {
      const message = 'a device in a worker has no reserved regions but the doorbell of its worker; leave them out'
      throw new DeviceError('DEVICE_OPTION', name, message, { reserved: reserved.length })
    }
    this.owner = owner
    this.copy = copy
    this.counters = owner.counters
    this.spacing = 1 / Math.max(owner.granule, LEAST_SPACING)
    this.starts = Float64Array.from(this.reserved, ({ start }) => start)
    this.ends = Float64Array.from(this.reserved, ({ end }) => end)
    this.downstreamEpoch = downstream.epoch
    this.region = downstream.region
    this.regions = new Array<Region>(ENTRIES).fill(downstream.region)
    this.revoke()
    copy?.follow(this)
  }

  /** Changes with unmap, attach, detach, reset, a change of bypass, and with the downstream's own. */
  get epoch(): number {
    if (this.downstream.epoch !== this.downstreamEpoch) this.revoke()
    return this.changes
  }

  /** Where the last grant begins in {@link region}. */
  get offset(): number {
    return this.request[ANSWER]
  }

  resolve(length: number, access: 1 | 2): number {
    const { request, window } = this
    if (this.downstream.epoch !== this.downstreamEpoch) this.revoke()
    let into = request[0] - window[BASE]
    if (!(into >= 0 && into < window[LENGTH] && (window[ACCESS] & access) !== 0)) {
      if (!this.recall(access)) return this.translate(length, access)
      into = request[0] - window[BASE]
    }
    this.counters.tlbHits++
    request[ANSWER] = window[OFFSET] + into
    const left = window[LENGTH] - into
    return left < length ? left : length
  }

  outOfReach(high: number, low: number, length: number, access: 1 | 2): void {
    if (this.domain === null && !this.bypass) {
      this.owner.faulted(this.endpoint, VIRTIO_IOMMU_FAULT_R_DOMAIN, access, high, low)
    } else if (this.bypass) this.downstream.outOfReach?.(high, low, length, access)
    else this.owner.faulted(this.endpoint, VIRTIO_IOMMU_FAULT_R_MAPPING, access, high, low)
    this.faults.record({ port: this.name, address: { high, low }, length, access, reason: 'range' })
  }

  /**
   * An address in a doorbell region goes downstream as it is, in every mode; another one is translated as a write is.
   * False, and no fault: it is no doorbell, or not to be written; the write to memory that follows tells.
   */
  message(data: number): boolean {
    const { downstream, request } = this
    if (downstream.message === undefined) return false
    const address = request[0]
    // A message is 4 bytes, and all of them have to be there.
    const last = address + 3
    const region = this.regionFrom(request)
    if (region < this.starts.length && this.starts[region] <= address) {
      if (this.reserved[region].kind !== 'msi' || last > this.ends[region]) return false
      downstream.request[0] = address
    } else if (this.mappings !== null) {
      const { keys, pool } = this.mappings
      keys[0] = address
      const at = this.mappings.find()
      if (at < 0) return false
      const cells = pool.cells[at >> MAPPING_CHUNK]
      const cell = at & MAPPING_CHUNK_MASK
      if (last > cells[cell + MAPPING_END] || (cells[cell + MAPPING_FLAGS] & VIRTIO_IOMMU_MAP_F_WRITE) === 0)
        return false
      downstream.request[0] = cells[cell + MAPPING_PHYS] + (address - cells[cell])
    } else if (this.bypass) downstream.request[0] = address
    else return false
    return downstream.message(data)
  }

  refresh(): void {
    this.owner.begin?.()
    this.downstream.refresh()
    if (this.downstream.epoch !== this.downstreamEpoch) this.revoke()
  }

  /**
   * For the IOMMU: attaches the endpoint to a domain, or to none, in bypass mode or not. Revokes all grants; whether a
   * device in a worker let go of its own {@link settled} says, and {@link revokeCopy} asks before.
   */
  assign(domain: IommuDomain | null, bypass: boolean): void {
    this.domain = domain
    this.mappings = domain === null ? null : domain.mappings
    this.bypass = domain === null ? bypass : domain.mappings === null
    this.spacing = 1 / Math.max(this.owner.granule, LEAST_SPACING)
    this.revoke()
    if (this.copy !== null) this.replay(this.copy)
  }

  /**
   * For the IOMMU: takes everything away from a device in a worker. Returns whether the device can use none of it any
   * more; at once where the device is in this thread.
   */
  revokeCopy(): boolean {
    if (this.copy === null) return true
    this.copy.reach('nothing', this.owner.granule)
    return this.copy.settle()
  }

  /** For the IOMMU: waits for what {@link unmapped} took away. False: the device may still use it. */
  settle(): boolean {
    return this.copy === null || this.copy.settle()
  }

  /** For the IOMMU: {@link settle} without waiting. */
  get settled(): boolean {
    return this.copy === null || this.copy.settled
  }

  replay(copy: TranslationCopy): void {
    const { granule } = this.owner
    copy.reach(this.mappings !== null ? 'mapped' : this.bypass ? 'all' : 'nothing', granule)
    const keys = new Float64Array(4)
    this.mappings?.forEach((...mapping) => {
      keys.set(mapping)
      copy.mapped(keys)
    })
  }

  refused(fault: AccessFault, report: number): void {
    const { access, address } = fault
    const { high, low } = typeof address === 'number' ? halves(address) : address
    if (report !== NOT_REPORTED) this.owner.faulted(this.endpoint, report, access, high, low)
    this.faults.record(fault)
  }

  /** For the IOMMU: the mappings in [keys[0], keys[1]] went. */
  unmapped(keys: Float64Array): void {
    const { copy, entries, spacing, window } = this
    if (copy !== null) copy.unmapped(keys)
    const start = keys[0]
    const end = keys[1]
    this.changes++
    window[LENGTH] = 0
    const last = Math.floor(end * spacing)
    let entry = Math.floor(start * spacing)
    if (last - entry >= FEW_ENTRIES) {
      this.generation++
      return
    }
    // An entry stands where the address was that it was made for, and that is in the mapping.
    for (; entry <= last; entry++) {
      const at = (entry & ENTRY_MASK) * ENTRY
      if (entries[at + BASE] <= end && entries[at + BASE] + entries[at + LENGTH] > start) entries[at + LENGTH] = 0
    }
  }

  /**
   * For the IOMMU: [keys[0], keys[1]] was mapped to keys[2] with the flags keys[3]. Most mappings are used right after,
   * so this one goes to the recent translations, where what it leads to is in the downstream's window.
   */
  mapped(keys: Float64Array): void {
    const { copy, downstream, entries } = this
    if (copy !== null) copy.mapped(keys)
    const { window: behind } = downstream
    const into = keys[2] - behind[BASE]
    const length = keys[1] - keys[0] + 1
    if (downstream.epoch !== this.downstreamEpoch || !(into >= 0 && into + length <= behind[LENGTH])) return
    const index = (keys[0] * this.spacing) & ENTRY_MASK
    const at = index * ENTRY
    entries[at + BASE] = keys[0]
    entries[at + LENGTH] = length
    entries[at + OFFSET] = behind[OFFSET] + into
    // READ and WRITE are bits 0 and 1, as the access kinds are.
    entries[at + ACCESS] = behind[ACCESS] & keys[3] & BOTH
    entries[at + GENERATION] = this.generation
    if (this.regions[index] !== downstream.region) this.regions[index] = downstream.region
  }

  /** For the IOMMU: whether [keys[0], keys[1]] meets a reserved region. */
  reserves(keys: Float64Array): boolean {
    const { starts } = this
    const region = this.regionFrom(keys)
    return region < starts.length && starts[region] <= keys[1]
  }

  /** For the owner: drops the recent translations, so that the next access asks for its own. What was granted stays. */
  forget(): void {
    this.generation++
    this.window[LENGTH] = 0
  }

  private revoke(): void {
    this.downstreamEpoch = this.downstream.epoch
    this.changes++
    this.forget()
  }

  // Makes a recent translation of the address the window, if there is one that permits the access.
  private recall(access: 1 | 2): boolean {
    const { entries, window } = this
    const address = this.request[0]
    const index = (address * this.spacing) & ENTRY_MASK
    const at = index * ENTRY
    const into = address - entries[at + BASE]
    if (!(into >= 0 && into < entries[at + LENGTH]) || entries[at + GENERATION] !== this.generation) return false
    if ((entries[at + ACCESS] & access) === 0) return false
    window[BASE] = entries[at + BASE]
    window[LENGTH] = entries[at + LENGTH]
    window[OFFSET] = entries[at + OFFSET]
    window[ACCESS] = entries[at + ACCESS]
    this.region = this.regions[index]
    return true
  }

  private translate(length: number, access: 1 | 2): number {
    this.owner.begin?.()
    const { downstream, mappings, request } = this
    const address = request[0]
    this.counters.tlbMisses++
    // Addresses [first, last] go to `phys` and up.
    let first = 0
    let last = ADDRESS_LIMIT - 1
    let phys = 0
    let permitted = BOTH
    if (mappings !== null) {
      mappings.keys[0] = address
      let at = mappings.find()
      if (at < 0 && this.owner.catchUp?.() === true) {
        mappings.keys[0] = address
        at = mappings.find()
      }
      if (at < 0) return this.refuse(length, access, 'unmapped', VIRTIO_IOMMU_FAULT_R_MAPPING)
      const cells = mappings.pool.cells[at >> MAPPING_CHUNK]
      const cell = at & MAPPING_CHUNK_MASK
      first = cells[cell]
      last = cells[cell + MAPPING_END]
      phys = cells[cell + MAPPING_PHYS]
      // READ and WRITE are bits 0 and 1, as the access kinds are.
      permitted = cells[cell + MAPPING_FLAGS] & BOTH
      if ((permitted & access) === 0) return this.refuse(length, access, 'permission', VIRTIO_IOMMU_FAULT_R_MAPPING)
    } else if (this.bypass) {
      const { ends, starts } = this
      const next = this.regionFrom(request)
      if (next < starts.length && starts[next] <= address)
        return this.refuse(length, access, 'unmapped', VIRTIO_IOMMU_FAULT_R_MAPPING)
      if (next > 0) first = phys = ends[next - 1] + 1
      if (next < starts.length) last = starts[next] - 1
    } else return this.refuse(length, access, 'unmapped', VIRTIO_IOMMU_FAULT_R_DOMAIN)

    const target = phys + (address - first)
    const left = last - address + 1
    downstream.request[0] = target
    const granted = downstream.resolve(left < length ? left : length, access)
    if (granted <= 0) {
      return this.refuse(length, access, 'unmapped', mappings === null ? NOT_REPORTED : VIRTIO_IOMMU_FAULT_R_UNKNOWN)
    }
    request[ANSWER] = downstream.offset
    this.region = downstream.region
    const { window } = this
    const { window: behind } = downstream
    const begin = behind[BASE]
    const end = begin + behind[LENGTH]
    // All sums are of guest-physical addresses, below 2^53 and thus exact.
    if (target >= begin && target < end) {
      const low = phys > begin ? phys : begin
      window[BASE] = address - (target - low)
      window[LENGTH] = (target + left < end ? target + left : end) - low
      window[OFFSET] = behind[OFFSET] + (low - begin)
      window[ACCESS] = behind[ACCESS] & permitted
    } else {
      // The downstream does not say what is around its grant.
      window[BASE] = address
      window[LENGTH] = granted
      window[OFFSET] = request[ANSWER]
      window[ACCESS] = access
    }
    this.remember()
    return granted
  }

  // Keeps the window as a recent translation.
  private remember(): void {
    const { entries, window } = this
    const index = (this.request[0] * this.spacing) & ENTRY_MASK
    const at = index * ENTRY
    entries[at + BASE] = window[BASE]
    entries[at + LENGTH] = window[LENGTH]
    entries[at + OFFSET] = window[OFFSET]
    entries[at + ACCESS] = window[ACCESS]
    entries[at + GENERATION] = this.generation
    if (this.regions[index] !== this.region) this.regions[index] = this.region
  }

  // The first reserved region that does not end before at[0]; one beyond the last where all do.
  private regionFrom(at: Float64Array): number {
    const { ends } = this
    let low = 0
    let high = ends.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (ends[middle] < at[0]) low = middle + 1
      else high = middle
    }
    return low
  }

  // The last that happens in an access: an observer may change what it likes.
  private refuse(length: number, access: 1 | 2, reason: AccessFaultReason, report: number): number {
    this.refused({ port: this.name, address: this.request[0], length, access, reason }, report)
    return 0
  }
}

function halves(address: number): { high: number; low: number } {
  return { high: Math.floor(address / TWO_32), low: address % TWO_32 }
}

// Throws `DEVICE_OPTION` unless regions are what §5.13.6.8.1.2 says.
function sortedRegions(name: string, regions: readonly ReservedRegion[]): readonly ReservedRegion[] {
  const sorted = [...regions].sort((a, b) => a.start - b.start)
  let end = -1
  for (const region of sorted) {
    const { start, kind } = region
    if (
      !Number.isInteger(start) ||
      !Number.isInteger(region.end) ||
      region.end < start ||
      region.end >= ADDRESS_LIMIT
    ) {
      const message = `reserved region ${start} to ${region.end} must have integer ends below 2^53, in order`
      throw new DeviceError('DEVICE_OPTION', name, message, { start, end: region.end })
    }
    if (start <= end) {
      const message = `reserved region at ${start} begins inside the one before; give regions that do not overlap`
      throw new DeviceError('DEVICE_OPTION', name, message, { start, end })
    }
    if (kind !== 'reserved' && kind !== 'msi') {
      throw new DeviceError('DEVICE_OPTION', name, `kind ${String(kind)} must be 'reserved' or 'msi'`, { kind })
    }
    end = region.end
  }
  if (sorted.filter(({ kind }) => kind === 'msi').length > 1) {
    throw new DeviceError('DEVICE_OPTION', name, 'an endpoint has at most one region of kind msi', {})
  }
  return sorted
}
