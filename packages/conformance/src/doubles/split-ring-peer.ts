import {
  AVAILABLE_F_NO_INTERRUPT,
  AVAILABLE_FLAGS,
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
  MAX_CHAIN_BYTES,
  USED_ELEMENT_SIZE,
  USED_F_NO_NOTIFY,
  USED_FLAGS,
  USED_INDEX,
  USED_RING,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
} from '@guestdma/spec'
import { type PeerChain, type PeerElement, PeerError, type PeerSetup, type RingPeer } from './ring-peer.ts'
import { RingWords } from './ring-words.ts'

const KNOWN_FLAGS = DESCRIPTOR_F_NEXT | DESCRIPTOR_F_WRITE | DESCRIPTOR_F_INDIRECT

/**
 * The device's half of a split virtqueue, written from the text of virtio 1.4 §2.7 and sharing no code with the
 * driver's half: plain loads and stores through the device's port, and every rule for drivers checked.
 */
export class SplitRingPeer implements RingPeer {
  /** Free-running counters, not taken modulo 2^16. */
  taken = 0
  used = 0
  private readonly setup: PeerSetup
  private readonly words: RingWords
  private readonly eventIndex: boolean
  private notifiedFor = 0

  constructor(setup: PeerSetup) {
    this.setup = setup
    this.words = new RingWords(setup.port)
    this.eventIndex = setup.features.has(VIRTIO_F_EVENT_IDX)
    const { descriptor, driver, device } = setup.areas
    if (descriptor % 16 !== 0 || driver % 2 !== 0 || device % 4 !== 0) {
      throw new PeerError(
        'ring/geometry',
        `areas at ${descriptor}, ${driver} and ${device} are not aligned to 16, 2 and 4 (§2.7)`,
      )
    }
  }

  /** How many chains are available and not taken. */
  get pending(): number {
    const { areas, size } = this.setup
    const pending = (this.words.load16(areas.driver + AVAILABLE_INDEX) - this.taken) & 0xffff
    if (pending > size)
      throw new PeerError('ring/publication', `${pending} chains are available in a queue of ${size} (§2.7.13)`)
    return pending
  }

  peek(): PeerChain[] {
    return Array.from({ length: this.pending }, (_, i) => this.chainAt(this.taken + i))
  }

  take(): PeerChain | null {
    if (this.pending === 0) return null
    return this.chainAt(this.taken++)
  }

  use(elements: ReadonlyArray<{ readonly id: number; readonly written: number }>): void {
    for (const [i, { id, written }] of elements.entries()) this.putElement(this.used + i, id, written)
    this.jump(elements.length)
  }

  useBatch(lastId: number, count: number, written: number): void {
    this.putElement(this.used, lastId, written)
    this.jump(count)
  }

  mustInterrupt(): boolean {
    const { driver } = this.setup.areas
    const from = this.notifiedFor
    this.notifiedFor = this.used
    if (this.used === from) return false
    if (!this.eventIndex) return (this.words.load16(driver + AVAILABLE_FLAGS) & AVAILABLE_F_NO_INTERRUPT) === 0
    if (this.words.load16(driver + AVAILABLE_FLAGS) !== 0) {
      throw new PeerError('ring/notification', 'flags must be 0 with EVENT_IDX (§2.7.7.1)')
    }
    // §2.7.7.2: obliged if an element was placed while idx equalled used_event.
    const event = this.words.load16(driver + availableRingBytes(this.setup.size) - 2)
    for (let position = from; position < this.used; position++) if ((position & 0xffff) === event) return true
    return false
  }

  wantDoorbells(wanted: boolean): void {
    this.words.store16(this.setup.areas.device + USED_FLAGS, wanted ? 0 : USED_F_NO_NOTIFY)
  }

  wantDoorbellAt(entry: number): void {
    const { areas, size } = this.setup
    this.words.store16(areas.device + USED_RING + USED_ELEMENT_SIZE * size, this.positionOf(entry))
  }

  positionOf(entry: number): number {
    return entry & 0xffff
  }

  jump(by: number): void {
    this.used += by
    this.words.store16(this.setup.areas.device + USED_INDEX, this.used & 0xffff)
  }

  scribble(): void {
    const { areas, size } = this.setup
    for (let i = 0; i < descriptorTableBytes(size); i += 2) this.words.store16(areas.descriptor + i, 0xdead)
    for (let i = 0; i < availableRingBytes(size); i += 2) this.words.store16(areas.driver + i, 0xbeef)
  }

  private putElement(position: number, id: number, written: number): void {
    const { areas, size } = this.setup
    const at = areas.device + USED_RING + USED_ELEMENT_SIZE * (position % size)
    this.words.store32(at, id)
    this.words.store32(at + 4, written)
  }

  private chainAt(position: number): PeerChain {
    const { areas, size } = this.setup
    const head = this.words.load16(areas.driver + AVAILABLE_RING + 2 * (position % size))
    const elements: PeerElement[] = []
    const indirect = this.walk(areas.descriptor, size, head, elements)
    const bytes = elements.reduce((sum, { length }) => sum + length, 0)
    if (bytes > MAX_CHAIN_BYTES) throw new PeerError('ring/chains', `a chain of ${bytes} bytes (§2.7.5.2)`)
    if (elements.length > size)
      throw new PeerError('ring/chains', `${elements.length} elements in a queue of ${size} (§2.7.5.3.1)`)
    const firstWritable = elements.findIndex(({ writable }) => writable)
    if (firstWritable >= 0 && elements.slice(firstWritable).some(({ writable }) => !writable)) {
      throw new PeerError('ring/chains', 'a device-readable element after a device-writable one (§2.7.4.2)')
    }
    return { id: head, elements, indirect }
  }

  // Follows one table, and one indirect table from it. Returns whether there was one.
  private walk(table: number, entries: number, first: number, elements: PeerElement[], nested = false): boolean {
    const inOrder = this.setup.features.has(VIRTIO_F_IN_ORDER)
    let index = first
    for (let steps = 0; ; steps++) {
      if (index >= entries) throw new PeerError('ring/chains', `descriptor ${index} of a table of ${entries}`)
      if (steps >= entries) throw new PeerError('ring/chains', `a loop in the chain from ${first} on (§2.7.5.2)`)
      const at = table + DESCRIPTOR_SIZE * index
      const address =
        this.words.load32(at + DESCRIPTOR_ADDRESS) + 2 ** 32 * this.words.load32(at + DESCRIPTOR_ADDRESS + 4)
      const length = this.words.load32(at + DESCRIPTOR_LENGTH)
      const flags = this.words.load16(at + DESCRIPTOR_FLAGS)
      if ((flags & ~KNOWN_FLAGS) !== 0) throw new PeerError('ring/chains', `flags ${flags} in descriptor ${index}`)
      if ((flags & DESCRIPTOR_F_INDIRECT) !== 0) {
        if (!this.setup.features.has(VIRTIO_F_INDIRECT_DESC))
          throw new PeerError('ring/chains', 'INDIRECT was not negotiated (§2.7.5.3.1)')
        if (nested) throw new PeerError('ring/chains', 'an indirect table in an indirect table (§2.7.5.3.1)')
        if ((flags & DESCRIPTOR_F_NEXT) !== 0)
          throw new PeerError('ring/chains', 'INDIRECT together with NEXT (§2.7.5.3.1)')
        if (length === 0 || length % DESCRIPTOR_SIZE !== 0)
          throw new PeerError('ring/chains', `an indirect table of ${length} bytes`)
        this.walk(address, length / DESCRIPTOR_SIZE, 0, elements, true)
        return true
      }
      if (length === 0) throw new PeerError('ring/chains', `descriptor ${index} is empty`)
      elements.push({ address, length, writable: (flags & DESCRIPTOR_F_WRITE) !== 0 })
      if ((flags & DESCRIPTOR_F_NEXT) === 0) return false
      const next = this.words.load16(at + DESCRIPTOR_NEXT)
      if (inOrder && next !== (nested ? index + 1 : (index + 1) % entries)) {
        throw new PeerError('ring/chains', `next of ${index} is ${next} with IN_ORDER (§2.7.5.2, §2.7.5.3.1)`)
      }
      index = next
    }
  }
}

/** The split ring of a device that lies: every way in which a used element can be wrong. */
export class HostileSplitRing extends SplitRingPeer {
  /** An id that is no descriptor of the queue. */
  returnOutOfRange(id: number): void {
    this.use([{ id, written: 0 }])
  }

  /** The same chain twice. */
  returnTwice(id: number): void {
    this.use([
      { id, written: 0 },
      { id, written: 0 },
    ])
  }

  /** More bytes than were posted: 4 GiB less one. */
  overstate(id: number): void {
    this.use([{ id, written: 0xffff_ffff }])
  }
}
