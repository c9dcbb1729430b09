import { type DmaMappings, type DmaRegion, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import type { DeviceAddress, Region } from '@guestdma/memory'
import {
  AVAILABLE_F_NO_INTERRUPT,
  AVAILABLE_RING_ALIGN,
  availableRingBytes,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_TABLE_ALIGN,
  descriptorTableBytes,
  MAX_QUEUE_SIZE,
  USED_ELEMENT_SIZE,
  USED_F_NO_NOTIFY,
  USED_RING_ALIGN,
  usedRingBytes,
} from '@guestdma/spec'
import type { ChainAccount } from './account.ts'
import {
  type DescriptorList,
  type DriverRing,
  type DriverRingSetup,
  LISTED_FLAGS,
  type RingFormat,
} from './driver-ring.ts'
import { crosses } from './event-index.ts'
import type { Completions } from './virtqueue.ts'
import { compact } from './words.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const NEXT = DESCRIPTOR_F_NEXT
const FLAGS = LISTED_FLAGS
// Multiplying by this moves the high half of an address down; it is exact, and cheaper than a division.
const HIGH_HALF = 2 ** -32

/**
 * The driver's half of a split ring: virtio 1.4 §2.7.
 *
 * Row r is descriptor r of the table, so a chain's id is the index of its head. Available and used index count chains
 * from 0, modulo 2^16.
 */
class SplitDriverRing implements DriverRing {
  declare readonly areas: {
    readonly descriptor: DeviceAddress
    readonly driver: DeviceAddress
    readonly device: DeviceAddress
  }
  /** The available index as it will be with the next publication. */
  position = 0
  private published = 0
  private collected = 0

  declare private readonly account: ChainAccount
  declare private readonly mappings: DmaMappings
  declare private readonly eventIndex: boolean
  declare private readonly mask: number
  declare private readonly table: Region
  declare private readonly available: Region
  declare private readonly used: Region
  // Elements of their views.
  declare private readonly tableWord: number
  declare private readonly availableHalf: number
  declare private readonly usedHalf: number
  declare private readonly usedWord: number
  private written = 0

  constructor({ size, eventIndex, account, alloc, mappings }: DriverRingSetup) {
    this.account = account
    this.mappings = mappings
    this.eventIndex = eventIndex
    this.mask = size - 1
    const table = alloc(descriptorTableBytes(size), DESCRIPTOR_TABLE_ALIGN, TO_DEVICE)
    // The rings are accessed as 16- and 32-bit elements of one view; the used ring's elements begin 4 bytes in.
    const available = alloc(availableRingBytes(size), Math.max(AVAILABLE_RING_ALIGN, 4), TO_DEVICE)
    const used: DmaRegion = alloc(USED_RING_ALIGN + usedRingBytes(size), USED_ELEMENT_SIZE, FROM_DEVICE)
    // The ring begins at 4 modulo 8, so that its elements of 8 bytes are aligned and none lies across two pages: behind an
    // IOMMU, QEMU up to 7.2 writes the second half of such an element to a wrong address.
    const usedDevice = (used.device + USED_RING_ALIGN) as DeviceAddress
    this.areas = { descriptor: table.device, driver: available.device, device: usedDevice }
    this.table = table.region
    this.available = available.region
    this.used = used.region
    this.tableWord = compact(table.offset / 4)
    this.availableHalf = compact(available.offset / 2)
    this.usedHalf = compact((used.offset + USED_RING_ALIGN) / 2)
    this.usedWord = compact((used.offset + USED_RING_ALIGN) / 4)
  }

  write(list: DescriptorList, n: number): void {
    const { mask, tableWord } = this
    const { device: addresses, deviceLength: lengths } = this.mappings
    const table = this.table.u32
    const ring = this.available.u16
    const first = this.availableHalf + 2
    let position = this.position
    let row = list[0] & 0xffff
    let head = row
    // One flat loop for chains of any length: what the device cannot see yet may be written twice.
    for (let k = 0; k < n; k++) {
      const following = list[(k + 1) | 0] & 0xffff
      const flags = list[k] >>> FLAGS
      const address = addresses[row]
      const to = tableWord + (row << 2)
      table[to] = address | 0
      table[to + 1] = (address * HIGH_HALF) | 0
      table[to + 2] = lengths[row]
      table[to + 3] = flags | ((following << 16) & -(flags & NEXT))
      ring[first + (position & mask)] = head
      row = following
      if ((flags & NEXT) === 0) {
        position = (position + 1) & 0xffff
        head = following
      }
    }
    this.position = position
    this.written += n
  }

  publish(): boolean {
    const { available, availableHalf, eventIndex, mask, position, published, used, usedHalf } = this
    const { meter } = available
    if (meter !== null) {
      meter.store(2, ((position - published) & 0xffff) + 1)
      meter.store(4, 4 * this.written)
      meter.load(2, 1)
    }
    this.written = 0
    this.published = position
    const asked = eventIndex ? usedHalf + 4 + 4 * mask + 2 : usedHalf
    // Descriptors and ring entries, then the index that makes them available, then the question whether the device wants
    // to know: §2.7.13.3, §2.7.13.4.1.
    const answer = available.storeThenLoad(availableHalf + 1, position, used, asked)
    return eventIndex ? crosses(answer, position, published) : (answer & USED_F_NO_NOTIFY) === 0
  }

  describe({ u32 }: Region, at: number, first: number, list: DescriptorList, n: number): void {
    const { device: addresses, deviceLength: lengths } = this.mappings
    for (let k = 0; k < n; k++) {
      const flags = list[k] >>> FLAGS
      u32[at + 4 * k] = addresses[first + k] | 0
      u32[at + 4 * k + 1] = (addresses[first + k] * HIGH_HALF) | 0
      u32[at + 4 * k + 2] = lengths[first + k]
      u32[at + 4 * k + 3] = (flags & NEXT) === 0 ? flags : flags | ((k + 1) << 16)
    }
  }

  get hasUsed(): boolean {
    const { u16 } = this.used
    // A view that growth detached says nothing.
    return u16.length === 0 || u16[this.usedHalf + 1] !== this.collected
  }

  collect(into: Completions, limit: number): number {
    const { account, collected, mask, used } = this
    // Loaded once; the device may change it right after.
    const index = used.loadShared(this.usedHalf + 1)
    const arrived = (index - collected) & 0xffff
    if (arrived > account.outstanding) {
      const message = `the used index went from ${collected} to ${index}, but only ${account.outstanding} chains are outstanding`
      account.refuse('VIRTQUEUE_USED_INDEX', message, { from: collected, to: index, outstanding: account.outstanding })
      return 0
    }
    let n = arrived < limit ? arrived : limit
    if (account.inOrder) n = this.collectInOrder(into, n, arrived)
    else {
      const { id: ids, written: lengths } = into
      const u32 = used.u32
      const first = this.usedWord + 1
      for (let i = 0; i < n; i++) {
        const word = first + (((collected + i) & mask) << 1)
        ids[i] = u32[word]
        lengths[i] = u32[word + 1]
      }
    }
    this.collected = (collected + n) & 0xffff
    if (used.meter !== null && n > 0) {
      used.meter.load(2, 1)
      used.meter.load(4, 2 * n)
    }
    return n
  }

  // One element may stand for a batch, and what it skips was used completely: §2.7.9.
  private collectInOrder({ id: ids, written: lengths }: Completions, limit: number, arrived: number): number {
    const { account, collected, mask, usedWord } = this
    const u32 = this.used.u32
    let n = 0
    while (n < limit) {
      const position = (collected + n) & 0xffff
      const word = usedWord + 1 + ((position & mask) << 1)
      const id = u32[word]
      const length = u32[word + 1]
      const place = account.find(n, id)
      if (place >= arrived) {
        const skipped = place - n
        const message = `used id ${id} at ${position} skips ${skipped} chains, but only ${arrived - n} were used`
        account.refuse('VIRTQUEUE_USED_ORDER', message, { id, position, skipped })
        break
      }
      for (; n < place; n++) {
        const older = account.at(n)
        ids[n] = older
        lengths[n] = account.posted(older)
      }
      ids[n] = id
      lengths[n] = length
      n++
    }
    return n
  }

  arm(): boolean {
    // The device may have gone on before it saw this: §2.7.14.
    return this.storeEvent(this.collected, 0) !== this.collected
  }

  disarm(): void {
    // An event that lies 65,535 completions ahead is as good as none.
    this.storeEvent((this.collected - 1) & 0xffff, AVAILABLE_F_NO_INTERRUPT)
  }

  reset(): void {
    const { available, availableHalf, mask, used, usedHalf } = this
    this.position = this.published = this.collected = this.written = 0
    // Both rings, with their indices, flags and events.
    available.u16.fill(0, availableHalf, availableHalf + mask + 4)
    used.u16.fill(0, usedHalf, usedHalf + 4 * mask + 7)
  }

  // Says when to interrupt, in the word that was agreed on, and returns the used index as it is after that.
  private storeEvent(event: number, flags: number): number {
    const { available, availableHalf, eventIndex, mask, used, usedHalf } = this
    const half = eventIndex ? availableHalf + 2 + mask + 1 : availableHalf
    return available.storeThenLoad(half, eventIndex ? event : flags, used, usedHalf + 1)
  }
}

export const splitFormat: RingFormat = {
  refuseSize: (size) =>
    size <= MAX_QUEUE_SIZE && (size & (size - 1)) === 0
      ? null
      : `a power of two from 1 to ${MAX_QUEUE_SIZE} (virtio 1.4 §2.7)`,
  ring: (setup) => new SplitDriverRing(setup),
}
