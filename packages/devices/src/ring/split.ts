import { ACCESS_READ, ACCESS_WRITE, Region } from '@guestdma/memory'
import {
  AVAILABLE_F_NO_INTERRUPT,
  AVAILABLE_INDEX,
  AVAILABLE_RING,
  AVAILABLE_RING_ALIGN,
  availableRingBytes,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_TABLE_ALIGN,
  descriptorTableBytes,
  MAX_QUEUE_SIZE,
  USED_INDEX,
  USED_RING,
  USED_RING_ALIGN,
  usedRingBytes,
} from '@guestdma/spec'
import {
  type ChainTable,
  ONE_READABLE,
  ROW,
  ROW_FETCHED,
  ROW_ID,
  ROW_WRITE,
  SEGMENT,
  SEGMENT_FLAGS,
} from './chain-table.ts'
import type { DeviceRing, RingPosition, RingSetup } from './device-ring.ts'
import {
  AREA_DESC_LOW,
  AREA_DEVICE_LOW,
  AREA_DRIVER_LOW,
  integer,
  RingArea,
  type RingOwner,
  type RingWord,
  resolveArea,
} from './ring-area.ts'
import { CHAIN_BYTES, CHAIN_STEPS } from './work.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const F_NEXT = DESCRIPTOR_F_NEXT
const ENDS = DESCRIPTOR_F_NEXT | DESCRIPTOR_F_INDIRECT
const STRIDE = ROW
const DESCRIPTOR = SEGMENT
const FLAGS = SEGMENT_FLAGS
const ID = ROW_ID
const FETCHED = ROW_FETCHED
const WRITE = ROW_WRITE
const ALL_READABLE = ONE_READABLE

/**
 * The device's half of a split ring: virtio 1.4 §2.7.
 *
 * Indices run freely, modulo 2^16. Between two calls: published <= used <= next <= available <= published + size.
 */
export class SplitDeviceRing implements DeviceRing {
  copies = 0
  more = false
  private available = 0
  private next = 0
  private used = 0
  private published = 0
  // Where the last used element stands; later ones of the same batch may take its place.
  private slot = 0
  private replaceable = false
  private attached = false

  declare private readonly owner: RingOwner
  private size = 1
  private eventIndex = false
  private batchUsed = false

  // The three areas, and where to work on them, as elements of the views of a region.
  declare private readonly tableArea: RingArea
  declare private readonly driverArea: RingArea
  declare private readonly deviceArea: RingArea
  declare private table: Region
  private tableWord = 0
  declare private availableRing: Region
  private availableHalf = 0
  declare private usedRing: Region
  private usedWord = 0
  // An area is in pieces: copies have to be brought up to date.
  private scattered = false
  // The four words that both sides look at, in memory itself: the available index, what says whether the driver wants a
  // notification (used_event or the flags), the used index, and avail_event.
  declare private readonly availableIndex: RingWord
  declare private readonly asked: RingWord
  declare private readonly usedIndex: RingWord
  declare private readonly event: RingWord

  constructor(owner: RingOwner) {
    const nowhere = new Region(new ArrayBuffer(0), 'no ring')
    this.owner = owner
    this.table = this.availableRing = this.usedRing = nowhere
    this.tableArea = new RingArea(nowhere)
    this.driverArea = new RingArea(nowhere)
    this.deviceArea = new RingArea(nowhere)
    this.availableIndex = { region: nowhere, half: 0 }
    this.asked = { region: nowhere, half: 0 }
    this.usedIndex = { region: nowhere, half: 0 }
    this.event = { region: nowhere, half: 0 }
  }

  start(setup: RingSetup): boolean {
    const { size } = setup
    this.available = this.next = this.used = this.published = this.slot = 0
    this.replaceable = false
    this.copies = 0
    if ((size & (size - 1)) !== 0) {
      this.owner.fail('queue-size', -1, size, MAX_QUEUE_SIZE)
      return false
    }
    this.size = size
    this.eventIndex = setup.eventIndex
    this.batchUsed = setup.inOrder && setup.batchUsed
    return true
  }

  attach({ areas, size }: RingSetup): boolean {
    this.attached = false
    const { deviceArea, driverArea, owner, tableArea } = this
    const descriptors = descriptorTableBytes(size)
    const entries = availableRingBytes(size)
    const found =
      resolveArea(owner, tableArea, areas, AREA_DESC_LOW, descriptors, DESCRIPTOR_TABLE_ALIGN, 4, ACCESS_READ) &&
      resolveArea(owner, driverArea, areas, AREA_DRIVER_LOW, entries, AVAILABLE_RING_ALIGN, 2, ACCESS_READ) &&
      resolveArea(owner, deviceArea, areas, AREA_DEVICE_LOW, usedRingBytes(size), USED_RING_ALIGN, 4, ACCESS_WRITE)
    if (!found) return false
    if (
      !driverArea.find(AVAILABLE_INDEX, this.availableIndex) ||
      !driverArea.find(this.eventIndex ? AVAILABLE_RING + 2 * size : 0, this.asked) ||
      !deviceArea.find(USED_INDEX, this.usedIndex) ||
      !deviceArea.find(USED_RING + 8 * size, this.event)
    ) {
      owner.fail('ring-alignment', -1, 1, 2)
      return false
    }
    this.table = tableArea.region
    this.tableWord = integer(tableArea.offset / 4)
    this.availableRing = driverArea.region
    this.availableHalf = integer(driverArea.offset / 2)
    this.usedRing = deviceArea.region
    this.usedWord = integer((deviceArea.offset + USED_RING) / 4)
    this.scattered = tableArea.scattered || driverArea.scattered || deviceArea.scattered
    if (this.scattered) this.pull()
    this.attached = true
    return true
  }

  stop(): void {
    this.available = this.next = this.used = this.published = 0
    this.attached = false
  }

  get ready(): number {
    return (this.available - this.next) & 0xffff
  }

  get unpublished(): number {
    return (this.used - this.published) & 0xffff
  }

  get storedUsed(): number {
    const { region, half } = this.usedIndex
    if (region.u16.length === 0) region.refresh()
    return region.loadShared(half)
  }

  update(): number {
    const { region, half } = this.availableIndex
    if (region.u16.length === 0) region.refresh()
    return this.accept(region.loadShared(half))
  }

  fetch(into: ChainTable, limit: number): number {
    const { availableRing, owner, size, table } = this
    const ready = (this.available - this.next) & 0xffff
    const count = ready < limit ? ready : limit
    if (count === 0) return 0
    if (availableRing.u16.length === 0) availableRing.refresh()
    if (table.u32.length === 0) table.refresh()
    const { columns } = into
    const mask = size - 1
    const ring = availableRing.u16
    const first = this.availableHalf + 2
    const from = table.u32
    const base = this.tableWord
    const start = this.next
    let { words } = into
    let room = words.length / DESCRIPTOR
    const before = into.segments
    let row = into.to * STRIDE
    let k = before
    let begin = k
    let n = 0
    let head = ring[first + (start & mask)]
    let index = head
    for (;;) {
      // One flat loop for chains of any length. It calls nothing, so that the engine keeps what it knows of the arrays.
      while (n < count && index < size && k - begin !== size && k !== room) {
        const at = base + (index << 2)
        const to = k * DESCRIPTOR
        const flags = from[at + 3]
        words[to] = from[at]
        words[(to + 1) | 0] = from[at + 1]
        words[(to + 2) | 0] = from[at + 2]
        words[(to + FLAGS) | 0] = flags & 0xffff
        k = (k + 1) | 0
        index = flags >>> 16
        if ((flags & ENDS) === F_NEXT) continue
        columns[row + ID] = head
        columns[row + FETCHED] = begin
        row = (row + STRIDE) | 0
        begin = k
        n = (n + 1) | 0
        // What is not available yet is not looked at.
        if (n === count) break
        head = ring[first + ((start + n) & mask)]
        index = head
      }
      if (n === count) break
      if (!(index < size) || k - begin === size) {
        // What comes before it is taken first.
        if (n > 0) break
        if (k === begin) owner.fail('head', head, head, size)
        else if (!(index < size)) owner.fail('next', head, index, size)
        else owner.fail('chain-length', head, size + 1, size)
        break
      }
      // Chains with more descriptors than the ring has share some: they need not be loaded together.
      if (n > 0 && k - before > size) break
      into.reserve(k + 1)
      words = into.words
      room = words.length / DESCRIPTOR
    }
    into.add(n, begin)
    this.next = (start + n) & 0xffff
    if (availableRing.meter !== null) availableRing.meter.load(2, n)
    if (table.meter !== null) table.meter.load(4, 4 * (begin - before))
    return n
  }

  unfetch({ next, to }: ChainTable): void {
    this.next = (this.next - (to - next)) & 0xffff
  }

  fetchTable(area: RingArea, entries: number, head: number, into: ChainTable): number {
    const { owner, size } = this
    const { u32 } = area.region
    const base = area.offset / 4
    const start = into.segments
    into.reserve(start + Math.min(entries, size))
    const { words } = into
    let index = 0
    for (let n = 0; ; n++) {
      if (n === size) return owner.fail('chain-length', head, size + 1, size)
      const at = base + 4 * index
      const to = (start + n) * DESCRIPTOR
      const flags = u32[at + 3]
      words[to] = u32[at]
      words[to + 1] = u32[at + 1]
      words[to + 2] = u32[at + 2]
      words[to + FLAGS] = flags & 0xffff
      if (area.region.meter !== null) area.region.meter.load(4, 4)
      if ((flags & F_NEXT) === 0) return n + 1
      index = flags >>> 16
      if (index >= entries) return owner.fail('next', head, index, entries)
    }
  }

  push(id: number, written: number, whole: boolean): void {
    const { usedRing, used } = this
    if (usedRing.u32.length === 0) usedRing.refresh()
    const words = usedRing.u32
    if (!this.replaceable) this.slot = used
    const word = this.usedWord + ((this.slot & (this.size - 1)) << 1)
    words[word] = id
    words[word + 1] = written
    if (usedRing.meter !== null) usedRing.meter.store(4, 2)
    this.used = (used + 1) & 0xffff
    this.replaceable = whole && this.batchUsed
  }

  pushRows(chains: ChainTable, first: number, count: number, written: Int32Array): void {
    const { columns, row0 } = chains
    const { batchUsed, usedRing } = this
    if (usedRing.u32.length === 0) usedRing.refresh()
    const words = usedRing.u32
    const ids = (row0 + first) * STRIDE
    const base = this.usedWord
    const mask = this.size - 1
    let { replaceable, slot, used } = this
    for (let i = 0; i < count; i++) {
      if (!replaceable) slot = used
      const word = base + ((slot & mask) << 1)
      const bytes = written[i]
      words[word] = columns[ids + i * STRIDE + ID]
      words[word + 1] = bytes
      used = (used + 1) & 0xffff
      if (!batchUsed) continue
      // Most have no device-writable part.
      const writable = columns[ids + i * STRIDE + WRITE] === ALL_READABLE ? 0 : chains.writable(first + i)
      replaceable = bytes === writable
    }
    this.replaceable = replaceable
    this.slot = slot
    this.used = used
    if (usedRing.meter !== null) usedRing.meter.store(4, 2 * count)
  }

  flush(): boolean {
    const { published: old, used } = this
    if (used === old || !this.attached) return false
    const { asked, usedIndex } = this
    const { region: usedRing } = usedIndex
    const { region: availableRing } = asked
    if (usedRing.u16.length === 0) usedRing.refresh()
    if (availableRing.u16.length === 0) availableRing.refresh()
    if (this.scattered) this.usedElements(old, used, false)
    // Elements first, then the index that publishes them, then the question whether the driver wants to know.
    const answer = usedRing.storeThenLoad(usedIndex.half, used, availableRing, asked.half)
    this.published = used
    this.replaceable = false
    if (usedRing.meter !== null) usedRing.meter.store(2, 1)
    if (availableRing.meter !== null) availableRing.meter.load(2, 1)
    if (usedRing.onDeviceWrite !== null || this.scattered) this.reportUsed(old, used)
    if (!this.eventIndex) return (answer & AVAILABLE_F_NO_INTERRUPT) === 0
    // One of the elements old .. used - 1 was written at index `answer`, modulo 2^16.
    return ((used - answer - 1) & 0xffff) < ((used - old) & 0xffff)
  }

  // The event lies behind what was seen, and not behind what was taken: chains that are left in the ring were made
  // available already, and the driver's index will not pass them again.
  rearm(): boolean {
    // Without the event index the used ring's flags stay 0, as the driver initialised them: it always notifies.
    if (!this.eventIndex || !this.attached) return false
    const { availableIndex, event } = this
    const { region: usedRing } = event
    const { region: availableRing } = availableIndex
    if (usedRing.u16.length === 0) usedRing.refresh()
    if (availableRing.u16.length === 0) availableRing.refresh()
    const seen = this.available
    const index = usedRing.storeThenLoad(event.half, seen, availableRing, availableIndex.half)
    if (usedRing.meter !== null) usedRing.meter.store(2, 1)
    if (usedRing.onDeviceWrite !== null) usedRing.onDeviceWrite(event.half * 2, 2)
    return this.accept(index) > 0 && index !== seen
  }

  // One barrier for both.
  flushAndRearm(): boolean {
    if (!this.eventIndex || this.used === this.published || !this.attached) {
      const wanted = this.flush()
      this.more = this.rearm()
      return wanted
    }
    const { available: seen, availableIndex, event } = this
    const { port } = this.owner
    const { epoch } = port
    const { region: usedRing } = event
    if (usedRing.u16.length === 0) usedRing.refresh()
    usedRing.storeAhead(event.half, seen)
    if (usedRing.meter !== null) usedRing.meter.store(2, 1)
    const wanted = this.flush()
    // What listens to writes may have stopped the queue, or grown its memory.
    if (usedRing.onDeviceWrite !== null) usedRing.onDeviceWrite(event.half * 2, 2)
    // Or moved the ring: then the device looks once more when it has found it.
    this.more = port.epoch !== epoch
    if (!this.attached || this.more) return wanted
    const { region: availableRing } = availableIndex
    if (availableRing.u16.length === 0) availableRing.refresh()
    // Behind the barrier of the used index.
    const index = availableRing.loadShared(availableIndex.half)
    this.more = this.accept(index) > 0 && index !== seen
    return wanted
  }

  save(): RingPosition {
    this.replaceable = false
    return { next: this.next, used: this.used, published: this.published }
  }

  restore({ next, used, published }: RingPosition): void {
    this.available = this.next = next & 0xffff
    this.used = used & 0xffff
    this.published = published & 0xffff
  }

  // Believes an available index, or breaks the queue. Returns how many chains can be fetched.
  private accept(index: number): number {
    const { owner, size } = this
    const { region } = this.availableIndex
    if (region.meter !== null) region.meter.load(2, 1)
    // At most `size` chains may be outstanding as the driver sees it, and the index never goes back (§2.7.6.1).
    const outstanding = (index - this.published) & 0xffff
    const fresh = (index - this.next) & 0xffff
    if (outstanding > size || fresh > size) {
      owner.fail('available-index', -1, index, size)
      return 0
    }
    if (this.scattered && index !== this.available) this.pull()
    this.available = index
    return fresh
  }

  // Copies what the driver wrote, where an area is in pieces.
  private pull(): void {
    const { driverArea, size, tableArea } = this
    const pieces = tableArea.pull() + driverArea.pull()
    let bytes = tableArea.scattered ? descriptorTableBytes(size) : 0
    if (driverArea.scattered) bytes += availableRingBytes(size)
    this.copies += (pieces / CHAIN_STEPS + bytes / CHAIN_BYTES) | 0
  }

  private reportUsed(from: number, to: number): void {
    this.usedElements(from, to, true)
    this.deviceArea.report(USED_INDEX, 2)
  }

  // Reports elements `from` to `to` - 1 of the used ring, or writes them to the pieces that it is in: one span or two.
  private usedElements(from: number, to: number, report: boolean): void {
    const { deviceArea, size } = this
    const first = from & (size - 1)
    const count = (to - from) & 0xffff
    const straight = Math.min(count, size - first)
    if (report) deviceArea.report(USED_RING + 8 * first, 8 * straight)
    else deviceArea.push(USED_RING + 8 * first, 8 * straight)
    if (count === straight) return
    if (report) deviceArea.report(USED_RING, 8 * (count - straight))
    else deviceArea.push(USED_RING, 8 * (count - straight))
  }
}
