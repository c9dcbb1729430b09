import { BusWindows } from '@guestdma/devices'
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
  type PlatformBuilder,
  TO_DEVICE,
} from '@guestdma/dma'
import { type DeviceAddress, type GuestMemory, hex, Region } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'

export interface BouncingOptions {
  /** Default 64. A quarter of them is kept for requests. */
  readonly slots?: number
  /** Default 512. */
  readonly slotBytes?: number
  /** Clear what a slot held when it is lent. Default true. */
  readonly clear?: boolean
  /** One set of slots for all devices of a machine. Default false. */
  readonly shared?: boolean
  /** Bytes behind each buffer that the device sees as well. Default 0. */
  readonly overhead?: number
}

/** Where the device sees the slots: beyond 32 bits, and at no guest address. */
const DEVICE_BASE = 0x9_0000_0000

/** Slots of a {@link BouncingBackend} in memory of their own. */
export class BouncingSlots {
  readonly device: number = DEVICE_BASE
  readonly region: Region
  readonly used: Uint8Array
  readonly slotBytes: number

  constructor(slots: number, slotBytes: number) {
    this.region = new Region(new ArrayBuffer(slots * slotBytes), 'bouncing slots')
    this.used = new Uint8Array(slots)
    this.slotBytes = slotBytes
  }

  /** Takes `count` adjacent slots below `limit`, the lowest such run. Returns the first or -1. */
  take(count: number, from: number, limit: number): number {
    let run = 0
    for (let slot = from; slot < limit; slot++) {
      run = this.used[slot] === 0 ? run + 1 : 0
      if (run === count) {
        this.used.fill(1, slot - count + 1, slot + 1)
        return slot - count + 1
      }
    }
    return -1
  }
}

/**
 * The hardest backend for a driver: every buffer is copied, into memory that is not the guest's, at device addresses
 * that are not guest addresses, and there are few slots. Small and slow on purpose.
 */
export class BouncingBackend implements DmaBackend {
  readonly name = 'bouncing'
  readonly traits: DmaTraits
  readonly counters: DmaCounters = newDmaCounters()

  private readonly memory: GuestMemory
  private readonly slots: BouncingSlots
  private readonly clear: boolean
  private readonly overhead: number
  private readonly general: number
  private readonly regions = new Map<DmaRegion, number>()
  private readonly held = new Map<number, number>()

  constructor(memory: GuestMemory, slots: BouncingSlots, options: BouncingOptions = {}) {
    const { clear = true, shared = false, overhead = 0 } = options
    this.memory = memory
    this.slots = slots
    this.clear = clear
    this.overhead = overhead
    const count = slots.used.length
    this.general = count - (count >>> 2)
    this.traits = {
      streaming: 'copied',
      payload: 'plain',
      home: 'device-memory',
      readOnly: 'enforced',
      reach: 'pool',
      revocation: 'strict',
      enforcedBy: 'construction',
      // Slots keep what was lent, for whoever else reaches them.
      residue: shared ? 'other-devices' : clear ? 'none' : 'own',
    }
  }

  get limits(): DmaLimits {
    const { slotBytes, used } = this.slots
    const count = used.length
    const run = count >>> 2
    return {
      granule: 1,
      maxMappingLength: run * slotBytes - 7 - this.overhead,
      maxLiveMappings: count,
      // Rings and standing mappings can break up all that is not kept, from where one maximal mapping always fits.
      assuredMappings: 1,
      maxDeviceAddress: DEVICE_BASE + count * slotBytes - 1,
      overhead: this.overhead,
      syncGranule: 1,
      staleEntries: 0,
      staleNs: 0,
    }
  }

  alloc(length: number, align: number, direction: DmaDirection, _use: 'ring' | 'payload'): DmaRegion {
    const { slotBytes, region } = this.slots
    const slack = Math.max(0, align - slotBytes)
    const count = Math.ceil((length + slack) / slotBytes)
    const slot = this.slots.take(count, 0, this.general)
    if (slot < 0) throw new DmaError('DMA_ALLOC', this.name, `no ${count} adjacent slots`, { length, align })
    const offset = Math.ceil((slot * slotBytes) / align) * align
    region.u8.fill(0, offset, offset + length)
    const allocated: DmaRegion = { device: (DEVICE_BASE + offset) as DeviceAddress, region, offset, length, direction }
    this.regions.set(allocated, slot)
    this.held.set(slot, count)
    this.counters.allocatedBytes += length
    return allocated
  }

  free(region: DmaRegion): void {
    const slot = this.regions.get(region)
    if (slot === undefined)
      throw new DmaError('DMA_FREE', this.name, `the region at ${hex(region.device)} is not allocated here`)
    this.regions.delete(region)
    this.give(slot)
    this.counters.allocatedBytes -= region.length
  }

  map(m: DmaMappings, row: number): DmaStatus {
    const length = m.length[row]
    if (!this.memory.contains(m.guest, row, length)) {
      this.counters.unmappable++
      return DMA_UNMAPPABLE
    }
    const lead = m.guest[row] % 8
    const { slotBytes, used, region } = this.slots
    const count = Math.ceil((lead + length + this.overhead) / slotBytes)
    if (count > used.length - this.general) {
      this.counters.tooLong++
      return DMA_TOO_LONG
    }
    let slot = this.slots.take(count, 0, m.standing ? this.general >>> 1 : this.general)
    if (slot < 0 && !m.standing) slot = this.slots.take(count, this.general, used.length)
    if (slot < 0) {
      this.counters.exhausted++
      return DMA_EXHAUSTED
    }
    this.held.set(slot, count)
    const at = slot * slotBytes + lead
    if ((m.direction[row] & TO_DEVICE) !== 0) {
      region.u8.set(this.guestBytes(m, row, 0, length), at)
      this.counters.bytesCopiedToDevice += length
    } else if (this.clear) {
      region.u8.fill(0, at, at + length)
      this.counters.bytesCleared += length
    }
    m.device[row] = DEVICE_BASE + at
    m.deviceLength[row] = length + this.overhead
    m.token[row] = slot
    this.counters.maps++
    return DMA_OK
  }

  unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    if ((m.direction[row] & FROM_DEVICE) !== 0) this.toGuest(m, row, 0, Math.min(written, m.length[row]))
    this.give(m.token[row])
    this.counters.unmaps++
    return DMA_OK
  }

  syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.counters.syncs++
    if (!m.spans(row, offset, length)) return DMA_UNMAPPABLE
    if ((m.direction[row] & TO_DEVICE) === 0) return DMA_OK
    this.slots.region.u8.set(this.guestBytes(m, row, offset, length), m.device[row] - DEVICE_BASE + offset)
    this.counters.bytesCopiedToDevice += length
    return DMA_OK
  }

  syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.counters.syncs++
    if (!m.spans(row, offset, length)) return DMA_UNMAPPABLE
    if ((m.direction[row] & FROM_DEVICE) !== 0) this.toGuest(m, row, offset, length)
    return DMA_OK
  }

  commitMaps(): DmaStatus {
    this.counters.commitMaps++
    return DMA_OK
  }

  commitUnmaps(): DmaStatus {
    this.counters.commitUnmaps++
    return DMA_OK
  }

  dispose(): void {
    this.regions.clear()
    for (const slot of [...this.held.keys()]) this.give(slot)
    this.counters.allocatedBytes = 0
  }

  private give(slot: number): void {
    const count = this.held.get(slot)
    if (count === undefined) throw new DmaError('DMA_NOT_MAPPED', this.name, `slot ${slot} is not held`, { slot })
    this.held.delete(slot)
    this.slots.used.fill(0, slot, slot + count)
  }

  private guestBytes(m: DmaMappings, row: number, offset: number, length: number): Uint8Array {
    this.memory.locate(m.guest, row, m.length[row])
    const { region, offset: at } = this.memory
    region.refresh()
    return region.u8.subarray(at + offset, at + offset + length)
  }

  private toGuest(m: DmaMappings, row: number, offset: number, length: number): void {
    const at = m.device[row] - DEVICE_BASE + offset
    this.guestBytes(m, row, offset, length).set(this.slots.region.u8.subarray(at, at + length))
    this.counters.bytesCopiedFromDevice += length
  }
}

const slotsFact = factKey<BouncingSlots>('bouncing slots')

/** The scheme of {@link BouncingBackend}. */
export function bouncingScheme(options: BouncingOptions = {}): DmaScheme {
  const { slots = 64, slotBytes = 512, shared = false } = options
  return {
    id: 'bouncing',
    provider: {
      id: 'bouncing',
      reach: 'pool',
      assess: ({ fact }) =>
        fact(slotsFact) === undefined
          ? { fit: 'unusable', why: 'the platform has no slots for this device' }
          : { fit: 'usable', accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM), why: 'a double for tests' },
      create: ({ memory, fact }) => new BouncingBackend(memory, fact(slotsFact) as BouncingSlots, options),
    },
    install(platform: PlatformBuilder) {
      const make = (): BouncingSlots => new BouncingSlots(slots, slotBytes)
      const own = shared ? platform.shared(slotsFact, make) : make()
      platform.declareRam(false)
      platform.declareFact(slotsFact, own)
      const { region } = own
      return () => new BusWindows(platform.device, [{ base: DEVICE_BASE, length: region.length, region }])
    },
  }
}
