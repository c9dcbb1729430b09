import type { MemoryWindow } from '@guestdma/memory'
import {
  AVAILABLE_INDEX,
  AVAILABLE_RING,
  availableRingBytes,
  DESCRIPTOR_ADDRESS,
  DESCRIPTOR_F_AVAILABLE,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_USED,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_FLAGS,
  DESCRIPTOR_LENGTH,
  DESCRIPTOR_NEXT,
  DESCRIPTOR_SIZE,
  descriptorRingBytes,
  descriptorTableBytes,
  EVENT_SUPPRESSION_SIZE,
  PACKED_DESCRIPTOR_FLAGS,
  PACKED_DESCRIPTOR_SIZE,
  usedRingBytes,
} from '@guestdma/spec'
import type { QueueAreas } from '@guestdma/transport'

/** What an address that a device was told is for. */
export type PublishedPart = 'descriptor area' | 'driver area' | 'device area' | 'indirect table' | 'buffer'

/** Is told of each span of device addresses; `writable` where the device is to write there. */
export type PublishedVisitor = (part: PublishedPart, address: number, length: number, writable: boolean) => void

/** Where bytes at a device address lie in this process; `null` where they do not. */
export type DeviceMemoryLookup = (address: number, length: number) => MemoryWindow | null

/** A queue as its device sees it. */
export interface PublishedRing {
  /**
   * Visits what was published since the last call, and the three areas at the first. Returns how many chains, or
   * descriptors of a packed ring, can no longer be read.
   */
  walk(visit: PublishedVisitor): number
}

/** A ring in the format that was agreed on, read by code of its own. */
export function publishedRing(
  size: number,
  areas: QueueAreas,
  lookup: DeviceMemoryLookup,
  packed: boolean,
): PublishedRing {
  return packed ? new PublishedPackedRing(size, areas, lookup) : new PublishedSplitRing(size, areas, lookup)
}

/**
 * A split ring (virtio 1.4 §2.7). It visits chains as they stand at the walk: one that was reused since it was published
 * counts as it is now.
 */
class PublishedSplitRing implements PublishedRing {
  private readonly size: number
  private readonly areas: QueueAreas
  private readonly lookup: DeviceMemoryLookup
  private seen = 0
  private areasVisited = false

  constructor(size: number, areas: QueueAreas, lookup: DeviceMemoryLookup) {
    this.size = size
    this.areas = areas
    this.lookup = lookup
  }

  walk(visit: PublishedVisitor): number {
    const { size, areas } = this
    if (!this.areasVisited) {
      this.areasVisited = true
      visit('descriptor area', areas.descriptor, descriptorTableBytes(size), false)
      visit('driver area', areas.driver, availableRingBytes(size), false)
      visit('device area', areas.device, usedRingBytes(size), true)
    }
    const available = bytesAt(this.lookup, areas.driver, availableRingBytes(size))
    const table = bytesAt(this.lookup, areas.descriptor, descriptorTableBytes(size))
    if (available === null || table === null) return 0
    const index = available.getUint16(AVAILABLE_INDEX, true)
    const published = (index - this.seen) & 0xffff
    const readable = Math.min(published, size)
    for (let entry = (index - readable) & 0xffff; entry !== index; entry = (entry + 1) & 0xffff) {
      this.chain(table, available.getUint16(AVAILABLE_RING + 2 * (entry % size), true), visit)
    }
    this.seen = index
    return published - readable
  }

  private chain(table: DataView, head: number, visit: PublishedVisitor): void {
    let descriptors = table
    let at = head * DESCRIPTOR_SIZE
    // A chain, and each table, has at most as many descriptors as the queue has entries (virtio 1.4 §2.7.5.3.1).
    for (let left = 2 * this.size; left > 0 && at + DESCRIPTOR_SIZE <= descriptors.byteLength; left--) {
      const [address, length] = spanAt(descriptors, at)
      const flags = descriptors.getUint16(at + DESCRIPTOR_FLAGS, true)
      if ((flags & DESCRIPTOR_F_INDIRECT) !== 0 && descriptors === table) {
        visit('indirect table', address, length, false)
        const indirect = bytesAt(this.lookup, address, length)
        if (indirect === null) return
        descriptors = indirect
        at = 0
        continue
      }
      visit('buffer', address, length, (flags & DESCRIPTOR_F_WRITE) !== 0)
      if ((flags & DESCRIPTOR_F_NEXT) === 0) return
      at = descriptors.getUint16(at + DESCRIPTOR_NEXT, true) * DESCRIPTOR_SIZE
    }
  }
}

/**
 * A packed ring (virtio 1.4 §2.8). Each descriptor stands for itself: what a list links is published with it. The driver
 * turns AVAIL wherever it publishes, so a descriptor whose AVAIL changed since the last walk was published since. A
 * device writes used descriptors over published ones; what it overwrote before the walk can no longer be read. Of
 * descriptors that were published several times since the last walk only the last is seen, and no other is counted.
 */
class PublishedPackedRing implements PublishedRing {
  private readonly size: number
  private readonly areas: QueueAreas
  private readonly lookup: DeviceMemoryLookup
  /** The ring as it was at the last walk, and before the first one all zero (§2.8.13). */
  private readonly seen: Uint32Array
  private areasVisited = false

  constructor(size: number, areas: QueueAreas, lookup: DeviceMemoryLookup) {
    this.size = size
    this.areas = areas
    this.lookup = lookup
    this.seen = new Uint32Array(descriptorRingBytes(size) / 4)
  }

  walk(visit: PublishedVisitor): number {
    const { size, areas } = this
    if (!this.areasVisited) {
      this.areasVisited = true
      visit('descriptor area', areas.descriptor, descriptorRingBytes(size), true)
      visit('driver area', areas.driver, EVENT_SUPPRESSION_SIZE, false)
      visit('device area', areas.device, EVENT_SUPPRESSION_SIZE, true)
    }
    const ring = bytesAt(this.lookup, areas.descriptor, descriptorRingBytes(size))
    if (ring === null) return 0
    let missed = 0
    for (let at = 0; at < ring.byteLength; at += PACKED_DESCRIPTOR_SIZE) {
      const before = this.seen[(at + PACKED_DESCRIPTOR_FLAGS) >>> 2] >>> 16
      if (!this.look(ring, at)) continue
      const flags = ring.getUint16(at + PACKED_DESCRIPTOR_FLAGS, true)
      const available = (flags & DESCRIPTOR_F_AVAILABLE) !== 0
      const used = (flags & DESCRIPTOR_F_USED) !== 0
      if (available !== used) this.descriptor(ring, at, visit)
      else if (((flags ^ before) & DESCRIPTOR_F_AVAILABLE) !== 0) missed++
    }
    return missed
  }

  private descriptor(ring: DataView, at: number, visit: PublishedVisitor): void {
    const [address, length] = spanAt(ring, at)
    const flags = ring.getUint16(at + PACKED_DESCRIPTOR_FLAGS, true)
    if ((flags & DESCRIPTOR_F_INDIRECT) === 0) {
      visit('buffer', address, length, (flags & DESCRIPTOR_F_WRITE) !== 0)
      return
    }
    visit('indirect table', address, length, false)
    const table = bytesAt(this.lookup, address, length)
    if (table === null) return
    // A table has at most as many descriptors as the queue has entries (§2.8.17).
    const end = Math.min(length, descriptorRingBytes(this.size)) - PACKED_DESCRIPTOR_SIZE
    for (let entry = 0; entry <= end; entry += PACKED_DESCRIPTOR_SIZE) {
      const writable = (table.getUint16(entry + PACKED_DESCRIPTOR_FLAGS, true) & DESCRIPTOR_F_WRITE) !== 0
      visit('buffer', ...spanAt(table, entry), writable)
    }
  }

  // Takes a descriptor down. Returns whether it changed.
  private look(ring: DataView, at: number): boolean {
    let changed = false
    for (let i = at; i < at + PACKED_DESCRIPTOR_SIZE; i += 4) {
      const word = ring.getUint32(i, true)
      if (word !== this.seen[i / 4]) changed = true
      this.seen[i / 4] = word
    }
    return changed
  }
}

// Address and length of a descriptor: they lie at the same place in both formats, and in tables.
function spanAt(descriptors: DataView, at: number): [address: number, length: number] {
  const high = descriptors.getUint32(at + DESCRIPTOR_ADDRESS + 4, true)
  const address = high * 2 ** 32 + descriptors.getUint32(at + DESCRIPTOR_ADDRESS, true)
  return [address, descriptors.getUint32(at + DESCRIPTOR_LENGTH, true)]
}

function bytesAt(lookup: DeviceMemoryLookup, address: number, length: number): DataView | null {
  const window = lookup(address, length)
  if (window === null) return null
  window.region.refresh()
  return new DataView(window.region.view.buffer, window.offset, length)
}
