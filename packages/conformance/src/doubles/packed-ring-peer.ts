import {
  DESCRIPTOR_F_AVAILABLE,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_USED,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_RING_ALIGN,
  EVENT_SUPPRESSION_ALIGN,
  EVENT_SUPPRESSION_DESCRIPTOR,
  EVENT_SUPPRESSION_FLAGS,
  MAX_CHAIN_BYTES,
  MAX_QUEUE_SIZE,
  PACKED_DESCRIPTOR_ADDRESS,
  PACKED_DESCRIPTOR_FLAGS,
  PACKED_DESCRIPTOR_ID,
  PACKED_DESCRIPTOR_LENGTH,
  PACKED_DESCRIPTOR_SIZE,
  PACKED_WRAP_COUNTER,
  RING_EVENT_FLAGS_DESCRIPTOR,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
} from '@guestdma/spec'
import { type PeerChain, type PeerElement, PeerError, type PeerSetup, type RingPeer } from './ring-peer.ts'
import { RingWords } from './ring-words.ts'

const MARKS = DESCRIPTOR_F_AVAILABLE | DESCRIPTOR_F_USED
const KNOWN_FLAGS = DESCRIPTOR_F_NEXT | DESCRIPTOR_F_WRITE | DESCRIPTOR_F_INDIRECT | MARKS
const WORDS = PACKED_DESCRIPTOR_SIZE / 4
const FLAGS_WORD = PACKED_DESCRIPTOR_FLAGS >>> 2

interface Descriptor {
  readonly address: number
  readonly length: number
  readonly id: number
  readonly flags: number
}

/** A chain, and how many descriptors of the ring it takes. */
interface Found {
  readonly chain: PeerChain
  readonly descriptors: number
}

/**
 * The device's half of a packed virtqueue, written from the text of virtio 1.4 §2.8 and sharing no code with the
 * driver's half: plain loads and stores through the device's port, and every rule for drivers checked. To be made before
 * the driver makes anything available.
 *
 * Its positions count descriptors from the start and on over the end of the ring: modulo the size they are a place in
 * the ring, and with each lap the wrap counter changes.
 */
export class PackedRingPeer implements RingPeer {
  /** The position of the descriptor that is taken next, and of the one that is written next. */
  taken = 0
  used = 0
  protected readonly setup: PeerSetup
  private readonly words: RingWords
  private readonly eventIndex: boolean
  /** Chains that were taken and not returned, by id, the oldest first: how many descriptors each of them has. */
  private readonly outstanding = new Map<number, number>()
  /** Ids of chains that the device may write. */
  private readonly writable = new Set<number>()
  /** Descriptors that the driver got back: `used`, had it never lied. */
  private returned = 0
  private notifiedFor = 0
  /** The ring's words as this half last saw or left them. */
  private readonly seen: Uint32Array
  /** The device area as this half left it. */
  private deviceEvent: number

  constructor(setup: PeerSetup) {
    this.setup = setup
    this.words = new RingWords(setup.port)
    this.eventIndex = setup.features.has(VIRTIO_F_EVENT_IDX)
    const { areas, size } = setup
    if (!Number.isInteger(size) || size < 1 || size > MAX_QUEUE_SIZE)
      throw new PeerError('ring/geometry', `a queue of ${size} descriptors (§2.8)`)
    if (
      areas.descriptor % DESCRIPTOR_RING_ALIGN !== 0 ||
      areas.driver % EVENT_SUPPRESSION_ALIGN !== 0 ||
      areas.device % EVENT_SUPPRESSION_ALIGN !== 0
    ) {
      throw new PeerError(
        'ring/geometry',
        `areas at ${areas.descriptor}, ${areas.driver} and ${areas.device} are not aligned to 16, 4 and 4 (§2.8.11)`,
      )
    }
    this.seen = new Uint32Array(WORDS * size)
    for (let position = 0; position < size; position++) {
      if (!this.isUnchanged(position))
        throw new PeerError('ring/geometry', `descriptor ${position} is not zero at first (§2.8.13)`)
    }
    this.deviceEvent = this.words.load32(areas.device)
  }

  peek(): PeerChain[] {
    const chains: PeerChain[] = []
    const ids = new Set<number>()
    for (let position = this.taken; ; ) {
      const found = this.chainAt(position)
      if (found === null) return chains
      const { chain, descriptors } = found
      if (ids.has(chain.id)) throw new PeerError('ring/chains', `id ${chain.id} is that of two available chains`)
      ids.add(chain.id)
      chains.push(chain)
      position += descriptors
    }
  }

  take(): PeerChain | null {
    const found = this.chainAt(this.taken)
    if (found === null) return null
    const { elements, id } = found.chain
    this.outstanding.set(id, found.descriptors)
    if (elements.some(({ writable }) => writable)) this.writable.add(id)
    else this.writable.delete(id)
    for (const end = this.taken + found.descriptors; this.taken < end; this.taken++) this.look(this.taken)
    return found.chain
  }

  use(elements: ReadonlyArray<{ readonly id: number; readonly written: number }>): void {
    const placed = elements.map((element) => {
      const position = this.used
      this.used += this.giveBack(element.id)
      return { position, ...element }
    })
    // The driver looks at the first one first, and finds all of them once it is there.
    for (const { position, id, written } of placed.reverse()) this.putUsed(position, id, written)
  }

  useBatch(lastId: number, count: number, written: number): void {
    const position = this.used
    for (const id of [...this.outstanding.keys()].slice(0, count)) this.used += this.giveBack(id)
    this.putUsed(position, lastId, written)
  }

  mustInterrupt(): boolean {
    const { driver, device } = this.setup.areas
    if (this.words.load32(device) !== this.deviceEvent)
      throw new PeerError('ring/notification', 'the driver wrote to the device area, which it only reads (§2.8.10)')
    const from = this.notifiedFor
    this.notifiedFor = this.used
    const flags = this.words.load16(driver + EVENT_SUPPRESSION_FLAGS)
    if (flags === RING_EVENT_FLAGS_DISABLE) return false
    if (flags === RING_EVENT_FLAGS_ENABLE) return this.used !== from
    if (flags !== RING_EVENT_FLAGS_DESCRIPTOR)
      throw new PeerError(
        'ring/notification',
        `event flags ${flags}, of which 0, 1 and 2 are no reserved ones (§2.8.14)`,
      )
    if (!this.eventIndex) throw new PeerError('ring/notification', 'event flags 2 without EVENT_IDX (§2.8.10)')
    const event = this.words.load16(driver + EVENT_SUPPRESSION_DESCRIPTOR)
    if ((event & ~PACKED_WRAP_COUNTER) >= this.setup.size)
      throw new PeerError('ring/notification', `an event at ${event} is outside of the ring (§2.8.10)`)
    for (let position = from; position < this.used; position++) if (this.positionOf(position) === event) return true
    return false
  }

  wantDoorbells(wanted: boolean): void {
    const { device } = this.setup.areas
    const flags = wanted ? RING_EVENT_FLAGS_ENABLE : RING_EVENT_FLAGS_DISABLE
    this.words.store16(device + EVENT_SUPPRESSION_FLAGS, flags)
    this.deviceEvent = this.words.load32(device)
  }

  wantDoorbellAt(entry: number): void {
    const { device } = this.setup.areas
    this.words.store16(device + EVENT_SUPPRESSION_DESCRIPTOR, this.positionOf(entry))
    this.words.store16(device + EVENT_SUPPRESSION_FLAGS, RING_EVENT_FLAGS_DESCRIPTOR)
    this.deviceEvent = this.words.load32(device)
  }

  positionOf(entry: number): number {
    return this.slotOf(entry) + (this.wrapOf(entry) ? PACKED_WRAP_COUNTER : 0)
  }

  jump(by: number): void {
    this.used += by
  }

  scribble(): void {
    const { areas, size } = this.setup
    for (let slot = 0; slot < size; slot++) {
      const at = this.addressOf(slot)
      const marks = this.words.load16(at + PACKED_DESCRIPTOR_FLAGS) & MARKS
      for (let i = 0; i < PACKED_DESCRIPTOR_FLAGS; i += 2) this.words.store16(at + i, 0xdead)
      this.words.store16(at + PACKED_DESCRIPTOR_FLAGS, (0xdead & ~MARKS) | marks)
      this.look(slot)
    }
    this.words.store32(areas.driver, 0xbeefbeef)
  }

  // The chain that begins at a position, or null where none is available there.
  private chainAt(position: number): Found | null {
    const { size } = this.setup
    if (!this.isAvailable(position)) return null
    const elements: PeerElement[] = []
    for (let descriptors = 1; ; descriptors++) {
      const at = position + descriptors - 1
      if (descriptors > size) throw new PeerError('ring/chains', `a list is longer than the queue of ${size} (§2.8.17)`)
      if (at >= this.returned + size)
        throw new PeerError('ring/publication', `descriptor ${this.slotOf(at)} is available and was not free (§2.8.17)`)
      if (this.marksAt(at) !== availableMarks(this.wrapOf(at)))
        throw new PeerError('ring/publication', `descriptor ${this.slotOf(at)}, in a list, is not available (§2.8.17)`)
      const descriptor = this.load(this.addressOf(at))
      const { id, flags } = descriptor
      if ((flags & ~KNOWN_FLAGS) !== 0) throw new PeerError('ring/chains', `flags ${flags} in a descriptor (§2.8.13)`)
      const next = (flags & DESCRIPTOR_F_NEXT) !== 0
      const indirect = (flags & DESCRIPTOR_F_INDIRECT) !== 0
      if (indirect) {
        if (next || descriptors > 1) throw new PeerError('ring/chains', 'INDIRECT in a list linked by NEXT (§2.8.19)')
        this.walkTable(descriptor, elements)
      } else {
        elements.push(elementOf(descriptor))
      }
      if (next) continue
      this.checkChain(id, elements)
      return { chain: { id, elements, indirect }, descriptors }
    }
  }

  private walkTable({ address, length, flags }: Descriptor, elements: PeerElement[]): void {
    const { size, features } = this.setup
    if (!features.has(VIRTIO_F_INDIRECT_DESC))
      throw new PeerError('ring/chains', 'INDIRECT was not negotiated (§2.8.19)')
    if ((flags & DESCRIPTOR_F_WRITE) !== 0)
      throw new PeerError('ring/chains', 'WRITE, which is reserved, together with INDIRECT (§2.8.7)')
    if (length === 0 || length % PACKED_DESCRIPTOR_SIZE !== 0)
      throw new PeerError('ring/chains', `an indirect table of ${length} bytes (§2.8.7)`)
    if (length > PACKED_DESCRIPTOR_SIZE * size)
      throw new PeerError('ring/chains', `a table of ${length} bytes is longer than the queue of ${size} (§2.8.17)`)
    for (let at = address; at < address + length; at += PACKED_DESCRIPTOR_SIZE) {
      const descriptor = this.load(at)
      if ((descriptor.flags & ~DESCRIPTOR_F_WRITE) !== 0)
        throw new PeerError('ring/chains', `flags ${descriptor.flags} in an indirect table (§2.8.19)`)
      if (descriptor.id !== 0)
        throw new PeerError('ring/chains', `id ${descriptor.id} in an indirect table, where it is reserved (§2.8.7)`)
      elements.push(elementOf(descriptor))
    }
  }

  private checkChain(id: number, elements: readonly PeerElement[]): void {
    if (id >= this.setup.size) throw new PeerError('ring/chains', `id ${id} in a queue of ${this.setup.size} (§2.8.22)`)
    if (this.outstanding.has(id))
      throw new PeerError('ring/chains', `id ${id} is that of an outstanding chain (§2.8.21.1)`)
    // What was written is told in 32 bits.
    const bytes = elements.reduce((sum, { length }) => sum + length, 0)
    if (bytes > MAX_CHAIN_BYTES) throw new PeerError('ring/chains', `a chain of ${bytes} bytes (§2.8.4)`)
    const firstWritable = elements.findIndex(({ writable }) => writable)
    if (firstWritable >= 0 && elements.slice(firstWritable).some(({ writable }) => !writable))
      throw new PeerError('ring/chains', 'a device-readable element after a device-writable one (§2.8.17)')
  }

  // Is the descriptor at the position that the device polls available?
  private isAvailable(position: number): boolean {
    const wrap = this.wrapOf(position)
    const marks = this.marksAt(position)
    if (marks === availableMarks(wrap)) return true
    // The ring is full, and this is its first descriptor again.
    if (position === this.returned + this.setup.size) return false
    // Otherwise it still has the marks of the lap before, or a batch that was undone put such marks back.
    const before = (this.seen[WORDS * this.slotOf(position) + FLAGS_WORD] >>> 16) & MARKS
    if (marks !== before && marks !== usedMarks(!wrap)) {
      throw new PeerError(
        'ring/publication',
        `marks ${marks} in descriptor ${this.slotOf(position)} with wrap counter ${wrap ? 1 : 0} (§2.8.1)`,
      )
    }
    return false
  }

  // Returns how many descriptors the chain has, and 1 for a lie.
  private giveBack(id: number): number {
    const descriptors = this.outstanding.get(id)
    if (descriptors === undefined) return 1
    this.outstanding.delete(id)
    for (const end = this.returned + descriptors; this.returned < end; this.returned++) {
      if (this.isUnchanged(this.returned)) continue
      throw new PeerError(
        'ring/immutability',
        `descriptor ${this.slotOf(this.returned)} changed while the device had it (§2.8.16)`,
      )
    }
    return descriptors
  }

  private putUsed(position: number, id: number, written: number): void {
    const at = this.addressOf(position)
    this.words.store16(at + PACKED_DESCRIPTOR_ID, id)
    // Without WRITE the length is reserved (§2.8.4): where nothing can have been written, what the driver put there stays,
    // and is a trap for who believes it. QEMU never sets WRITE, so a driver has to believe the length of other chains.
    if (written > 0 || this.writable.has(id)) this.words.store32(at + PACKED_DESCRIPTOR_LENGTH, written)
    const flags = usedMarks(this.wrapOf(position)) | (written > 0 ? DESCRIPTOR_F_WRITE : 0)
    this.words.store16(at + PACKED_DESCRIPTOR_FLAGS, flags)
    this.look(position)
  }

  private load(at: number): Descriptor {
    const { words } = this
    const high = words.load32(at + PACKED_DESCRIPTOR_ADDRESS + 4)
    return {
      address: words.load32(at + PACKED_DESCRIPTOR_ADDRESS) + 2 ** 32 * high,
      length: words.load32(at + PACKED_DESCRIPTOR_LENGTH),
      id: words.load16(at + PACKED_DESCRIPTOR_ID),
      flags: words.load16(at + PACKED_DESCRIPTOR_FLAGS),
    }
  }

  private look(position: number): void {
    const slot = this.slotOf(position)
    for (let i = 0; i < WORDS; i++) this.seen[WORDS * slot + i] = this.words.load32(this.addressOf(position) + 4 * i)
  }

  private isUnchanged(position: number): boolean {
    const words = this.seen.subarray(WORDS * this.slotOf(position), WORDS * (this.slotOf(position) + 1))
    return words.every((word, i) => word === this.words.load32(this.addressOf(position) + 4 * i))
  }

  private marksAt(position: number): number {
    return this.words.load16(this.addressOf(position) + PACKED_DESCRIPTOR_FLAGS) & MARKS
  }

  private addressOf(position: number): number {
    return this.setup.areas.descriptor + PACKED_DESCRIPTOR_SIZE * this.slotOf(position)
  }

  private slotOf(position: number): number {
    const { size } = this.setup
    return ((position % size) + size) % size
  }

  private wrapOf(position: number): boolean {
    return (Math.floor(position / this.setup.size) & 1) === 0
  }
}

// §2.8.1: AVAIL matches the wrap counter and USED its inverse.
function availableMarks(wrap: boolean): number {
  return wrap ? DESCRIPTOR_F_AVAILABLE : DESCRIPTOR_F_USED
}

// §2.8.1: both match the wrap counter.
function usedMarks(wrap: boolean): number {
  return wrap ? MARKS : 0
}

function elementOf({ address, length, flags }: Descriptor): PeerElement {
  if (length === 0) throw new PeerError('ring/chains', 'an element is empty')
  return { address, length, writable: (flags & DESCRIPTOR_F_WRITE) !== 0 }
}
