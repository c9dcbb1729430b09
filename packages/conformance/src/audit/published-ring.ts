import type { MemoryWindow } from '@guestdma/memory'
import {
  AVAILABLE_INDEX,
  AVAILABLE_RING,
  availableRingBytes,
  DESCRIPTOR_ADDRESS,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_FLAGS,
  DESCRIPTOR_LENGTH,
  DESCRIPTOR_NEXT,
  DESCRIPTOR_SIZE,
  descriptorTableBytes,
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
  /** Visits what was published since the last call. Returns how many chains can no longer be read. */
  walk(visit: PublishedVisitor): number
}

/**
 * A split ring (virtio 1.4 §2.7), read by code of its own. It visits the three areas at the first walk, and chains as
 * they stand at the walk: one that was reused since it was published counts as it is now.
 */
export class PublishedSplitRing implements PublishedRing {
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
    const available = this.bytes(areas.driver, availableRingBytes(size))
    const table = this.bytes(areas.descriptor, descriptorTableBytes(size))
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
      const high = descriptors.getUint32(at + DESCRIPTOR_ADDRESS + 4, true)
      const address = high * 2 ** 32 + descriptors.getUint32(at + DESCRIPTOR_ADDRESS, true)
      const length = descriptors.getUint32(at + DESCRIPTOR_LENGTH, true)
      const flags = descriptors.getUint16(at + DESCRIPTOR_FLAGS, true)
      if ((flags & DESCRIPTOR_F_INDIRECT) !== 0 && descriptors === table) {
        visit('indirect table', address, length, false)
        const indirect = this.bytes(address, length)
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

  private bytes(address: number, length: number): DataView | null {
    const window = this.lookup(address, length)
    if (window === null) return null
    window.region.refresh()
    return new DataView(window.region.view.buffer, window.offset, length)
  }
}
