import { type DmaDirection, DmaError, type DmaRegion, type PoolFact } from '@guestdma/dma'
import { clear, type DeviceAddress, hex, type Region } from '@guestdma/memory'
import { BounceError } from './errors.ts'
import { SlotMap } from './slot-map.ts'

/** Bytes of a slot: what most packets fit into, and what Linux's swiotlb uses. */
export const SLOT_BYTES = 2048
/** The longest run of slots for one mapping: 256 KiB, as in Linux's swiotlb. */
export const MAX_RUN = 128
/** A mapping keeps its address modulo 8, so that the copy in and out of a slot moves whole words. */
export const ADDRESS_MASK = 7

/** A slot holds what the guest wrote, or several users' devices. */
export const FOREIGN_BYTES: number = 0xffff

// As many slots as a batch usually holds.
const SPARE = 64

// Slots are aligned for every ring and buffer up to their own size.
const POOL_ALIGN = SLOT_BYTES

export interface BouncePoolOptions {
  readonly name: string
  /**
   * Memory that the device can see, and that becomes the pool's: it is cleared. Offset and device address are multiples
   * of 2,048.
   */
  readonly pool: PoolFact
  /**
   * Slots that neither rings nor posted receive buffers may hold, so that one request of this size can always go on. It
   * bounds one mapping. Default: an eighth of the pool, from 1 to 128.
   */
  readonly reserve?: number
}

/** Who uses a pool: one per backend. */
export interface BounceUser {
  /**
   * From 1 on, another one than that of whoever has the pool, or had it before; after 65,534 users the numbers begin
   * anew.
   */
  readonly id: number
  /** Mappings that hold slots. */
  mappings: number
  /** Slots that this user's posted receive buffers hold. */
  standing: number
}

/**
 * A region cut into slots of 2 KiB, shared by the backends that attach to it.
 *
 * Two zones keep the promise that every queue can go on: rings and posted receive buffers come from the general zone
 * only; requests may use both zones.
 *
 * Posted receive buffers share half of the pool evenly: a user posts as long as it stays within its share, and one
 * mapping in any case where there is room. Shares move at once when users come and go. Who holds more than its share by
 * then posts nothing until enough came back; meanwhile all together may hold three quarters of the pool.
 *
 * @throws BounceError `BOUNCE_POOL_SIZE`, `BOUNCE_POOL_ALIGN`, `BOUNCE_RESERVE`
 */
export class BouncePool {
  declare readonly name: string
  declare readonly region: Region
  declare readonly home: PoolFact['home']
  /** Byte offset of slot 0 in {@link region}. */
  declare readonly offset: number
  /** Device address of slot 0. */
  declare readonly device: DeviceAddress
  declare readonly slots: number
  /** Bytes of one mapping that can always be had. */
  declare readonly maxMappingLength: number
  declare readonly maxRun: number

  inUse = 0
  highWater = 0
  /** Mappings that found no room. */
  stalls = 0

  declare private readonly general: SlotMap
  declare private readonly reserved: SlotMap
  // Single slots that came back last, from requests and from posted receive buffers, so that the next one finds a slot
  // without a search, and in the caches.
  private readonly spare = new Int32Array(SPARE)
  private spareCount = 0
  private readonly spareStanding = new Int32Array(SPARE)
  private spareStandingCount = 0
  private readonly users = new Set<BounceUser>()
  private lastId = 0
  // By slot: 0 where it holds zeros, a user's id where it holds zeros and what that user's device wrote; or FOREIGN_BYTES.
  declare private readonly holds: Uint16Array
  // By first slot of a live mapping: how many slots it holds, less than 0 where it is a posted receive buffer, and the id
  // of its user. One table for all of them: with one for each, their sum would grow with the square of the users.
  declare private readonly lent: Int16Array
  declare private readonly lender: Uint16Array
  private allocated = 0
  // Slots that posted receive buffers hold, what each user may hold, and what all of them may while shares move.
  private standing = 0
  private share = 0
  private mostStanding = 0

  constructor({ name, pool, reserve }: BouncePoolOptions) {
    const { window, device, home } = pool
    const slots = Math.floor(window.length / SLOT_BYTES)
    if (slots < 1)
      throw new BounceError(
        'BOUNCE_POOL_SIZE',
        name,
        `a pool of ${window.length} bytes holds no slot of ${SLOT_BYTES}`,
        {
          length: window.length,
        },
      )
    if (window.offset % POOL_ALIGN !== 0 || device % POOL_ALIGN !== 0) {
      throw new BounceError(
        'BOUNCE_POOL_ALIGN',
        name,
        `offset ${window.offset} and device address ${hex(device)} must be multiples of ${POOL_ALIGN}`,
        { offset: window.offset, device },
      )
    }
    const reservedSlots = reserve ?? Math.min(MAX_RUN, Math.max(1, slots >>> 3))
    if (!Number.isInteger(reservedSlots) || reservedSlots < 1 || reservedSlots > Math.min(MAX_RUN, slots)) {
      throw new BounceError(
        'BOUNCE_RESERVE',
        name,
        `a reserve of ${reservedSlots} slots must be 1 to ${Math.min(MAX_RUN, slots)}`,
        { reserve: reservedSlots, slots },
      )
    }
    this.name = name
    this.region = window.region
    this.home = home
    this.offset = window.offset
    this.device = device
    this.slots = slots
    this.maxRun = reservedSlots
    this.maxMappingLength = reservedSlots * SLOT_BYTES - ADDRESS_MASK
    // Whatever the memory held before is nobody's business on the other side.
    this.region.refresh()
    this.region.u8.fill(0, this.offset, this.offset + slots * SLOT_BYTES)
    this.holds = new Uint16Array(slots)
    this.lent = new Int16Array(slots)
    this.lender = new Uint16Array(slots)
    this.general = new SlotMap(slots - reservedSlots)
    this.reserved = new SlotMap(reservedSlots)
    this.divide()
  }

  /** Registers a user; receive buffers are shared out evenly among users. */
  attach(): BounceUser {
    do this.nextId()
    while (this.isUser(this.lastId))
    const user: BounceUser = { id: this.lastId, mappings: 0, standing: 0 }
    this.users.add(user)
    this.divide()
    return user
  }

  /** Takes the slots of a user's live mappings back, cleared, and forgets it. Returns how many mappings those were. */
  detach(user: BounceUser): number {
    const { mappings } = user
    this.region.refresh()
    for (let slot = 0; slot < this.slots && user.mappings > 0; slot++) {
      const held = this.lent[slot]
      if (held === 0 || this.lender[slot] !== user.id) continue
      const count = Math.abs(held)
      clear(this.region, this.offset + slot * SLOT_BYTES, count * SLOT_BYTES)
      this.give(user, slot, count, held < 0)
    }
    this.users.delete(user)
    this.divide()
    return mappings
  }

  /** Slots of receive buffers that each user may post. */
  get standingShare(): number {
    return this.share
  }

  /** Maximal mappings that requests can hold at once, whatever rings and posted receive buffers take; at least 1. */
  get assuredMappings(): number {
    // Posted buffers lie scattered in the general zone, so long runs are promised from the reserve only: that is one.
    if (this.maxRun > 1) return 1
    let standing = this.users.size === 0 ? this.share : 0
    for (const user of this.users) standing += Math.max(this.share, user.standing, 1)
    return Math.max(1, this.slots - this.allocated - Math.min(standing, this.general.size - this.allocated))
  }

  /** How many users share the pool. */
  get sharedBy(): number {
    return this.users.size
  }

  /** Takes `count` adjacent slots for a mapping and returns the first, or -1. */
  take(user: BounceUser, count: number, standing: boolean): number {
    if (standing && !this.mayPost(user, count)) {
      this.stalls++
      return -1
    }
    let slot = -1
    if (count === 1 && !standing && this.spareCount > 0) slot = this.spare[--this.spareCount]
    else if (count === 1 && standing && this.spareStandingCount > 0) {
      slot = this.spareStanding[--this.spareStandingCount]
    } else {
      slot = this.find(count, standing)
      if (slot < 0 && this.returnSpare()) slot = this.find(count, standing)
      if (slot < 0) {
        this.stalls++
        return -1
      }
    }
    if (standing) {
      user.standing += count
      this.standing += count
    }
    user.mappings++
    this.lent[slot] = standing ? -count : count
    this.lender[slot] = user.id
    this.inUse += count
    if (this.inUse > this.highWater) this.highWater = this.inUse
    return slot
  }

  /** Gives the slots of a mapping back. */
  give(user: BounceUser, slot: number, count: number, standing: boolean): void {
    user.mappings--
    this.lent[slot] = 0
    this.inUse -= count
    const split = this.general.size
    if (standing) {
      user.standing -= count
      this.standing -= count
      if (count === 1 && this.spareStandingCount < SPARE) {
        this.spareStanding[this.spareStandingCount++] = slot
        return
      }
    } else if (count === 1 && slot < split && this.spareCount < SPARE) {
      this.spare[this.spareCount++] = slot
      return
    }
    for (let i = slot; i < slot + count; i++) {
      if (i < split) this.general.give(i)
      else this.reserved.give(i - split)
    }
  }

  /** Whether slots hold nothing but zeros and what the device of user `id` wrote. */
  holdsOnly(slot: number, count: number, id: number): boolean {
    const { holds } = this
    for (let i = slot; i < slot + count; i++) if (holds[i] !== 0 && holds[i] !== id) return false
    return true
  }

  /** Notes what slots hold from now on: what the device of user `id` writes beside zeros, or `FOREIGN_BYTES`. */
  mark(slot: number, count: number, id: number): void {
    const { holds } = this
    for (let i = slot; i < slot + count; i++) holds[i] = id
  }

  /** Zeroed memory for rings and buffer pools, from the general zone. Throws `DMA_ALLOC`. */
  alloc(length: number, align: number, direction: DmaDirection): DmaRegion {
    const count = Math.ceil(length / SLOT_BYTES)
    const step = Math.max(1, align / SLOT_BYTES)
    const misfit = (this.device / SLOT_BYTES) % step
    this.returnSpare()
    const slot = this.general.takeRunLowest(count, step, (step - misfit) % step)
    if (slot < 0) {
      throw new DmaError(
        'DMA_ALLOC',
        this.name,
        `no ${count} adjacent slots for ${length} bytes (${this.general.free} of ${this.slots} free); make the pool larger`,
        {
          length,
          align,
          free: this.general.free,
          slots: this.slots,
        },
      )
    }
    this.allocated += count
    this.divide()
    const offset = this.offset + slot * SLOT_BYTES
    this.region.refresh()
    this.region.u8.fill(0, offset, offset + count * SLOT_BYTES)
    return {
      device: (this.device + slot * SLOT_BYTES) as DeviceAddress,
      region: this.region,
      offset,
      length,
      direction,
    }
  }

  free(region: DmaRegion): void {
    const count = Math.ceil(region.length / SLOT_BYTES)
    const slot = (region.device - this.device) / SLOT_BYTES
    // The next mapping must not find what was here.
    this.region.refresh()
    this.region.u8.fill(0, region.offset, region.offset + count * SLOT_BYTES)
    this.mark(slot, count, 0)
    for (let i = 0; i < count; i++) this.general.give(slot + i)
    this.allocated -= count
    this.divide()
  }

  private nextId(): void {
    if (++this.lastId !== FOREIGN_BYTES) return
    // Numbers begin anew, and what is left of earlier users belongs to none of the later ones.
    this.lastId = 1
    for (let slot = 0; slot < this.slots; slot++) if (this.holds[slot] !== 0) this.holds[slot] = FOREIGN_BYTES
  }

  private isUser(id: number): boolean {
    for (const user of this.users) if (user.id === id) return true
    return false
  }

  private mayPost(user: BounceUser, count: number): boolean {
    if (user.standing === 0) return true
    return user.standing + count <= this.share && this.standing + count <= this.mostStanding
  }

  private find(count: number, standing: boolean): number {
    const { general, reserved } = this
    if (standing) return count === 1 ? general.takeLowest() : general.takeRunLowest(count)
    const slot = count === 1 ? general.takeHighest() : general.takeRunHighest(count)
    if (slot >= 0) return slot
    const kept = count === 1 ? reserved.takeHighest() : reserved.takeRunHighest(count)
    return kept < 0 ? -1 : kept + general.size
  }

  // Whether there were any.
  private returnSpare(): boolean {
    if (this.spareCount + this.spareStandingCount === 0) return false
    while (this.spareCount > 0) this.general.give(this.spare[--this.spareCount])
    while (this.spareStandingCount > 0) this.general.give(this.spareStanding[--this.spareStandingCount])
    return true
  }

  private divide(): void {
    const free = this.slots - this.allocated
    const room = this.general.size - this.allocated
    this.share = Math.floor(Math.min(room, Math.ceil(free / 2)) / Math.max(1, this.users.size))
    this.mostStanding = Math.min(room, Math.ceil((3 * free) / 4))
  }
}
