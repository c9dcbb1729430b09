import {
  DMA_EXHAUSTED,
  DMA_OK,
  DMA_TOO_LONG,
  DMA_UNMAPPABLE,
  type DmaBackend,
  type DmaCounters,
  type DmaDirection,
  DmaError,
  type DmaLimits,
  type DmaMappings,
  type DmaRegion,
  type DmaStatus,
  type DmaTraits,
  FROM_DEVICE,
  newDmaCounters,
  TO_DEVICE,
} from '@guestdma/dma'
import { clear, copy, type GuestMemory, hex } from '@guestdma/memory'
import { ADDRESS_MASK, type BouncePool, type BounceUser, FOREIGN_BYTES, SLOT_BYTES } from './bounce-pool.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const OK = DMA_OK
const UNMAPPABLE = DMA_UNMAPPABLE
const EXHAUSTED = DMA_EXHAUSTED
const TOO_LONG = DMA_TOO_LONG
const SLOT = SLOT_BYTES
const LOW_BITS = ADDRESS_MASK
const TO = TO_DEVICE
const FROM = FROM_DEVICE
const FOREIGN = FOREIGN_BYTES

/**
 * What happens to bytes that a slot held before, so that a device that overstates what it wrote cannot have them
 * delivered. `foreign`: before bytes are lent for writing they are cleared of what the guest or another device put
 * there, and not of what this device wrote there itself, since it could write that again (default where one device has
 * the pool). `on-lend`: lent bytes are cleared first. `on-return`: slots are cleared when they come back, so that nothing
 * stays in the pool for others to read (default where several devices have it). `never`: opt-in. `traits.residue` shows
 * what is left.
 */
export type ClearPolicy = 'foreign' | 'on-lend' | 'on-return' | 'never'

export interface BounceBackendOptions {
  /** The scheme's id. */
  readonly name: string
  readonly memory: GuestMemory
  readonly pool: BouncePool
  readonly clear?: ClearPolicy
  /** Is the pool within reach of one device only? Default true. Otherwise slots are cleared on return by default. */
  readonly exclusive?: boolean
  /**
   * What keeps the device inside the pool. Default `trusted-code`, a port of ours; `construction` where it is another
   * process that was given this memory and no other, `peer` behind an IOMMU or a back end that is not ours.
   */
  readonly enforcedBy?: DmaTraits['enforcedBy']
}

/** Counters of a bounce backend: those of every backend and its pool's. */
export interface BounceCounters extends DmaCounters {
  readonly slots: number
  readonly slotsInUse: number
  readonly slotsHighWater: number
  readonly stalls: number
}

/**
 * Copies each lent buffer into a slot that the device can see, and back: only as many bytes as the device wrote, which
 * the virtqueue knows and Linux's swiotlb does not. One mechanism for a pool in host memory and for a region on the
 * device; they differ in how the region is found and in what an access costs.
 */
export class BounceBackend implements DmaBackend {
  declare readonly name: string
  declare readonly traits: DmaTraits

  declare private readonly memory: GuestMemory
  declare private readonly pool: BouncePool
  declare private readonly user: BounceUser
  declare private readonly clearForeign: boolean
  declare private readonly clearOnLend: boolean
  declare private readonly clearOnReturn: boolean
  private readonly totals = newDmaCounters()
  private readonly regions = new Set<DmaRegion>()

  constructor(options: BounceBackendOptions) {
    const { name, memory, pool, exclusive = true, enforcedBy = 'trusted-code' } = options
    const policy = options.clear ?? (exclusive ? 'foreign' : 'on-return')
    this.name = name
    this.memory = memory
    this.pool = pool
    this.user = pool.attach()
    this.clearForeign = policy === 'foreign'
    this.clearOnLend = policy === 'on-lend'
    this.clearOnReturn = policy === 'on-return'
    this.traits = {
      streaming: 'copied',
      payload: 'plain',
      home: pool.home,
      readOnly: 'enforced',
      reach: 'pool',
      revocation: 'strict',
      enforcedBy,
      residue: residueOf(policy, exclusive),
    }
  }

  /** As of now: rings that are made, and other users of the pool, lower `assuredMappings`. */
  get limits(): DmaLimits {
    const { pool } = this
    return {
      granule: 1,
      maxMappingLength: pool.maxMappingLength,
      maxLiveMappings: pool.slots,
      assuredMappings: pool.assuredMappings,
      maxDeviceAddress: pool.device + pool.slots * SLOT - 1,
      overhead: 0,
      syncGranule: 1,
      staleEntries: 0,
      staleNs: 0,
    }
  }

  get counters(): Readonly<BounceCounters> {
    const { slots, inUse, highWater, stalls } = this.pool
    return { ...this.totals, slots, slotsInUse: inUse, slotsHighWater: highWater, stalls }
  }

  alloc(length: number, align: number, direction: DmaDirection, _use: 'ring' | 'payload'): DmaRegion {
    const region = this.pool.alloc(length, align, direction)
    this.regions.add(region)
    this.totals.allocatedBytes += length
    return region
  }

  free(region: DmaRegion): void {
    if (!this.regions.delete(region))
      throw new DmaError('DMA_FREE', this.name, `the region at ${hex(region.device)} is not allocated here`, {
        device: region.device,
      })
    this.totals.allocatedBytes -= region.length
    this.pool.free(region)
  }

  map(m: DmaMappings, row: number): DmaStatus {
    const { memory, pool, totals } = this
    const length = m.length[row]
    if (memory.locate(m.guest, row, length) !== length) {
      totals.unmappable++
      return UNMAPPABLE
    }
    const lead = m.guest[row] & LOW_BITS
    const count = slotsFor(length + lead)
    if (count > pool.maxRun) {
      totals.tooLong++
      return TOO_LONG
    }
    const slot = pool.take(this.user, count, m.standing)
    if (slot < 0) {
      totals.exhausted++
      return EXHAUSTED
    }
    const into = slot * SLOT + lead
    const region = pool.region
    region.refresh()
    if ((m.direction[row] & TO) === 0 && this.clearForeign) this.clearUnlessOwn(slot, count, into, length, m.standing)
    else pool.mark(slot, count, FOREIGN)
    if ((m.direction[row] & TO) !== 0) {
      memory.region.refresh()
      copy(region, pool.offset + into, memory.region, memory.offset, length)
      totals.bytesCopiedToDevice += length
    } else if (this.clearOnLend) {
      clear(region, pool.offset + into, length)
      totals.bytesCleared += length
    }
    m.device[row] = pool.device + into
    m.deviceLength[row] = length
    m.token[row] = slot
    totals.maps++
    return OK
  }

  unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    const { pool, totals } = this
    const length = m.length[row]
    const lead = m.guest[row] & LOW_BITS
    const slot = m.token[row]
    const back = written < length ? written : length
    if (back > 0 && (m.direction[row] & FROM) !== 0) this.copyBack(m, row, 0, back)
    const count = slotsFor(length + lead)
    if (this.clearOnReturn) {
      pool.region.refresh()
      clear(pool.region, pool.offset + slot * SLOT + lead, length)
      totals.bytesCleared += length
    }
    pool.give(this.user, slot, count, m.standing)
    m.token[row] = -1
    totals.unmaps++
    return OK
  }

  syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    const { memory, pool, totals } = this
    totals.syncs++
    if (!m.spans(row, offset, length)) return UNMAPPABLE
    // Bytes that only the device writes must not be overwritten with older ones of the guest's.
    if ((m.direction[row] & TO) === 0) return OK
    memory.locate(m.guest, row, m.length[row])
    memory.region.refresh()
    pool.region.refresh()
    copy(pool.region, this.slotOffset(m, row) + offset, memory.region, memory.offset + offset, length)
    totals.bytesCopiedToDevice += length
    return OK
  }

  syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.totals.syncs++
    if (!m.spans(row, offset, length)) return UNMAPPABLE
    if ((m.direction[row] & FROM) !== 0) this.copyBack(m, row, offset, length)
    return OK
  }

  commitMaps(): DmaStatus {
    this.totals.commitMaps++
    return OK
  }

  commitUnmaps(): DmaStatus {
    this.totals.commitUnmaps++
    return OK
  }

  dispose(): void {
    for (const region of [...this.regions]) this.free(region)
    this.totals.unmaps += this.pool.detach(this.user)
  }

  // The slots of a receive buffer serve receive buffers again: they are cleared whole, and then no more. Those of a
  // request may hold the guest's bytes the next time.
  private clearUnlessOwn(slot: number, count: number, into: number, length: number, standing: boolean): void {
    const { pool, totals, user } = this
    const own = pool.holdsOnly(slot, count, user.id)
    if (!own) {
      clear(pool.region, pool.offset + (standing ? slot * SLOT : into), standing ? count * SLOT : length)
      totals.bytesCleared += standing ? count * SLOT : length
    }
    if (own || standing) pool.mark(slot, count, user.id)
  }

  private copyBack(m: DmaMappings, row: number, offset: number, length: number): void {
    const { memory, pool } = this
    memory.locate(m.guest, row, m.length[row])
    memory.region.refresh()
    pool.region.refresh()
    copy(memory.region, memory.offset + offset, pool.region, this.slotOffset(m, row) + offset, length)
    this.totals.bytesCopiedFromDevice += length
  }

  private slotOffset(m: DmaMappings, row: number): number {
    return this.pool.offset + m.token[row] * SLOT + (m.guest[row] & LOW_BITS)
  }
}

function residueOf(policy: ClearPolicy, exclusive: boolean): DmaTraits['residue'] {
  if (policy === 'on-return') return 'none'
  if (!exclusive) return 'other-devices'
  return policy === 'foreign' ? 'own-writes' : policy === 'on-lend' ? 'none' : 'own'
}

function slotsFor(bytes: number): number {
  return bytes <= SLOT ? 1 : Math.ceil(bytes / SLOT)
}
