// A DMA scheme of one's own, complete in this file: a platform that shows each device a window of guest RAM and nothing
// else, and a backend that carries every buffer through that window, one slot of 4 KiB for each.
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
  type DmaScheme,
  type DmaStatus,
  type DmaTraits,
  FROM_DEVICE,
  factKey,
  newDmaCounters,
  TO_DEVICE,
} from '@guestdma/dma'
import {
  clear,
  copy,
  deviceAddress,
  type GuestAddress,
  GuestDmaError,
  type GuestMemory,
  guestAddress,
  hex,
  type MemoryWindow,
  SpanAllocator,
} from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'

/** One mapping, one slot: a page holds a frame of the usual MTU, or eight sectors. The queue splits what is longer. */
export const SLOT_BYTES = 4096

export interface FixedSlotsOptions {
  /** Slots of each device, at least 2. Default 256. */
  readonly slots?: number
  /** Bytes beside the slots, for rings. Default 128 KiB; a driver in `pool` mode needs 2 MiB, for its buffers. */
  readonly allocBytes?: number
}

/** What the platform tells the driver: where the window is. In it the slots come first, then what `alloc` hands out. */
interface SlotWindow {
  /** For the guest and, as the same number, on the device's bus. */
  readonly base: GuestAddress
  readonly window: MemoryWindow
  readonly count: number
}

const ID = 'fixed-slots'

// A fact of our own and not `declarePool`: `shared-pool` would use a declared pool too, and cut it up in another way.
const slotWindow = factKey<SlotWindow>('fixed slots')

/** The guest's half: copies a buffer into a slot when it is lent, and back, as far as the device wrote, at the end. */
class FixedSlotsBackend implements DmaBackend {
  readonly name = ID
  readonly traits: DmaTraits = {
    streaming: 'copied',
    payload: 'plain',
    home: 'guest-ram',
    readOnly: 'enforced',
    reach: 'pool',
    // The device can write to a slot for ever, but nothing of that arrives once `unmap` has returned.
    revocation: 'strict',
    enforcedBy: 'trusted-code',
    residue: 'none',
  }
  declare readonly limits: DmaLimits
  readonly counters: DmaCounters = newDmaCounters()

  declare private readonly memory: GuestMemory
  declare private readonly slots: SlotWindow
  declare private readonly rings: SpanAllocator
  private readonly regions = new Set<DmaRegion>()
  // A stack: the slot that came back last is still in the caches.
  declare private readonly freeSlots: Int32Array
  private freeCount = 0
  declare private readonly standingLimit: number
  private standing = 0

  constructor(memory: GuestMemory, slots: SlotWindow) {
    const { base, window, count } = slots
    this.memory = memory
    this.slots = slots
    this.rings = new SpanAllocator(
      guestAddress(base + count * SLOT_BYTES),
      window.length - count * SLOT_BYTES,
      'ring space',
    )
    this.freeSlots = Int32Array.from({ length: count }, (_, slot) => slot)
    this.freeCount = count
    // Receive buffers wait until somebody sends. If they could take every slot, a request might have to wait as long.
    this.standingLimit = count >>> 1
    this.limits = {
      granule: 1,
      maxMappingLength: SLOT_BYTES,
      maxLiveMappings: count,
      assuredMappings: count - this.standingLimit,
      maxDeviceAddress: base + window.length - 1,
      overhead: 0,
      syncGranule: 1,
      staleEntries: 0,
      staleNs: 0,
    }
  }

  alloc(length: number, align: number, direction: DmaDirection, _use: 'ring' | 'payload'): DmaRegion {
    const { base, window } = this.slots
    let at: GuestAddress
    try {
      at = this.rings.allocate(length, align)
    } catch (cause) {
      throw new DmaError('DMA_ALLOC', this.name, `no room for ${length} bytes: ${(cause as Error).message}`, { length })
    }
    const offset = window.offset + (at - base)
    window.region.refresh()
    clear(window.region, offset, length)
    const region = { device: deviceAddress(at), region: window.region, offset, length, direction }
    this.regions.add(region)
    this.counters.allocatedBytes += length
    return region
  }

  free(region: DmaRegion): void {
    const { device, length } = region
    if (!this.regions.delete(region)) throw new DmaError('DMA_FREE', this.name, `${hex(device)} is not allocated here`)
    this.rings.release(guestAddress(device))
    this.counters.allocatedBytes -= length
  }

  map(m: DmaMappings, row: number): DmaStatus {
    const { memory, slots, counters } = this
    const length = m.length[row]
    // Every check comes before the slot is taken, so a refusal has nothing to undo.
    if (memory.locate(m.guest, row, length) !== length) {
      counters.unmappable++
      return DMA_UNMAPPABLE
    }
    if (length > SLOT_BYTES) {
      counters.tooLong++
      return DMA_TOO_LONG
    }
    if (this.freeCount === 0 || (m.standing && this.standing === this.standingLimit)) {
      counters.exhausted++
      return DMA_EXHAUSTED
    }
    const slot = this.freeSlots[--this.freeCount]
    if (m.standing) this.standing++
    m.token[row] = slot
    m.device[row] = slots.base + slot * SLOT_BYTES
    m.deviceLength[row] = length
    if ((m.direction[row] & TO_DEVICE) !== 0) {
      this.copyIn(m, row, 0, length)
    } else {
      // The device may claim to have written more than it did: what the slot held before must not be delivered then.
      clear(slots.window.region, this.find(m, row), length)
      counters.bytesCleared += length
    }
    counters.maps++
    return DMA_OK
  }

  unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    const slot = m.token[row]
    if (slot < 0) throw new DmaError('DMA_NOT_MAPPED', this.name, `row ${row} is not mapped`, { row })
    if ((m.direction[row] & FROM_DEVICE) !== 0) this.copyOut(m, row, 0, Math.min(written, m.length[row]))
    m.token[row] = -1
    this.freeSlots[this.freeCount++] = slot
    if (m.standing) this.standing--
    this.counters.unmaps++
    return DMA_OK
  }

  syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.counters.syncs++
    if (!m.spans(row, offset, length)) return DMA_UNMAPPABLE
    // Where only the device writes, the guest's bytes are older than the slot's.
    if ((m.direction[row] & TO_DEVICE) !== 0) this.copyIn(m, row, offset, length)
    return DMA_OK
  }

  syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.counters.syncs++
    if (!m.spans(row, offset, length)) return DMA_UNMAPPABLE
    if ((m.direction[row] & FROM_DEVICE) !== 0) this.copyOut(m, row, offset, length)
    return DMA_OK
  }

  // The copies are made one by one, and the window never changes: there is nothing to commit.
  commitMaps(): DmaStatus {
    this.counters.commitMaps++
    return DMA_OK
  }

  commitUnmaps(): DmaStatus {
    this.counters.commitUnmaps++
    return DMA_OK
  }

  dispose(): void {
    // The slots go with this object: the next backend of the device starts with all of them.
    for (const region of [...this.regions]) this.free(region)
  }

  private copyIn(m: DmaMappings, row: number, offset: number, length: number): void {
    const { memory, slots } = this
    const slot = this.find(m, row)
    copy(slots.window.region, slot + offset, memory.region, memory.offset + offset, length)
    this.counters.bytesCopiedToDevice += length
  }

  private copyOut(m: DmaMappings, row: number, offset: number, length: number): void {
    const { memory, slots } = this
    const slot = this.find(m, row)
    copy(memory.region, memory.offset + offset, slots.window.region, slot + offset, length)
    this.counters.bytesCopiedFromDevice += length
  }

  // Points `memory` at the lent bytes and returns where their slot begins. Views must follow a memory that grew.
  private find(m: DmaMappings, row: number): number {
    const { memory, slots } = this
    memory.locate(m.guest, row, m.length[row])
    memory.region.refresh()
    slots.window.region.refresh()
    return slots.window.offset + m.token[row] * SLOT_BYTES
  }
}

/** The `fixed-slots` scheme. Each device has a window of its own and cannot see another one's payload. */
export function fixedSlotsScheme({ slots = 256, allocBytes = 128 << 10 }: FixedSlotsOptions = {}): DmaScheme {
  return {
    id: ID,
    // What the driver does: uses slots where the platform declared some, and otherwise says why not.
    provider: {
      id: ID,
      reach: 'pool',
      assess: ({ offered, fact }) =>
        fact(slotWindow) === undefined
          ? { fit: 'unusable', why: 'the platform has no slots for this device' }
          : {
              fit: 'usable',
              accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM).and(offered),
              why: 'the platform has slots for this device',
            },
      create: ({ memory, fact }) => new FixedSlotsBackend(memory, fact(slotWindow) as SlotWindow),
    },
    // What the platform does: sets the window aside, tells the driver of it, and gives the device a port to it alone,
    // unless the device lives elsewhere.
    install(platform) {
      if (!Number.isInteger(slots) || slots < 2) {
        throw new GuestDmaError('SLOTS_COUNT', platform.device, `${slots} slots do not suffice to send and to receive`)
      }
      const { guest, window } = platform.reserve(slots * SLOT_BYTES + allocBytes, SLOT_BYTES)
      // What was in this part of RAM before is none of the device's business.
      window.region.refresh()
      clear(window.region, window.offset, window.length)
      platform.declareRam(false)
      platform.declareFact(slotWindow, { base: guest, window, count: slots })
      return () => platform.window(deviceAddress(guest), window)
    },
  }
}
