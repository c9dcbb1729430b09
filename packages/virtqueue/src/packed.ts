import { BIDIRECTIONAL, type DmaMappings, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import type { DeviceAddress, Region } from '@guestdma/memory'
import {
  DESCRIPTOR_F_AVAILABLE,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_USED,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_RING_ALIGN,
  descriptorRingBytes,
  EVENT_SUPPRESSION_ALIGN,
  EVENT_SUPPRESSION_SIZE,
  MAX_QUEUE_SIZE,
  PACKED_WRAP_COUNTER,
  RING_EVENT_FLAGS_DESCRIPTOR,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
} from '@guestdma/spec'
import { CHAIN_MANY, CHAIN_WRITABLE, type ChainAccount, COUNT_SHIFT } from './account.ts'
import {
  type DescriptorList,
  type DriverRing,
  type DriverRingSetup,
  LISTED_FLAGS,
  type RingFormat,
} from './driver-ring.ts'
import type { Completions } from './virtqueue.ts'
import { compact } from './words.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const NEXT = DESCRIPTOR_F_NEXT
const FLAGS = LISTED_FLAGS
// Multiplying by this moves the high half of an address down; it is exact, and cheaper than a division.
const HIGH_HALF = 2 ** -32
const COUNT = COUNT_SHIFT
const HAS_POSTED = CHAIN_WRITABLE | CHAIN_MANY
// In the word that holds a descriptor's id in its lower half and its flags in its upper half.
const WRITE_MARK = DESCRIPTOR_F_WRITE << 16
const AVAILABLE_MARK = DESCRIPTOR_F_AVAILABLE << 16
const MARKS = AVAILABLE_MARK | (DESCRIPTOR_F_USED << 16)
/** In `lengthAt`: the length is in its place already. */
const KNOWN = -1
/** No descriptor is held back. */
const NONE = -1

/**
 * The driver's half of a packed ring: virtio 1.4 §2.8.
 *
 * Descriptors follow each other in the order in which they are made available, around the ring. In each lap the marks
 * AVAILABLE and USED change their meaning (§2.8.1): `marks` is what makes a descriptor available in the lap of `at`, the
 * next one to be written; `usedMarks` is what a used one has in the lap of `usedAt`, the next one to be collected.
 *
 * Between two calls: the descriptors from `usedAt` up to `at` are those of outstanding and of added chains. Of those
 * that were written since the last publication, the first still has the marks of a lap ago: a device reads in order, so
 * it sees none of them before that one.
 */
class PackedDriverRing implements DriverRing {
  declare readonly areas: {
    readonly descriptor: DeviceAddress
    readonly driver: DeviceAddress
    readonly device: DeviceAddress
  }
  declare private readonly account: ChainAccount
  declare private readonly mappings: DmaMappings
  declare private readonly eventIndex: boolean
  declare private readonly size: number
  declare private readonly ring: Region
  declare private readonly driver: Region
  declare private readonly device: Region
  // Elements of their views.
  declare private readonly ringWord: number
  declare private readonly driverWord: number
  declare private readonly deviceWord: number

  private at = 0
  private marks = AVAILABLE_MARK
  private usedAt = 0
  private usedMarks = MARKS
  // Of what was collected: the word of the ring that holds its length.
  declare private readonly lengthAt: Float64Array
  // The first descriptor since the last publication: its id and flags are stored last, at this word.
  private heldAt = NONE
  private held = 0
  // Descriptors since then.
  private written = 0

  constructor({ size, eventIndex, account, alloc, mappings }: DriverRingSetup) {
    this.account = account
    this.mappings = mappings
    this.eventIndex = eventIndex
    this.size = size
    this.lengthAt = new Float64Array(size)
    const ring = alloc(descriptorRingBytes(size), DESCRIPTOR_RING_ALIGN, BIDIRECTIONAL)
    const driver = alloc(EVENT_SUPPRESSION_SIZE, EVENT_SUPPRESSION_ALIGN, TO_DEVICE)
    const device = alloc(EVENT_SUPPRESSION_SIZE, EVENT_SUPPRESSION_ALIGN, FROM_DEVICE)
    this.areas = { descriptor: ring.device, driver: driver.device, device: device.device }
    this.ring = ring.region
    this.driver = driver.region
    this.device = device.region
    this.ringWord = compact(ring.offset / 4)
    this.driverWord = compact(driver.offset / 4)
    this.deviceWord = compact(device.offset / 4)
  }

  get position(): number {
    return this.at | (this.marks === AVAILABLE_MARK ? PACKED_WRAP_COUNTER : 0)
  }

  write(list: DescriptorList, n: number): void {
    const { ringWord, size } = this
    const { device: addresses, deviceLength: lengths } = this.mappings
    const { u32 } = this.ring
    let { at, heldAt, marks } = this
    let id = list[0] & 0xffff
    for (let k = 0; k < n; k++) {
      const row = list[k] & 0xffff
      const flags = list[k] >>> FLAGS
      const address = addresses[row]
      const to = ringWord + (at << 2)
      const last = id | (flags << 16) | marks
      u32[to] = address | 0
      u32[to + 1] = (address * HIGH_HALF) | 0
      u32[to + 2] = lengths[row]
      if (heldAt < 0) {
        heldAt = to + 3
        this.held = last
      } else u32[to + 3] = last
      if ((flags & NEXT) === 0) id = list[(k + 1) | 0] & 0xffff
      at = (at + 1) | 0
      if (at === size) {
        at = 0
        marks ^= MARKS
      }
    }
    this.at = at
    this.marks = marks
    this.heldAt = heldAt
    this.written += n
  }

  publish(): boolean {
    const { at, device, deviceWord, held, heldAt, ring, size, written } = this
    if (ring.meter !== null) {
      ring.meter.store(4, 4 * written)
      ring.meter.load(4, 1)
    }
    this.heldAt = NONE
    this.written = 0
    // All other descriptors, then the one that makes them available, then the question whether the device wants to know:
    // §2.8.21.
    const answer = ring.storeWordThenLoad(heldAt, held, device, deviceWord)
    const flags = answer >>> 16
    if (flags === RING_EVENT_FLAGS_DISABLE) return false
    const offset = answer & ~PACKED_WRAP_COUNTER & 0xffff
    // What makes no sense is answered by a doorbell, which does no harm.
    if (flags !== RING_EVENT_FLAGS_DESCRIPTOR || !this.eventIndex || offset >= size) return true
    // Two laps make a circle. Was the descriptor at the event among those that were written?
    const event = (answer & PACKED_WRAP_COUNTER) === 0 ? offset + size : offset
    const now = this.marks === AVAILABLE_MARK ? at : at + size
    return (now - 1 - event + 2 * size) % (2 * size) < written
  }

  describe({ u32 }: Region, at: number, first: number, list: DescriptorList, n: number): void {
    const { device: addresses, deviceLength: lengths } = this.mappings
    // In a table there are neither ids nor marks, and no NEXT: §2.8.7.
    for (let k = 0; k < n; k++) {
      u32[at + 4 * k] = addresses[first + k] | 0
      u32[at + 4 * k + 1] = (addresses[first + k] * HIGH_HALF) | 0
      u32[at + 4 * k + 2] = lengths[first + k]
      u32[at + 4 * k + 3] = ((list[k] >>> FLAGS) & DESCRIPTOR_F_WRITE) << 16
    }
  }

  get hasUsed(): boolean {
    const { u32 } = this.ring
    // A view that growth detached says nothing.
    return u32.length === 0 || (u32[this.ringWord + 4 * this.usedAt + 3] & MARKS) === this.usedMarks
  }

  collect({ id: ids, written: lengths }: Completions, limit: number): number {
    const { account, lengthAt, ring, ringWord, size } = this
    const { chains, inOrder, outstanding } = account
    const { u32 } = ring
    const most = limit < outstanding ? limit : outstanding
    let { usedAt, usedMarks } = this
    let loads = 0
    let n = 0
    // First what says that they are used: ids, and where their lengths stand or what they are.
    while (n < most) {
      const word = ringWord + (usedAt << 2)
      const last = u32[word + 3]
      if ((last & MARKS) !== usedMarks) break
      loads++
      const id = last & 0xffff
      let descriptors = 0
      if (inOrder) {
        // One element may stand for a batch, and what it skips was used completely: §2.8.9.
        for (const place = account.find(n, id); n < place; n++) {
          const older = account.at(n)
          ids[n] = older
          lengths[n] = account.posted(older)
          lengthAt[n] = KNOWN
          descriptors += account.descriptors(older)
        }
      }
      lengthAt[n] = word + 2
      if (id < size) {
        const info = chains[id << 2]
        descriptors += info >> COUNT
        // Without WRITE there is no length (§2.8.4); but QEMU never sets it.
        if ((info & HAS_POSTED) === 0 && (last & WRITE_MARK) === 0) {
          lengthAt[n] = KNOWN
          lengths[n] = 0
        }
      }
      ids[n] = id
      n++
      // Of an id that the queue will refuse it is not known where the next one stands.
      if (descriptors === 0) break
      usedAt += descriptors
      if (usedAt >= size) {
        usedAt -= size
        usedMarks ^= MARKS
      }
    }
    if (n === 0) return 0
    // Then what they speak of, also for whoever reads the buffers next.
    ring.readBarrier()
    for (let i = 0; i < n; i++) {
      const at = lengthAt[i]
      if (at === KNOWN) continue
      lengths[i] = u32[at]
      loads++
    }
    this.usedAt = usedAt
    this.usedMarks = usedMarks
    if (ring.meter !== null) ring.meter.load(4, loads)
    return n
  }

  arm(): boolean {
    const { driver, driverWord, eventIndex, ring, ringWord, usedAt, usedMarks } = this
    const offset = usedAt | ((usedMarks & AVAILABLE_MARK) === 0 ? 0 : PACKED_WRAP_COUNTER)
    const event = eventIndex ? offset | (RING_EVENT_FLAGS_DESCRIPTOR << 16) : RING_EVENT_FLAGS_ENABLE << 16
    // The device may have gone on before it saw this: §2.8.22.
    return (driver.storeWordThenLoad(driverWord, event, ring, ringWord + 4 * usedAt + 3) & MARKS) === usedMarks
  }

  disarm(): void {
    const { driver, driverWord, ring, ringWord } = this
    driver.storeWordThenLoad(driverWord, RING_EVENT_FLAGS_DISABLE << 16, ring, ringWord)
  }

  reset(): void {
    const { deviceWord, driverWord, ringWord, size } = this
    this.at = this.usedAt = this.held = this.written = 0
    this.heldAt = NONE
    this.marks = AVAILABLE_MARK
    this.usedMarks = MARKS
    this.ring.u32.fill(0, ringWord, ringWord + 4 * size)
    this.driver.u32[driverWord] = 0
    this.device.u32[deviceWord] = 0
  }
}

export const packedFormat: RingFormat = {
  refuseSize: (size) => (size <= MAX_QUEUE_SIZE ? null : `a number from 1 to ${MAX_QUEUE_SIZE} (virtio 1.4 §2.8)`),
  ring: (setup) => new PackedDriverRing(setup),
}
