import { ACCESS_READ, ACCESS_WRITE, Region } from '@guestdma/memory'
import {
  DESCRIPTOR_F_AVAILABLE,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_USED,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_RING_ALIGN,
  descriptorRingBytes,
  EVENT_SUPPRESSION_ALIGN,
  EVENT_SUPPRESSION_SIZE,
  PACKED_DESCRIPTOR_SIZE,
  PACKED_WRAP_COUNTER,
  RING_EVENT_FLAGS_DESCRIPTOR,
  RING_EVENT_FLAGS_DISABLE,
} from '@guestdma/spec'
import { type ChainTable, ROW, ROW_FETCHED, ROW_ID, SEGMENT, SEGMENT_FLAGS } from './chain-table.ts'
import type { DeviceRing, RingPosition, RingSetup } from './device-ring.ts'
import {
  AREA_DESC_LOW,
  AREA_DEVICE_LOW,
  AREA_DRIVER_LOW,
  integer,
  RingArea,
  type RingOwner,
  resolveArea,
} from './ring-area.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const ENDS = DESCRIPTOR_F_NEXT | DESCRIPTOR_F_INDIRECT
const STRIDE = ROW
const DESCRIPTOR = SEGMENT
const FLAGS = SEGMENT_FLAGS
const ID = ROW_ID
const FETCHED = ROW_FETCHED
const F_NEXT = DESCRIPTOR_F_NEXT
const SHOWN = DESCRIPTOR_F_NEXT | DESCRIPTOR_F_WRITE | DESCRIPTOR_F_INDIRECT
// In the word that holds a descriptor's id in its lower half and its flags in its upper half.
const AVAILABLE_MARK = DESCRIPTOR_F_AVAILABLE << 16
const WRITE_MARK = DESCRIPTOR_F_WRITE << 16
const MARKS = AVAILABLE_MARK | (DESCRIPTOR_F_USED << 16)
/** No descriptor is held back. */
const NONE = -1

/**
 * The device's half of a packed ring: virtio 1.4 §2.8.
 *
 * `at` is the next descriptor to fetch and `marks` what makes it available in its lap (§2.8.1); `usedAt` is where the
 * next used descriptor goes and `usedMarks` what it has in its lap. Between two calls: from `usedAt` to `at`, around the
 * ring, lie the descriptors of chains that were fetched and are not marked used. Of the used descriptors that were
 * written since the last `flush`, the first still has its old marks: a driver reads in order, so it sees none of them
 * before that one.
 */
export class PackedDeviceRing implements DeviceRing {
  copies = 0
  more = false
  unpublished = 0
  declare private readonly owner: RingOwner
  declare private readonly ringArea: RingArea
  declare private readonly driverArea: RingArea
  declare private readonly deviceArea: RingArea
  private size = 1
  private eventIndex = false
  private batchUsed = false
  private attached = false

  private at = 0
  private marks = AVAILABLE_MARK
  private usedAt = 0
  private usedMarks = MARKS
  // By id: descriptors of a chain that was fetched and is not marked used. 0: there is none.
  private counts: Uint16Array = new Uint16Array(0)
  // Descriptors of all of them.
  private taken = 0

  // The first used descriptor since the last flush: where it stands, and its id and marks, which are stored last.
  private heldAt = NONE
  private held = 0
  // Descriptors that were passed since then, and where used ones were written.
  private passed = 0
  private written: Uint16Array = new Uint16Array(0)
  // Where the last used descriptor stands and its marks; a later one of the same batch may take its place.
  private slotAt = 0
  private slotMarks = MARKS
  private replaceable = false
  // Nothing is known of what the driver was told before a restore, so it is told.
  private restored = false

  // Where descriptor `placed` is: of an area in pieces each has to be looked up.
  declare private region: Region
  private word = 0

  constructor(owner: RingOwner) {
    const nowhere = new Region(new ArrayBuffer(0), 'no ring')
    this.owner = owner
    this.region = nowhere
    this.ringArea = new RingArea(nowhere)
    this.driverArea = new RingArea(nowhere)
    this.deviceArea = new RingArea(nowhere)
  }

  start(setup: RingSetup): boolean {
    const { size } = setup
    this.size = size
    this.eventIndex = setup.eventIndex
    this.batchUsed = setup.inOrder && setup.batchUsed
    this.at = this.usedAt = this.slotAt = this.passed = this.unpublished = this.copies = 0
    this.marks = AVAILABLE_MARK
    this.usedMarks = this.slotMarks = MARKS
    this.heldAt = NONE
    this.replaceable = this.restored = false
    this.counts = new Uint16Array(size)
    this.written = new Uint16Array(size)
    this.taken = 0
    return true
  }

  attach({ areas, size }: RingSetup): boolean {
    this.attached = false
    const { deviceArea, driverArea, owner, ringArea } = this
    const bytes = descriptorRingBytes(size)
    const event = EVENT_SUPPRESSION_SIZE
    // What is read is written as well.
    this.attached =
      resolveArea(owner, ringArea, areas, AREA_DESC_LOW, bytes, DESCRIPTOR_RING_ALIGN, 4, ACCESS_READ) &&
      resolveArea(owner, ringArea, areas, AREA_DESC_LOW, bytes, DESCRIPTOR_RING_ALIGN, 4, ACCESS_WRITE) &&
      resolveArea(owner, driverArea, areas, AREA_DRIVER_LOW, event, EVENT_SUPPRESSION_ALIGN, 4, ACCESS_READ) &&
      resolveArea(owner, deviceArea, areas, AREA_DEVICE_LOW, event, EVENT_SUPPRESSION_ALIGN, 4, ACCESS_WRITE)
    if (this.attached) this.place(0)
    return this.attached
  }

  stop(): void {
    this.attached = false
    this.unpublished = this.passed = 0
    this.heldAt = NONE
  }

  get ready(): number {
    return this.update()
  }

  // A packed ring says nothing of how many there are.
  update(): number {
    if (!this.attached) return 0
    const word = this.place(this.at)
    if (this.region.meter !== null) this.region.meter.load(4, 1)
    return (this.region.loadSharedWord(word + 3) & MARKS) === this.marks ? 1 : 0
  }

  fetch(into: ChainTable, limit: number): number {
    if (!this.attached) return 0
    const { counts, owner, size } = this
    const { columns } = into
    let { words } = into
    let room = words.length / DESCRIPTOR
    let { at, marks } = this
    const start = at
    const before = into.segments
    let row = into.to * STRIDE
    let k = before
    let begin = k
    let n = 0
    let word = this.place(at)
    let { region } = this
    const scattered = this.ringArea.scattered
    const base = word - 4 * at
    // Descriptors that the device does not have. No driver may make more available.
    const left = size - this.taken - this.passed
    // First what says that they are available, and how long they are.
    while (n < limit) {
      if (scattered) {
        word = this.place(at)
        region = this.region
      } else word = base + (at << 2)
      const last = region.u32[word + 3]
      const flags = last >>> 16
      if (k === begin && (last & MARKS) !== marks) break
      if (k - before === left) {
        if (n === 0) owner.fail('chain-length', last & 0xffff, left + 1, left)
        break
      }
      // The first of a chain says that all of the chain is there.
      if (k === begin && (flags & ENDS) === F_NEXT) region.readBarrier()
      if (k === room) {
        into.reserve(k + 1)
        words = into.words
        room = words.length / DESCRIPTOR
      }
      words[(k * DESCRIPTOR + FLAGS) | 0] = flags & SHOWN
      k = (k + 1) | 0
      at = (at + 1) | 0
      if (at === size) {
        at = 0
        marks ^= MARKS
      }
      if ((flags & ENDS) === F_NEXT) continue
      const id = last & 0xffff
      // The id of the last descriptor is that of the chain (§2.8.6).
      if (id >= size || counts[id] !== 0) {
        if (n === 0) owner.fail('head', id, id, size)
        break
      }
      counts[id] = k - begin
      columns[row + ID] = id
      columns[row + FETCHED] = begin
      row = (row + STRIDE) | 0
      n = (n + 1) | 0
      begin = k
      this.at = at
      this.marks = marks
    }
    // Then what they say.
    if (n > 0) region.readBarrier()
    at = start
    for (k = before; k < begin; k++) {
      if (scattered) {
        word = this.place(at)
        region = this.region
      } else word = base + (at << 2)
      const { u32 } = region
      const to = k * DESCRIPTOR
      words[to] = u32[word]
      words[(to + 1) | 0] = u32[word + 1]
      words[(to + 2) | 0] = u32[word + 2]
      at = (at + 1) | 0
      if (at === size) at = 0
    }
    into.add(n, begin)
    this.taken += begin - before
    if (region.meter !== null) region.meter.load(4, 4 * (begin - before))
    return n
  }

  unfetch({ columns, next, to }: ChainTable): void {
    const { counts } = this
    for (let row = next; row < to; row++) {
      const id = columns[row * STRIDE + ID]
      this.at -= counts[id]
      this.taken -= counts[id]
      counts[id] = 0
    }
    if (this.at >= 0) return
    this.at += this.size
    this.marks ^= MARKS
  }

  fetchTable(area: RingArea, entries: number, head: number, into: ChainTable): number {
    const { owner, size } = this
    // All of the table is the chain, and its order is theirs (§2.8.7).
    if (entries > size) return owner.fail('chain-length', head, entries, size)
    const { u32 } = area.region
    const base = area.offset / 4
    const start = into.segments
    into.reserve(start + entries)
    const { words } = into
    for (let n = 0; n < entries; n++) {
      const at = base + 4 * n
      const to = (start + n) * DESCRIPTOR
      words[to] = u32[at]
      words[to + 1] = u32[at + 1]
      words[to + 2] = u32[at + 2]
      // Of the flags WRITE alone means something there.
      const flags = (u32[at + 3] >>> 16) & DESCRIPTOR_F_WRITE
      words[to + FLAGS] = n + 1 < entries ? flags | F_NEXT : flags
    }
    if (area.region.meter !== null) area.region.meter.load(4, 4 * entries)
    return entries
  }

  push(id: number, written: number, whole: boolean): void {
    const { counts, size } = this
    if (!this.replaceable) {
      this.slotAt = this.usedAt
      this.slotMarks = this.usedMarks
    }
    const word = this.place(this.slotAt)
    const { region } = this
    const { u32 } = region
    const last = id | this.slotMarks | (written > 0 ? WRITE_MARK : 0)
    u32[word + 2] = written
    if (this.heldAt === NONE || this.heldAt === this.slotAt) {
      this.heldAt = this.slotAt
      this.held = last
    } else u32[word + 3] = last
    if (region.meter !== null) region.meter.store(4, 2)
    this.written[this.unpublished] = this.slotAt
    const count = counts[id]
    counts[id] = 0
    this.taken -= count
    this.passed += count
    this.unpublished++
    this.usedAt += count
    if (this.usedAt >= size) {
      this.usedAt -= size
      this.usedMarks ^= MARKS
    }
    this.replaceable = whole && this.batchUsed
  }

  pushRows(chains: ChainTable, first: number, count: number, written: Int32Array): void {
    const { columns, row0 } = chains
    const { counts, ringArea, size, written: places } = this
    const base = this.place(this.usedAt) - 4 * this.usedAt
    const { region } = this
    const plain = !this.batchUsed && !ringArea.scattered
    let i = 0
    // The first one is held back.
    for (; i < count && (!plain || this.heldAt === NONE); i++) {
      const row = first + i
      this.push(chains.head(row), written[i], written[i] === chains.writable(row))
    }
    let { usedAt, usedMarks } = this
    const { u32 } = region
    let { passed } = this
    if (region.meter !== null) region.meter.store(4, 2 * (count - i))
    const before = passed
    for (; i < count; i++) {
      const id = columns[(row0 + first + i) * STRIDE + ID]
      const word = base + (usedAt << 2)
      const bytes = written[i]
      places[this.unpublished++] = usedAt
      u32[word + 2] = bytes
      u32[word + 3] = id | usedMarks | (bytes > 0 ? WRITE_MARK : 0)
      const descriptors = counts[id]
      counts[id] = 0
      passed = (passed + descriptors) | 0
      usedAt = (usedAt + descriptors) | 0
      if (usedAt >= size) {
        usedAt -= size
        usedMarks ^= MARKS
      }
    }
    this.taken -= passed - before
    this.passed = passed
    this.usedAt = usedAt
    this.usedMarks = usedMarks
  }

  flush(): boolean {
    const { eventIndex, heldAt, passed, size, usedAt, usedMarks } = this
    if (heldAt === NONE || !this.attached) return false
    const { offset, region: driver } = this.driverArea
    const word = this.place(heldAt)
    const { region } = this
    if (driver.u32.length === 0) driver.refresh()
    // All other used descriptors, then the one that shows them, then the question whether the driver wants to know.
    const answer = region.storeWordThenLoad(word + 3, this.held, driver, offset / 4)
    const used = this.unpublished
    this.heldAt = NONE
    this.passed = this.unpublished = 0
    this.replaceable = false
    if (region.meter !== null) region.meter.store(4, 1)
    if (driver.meter !== null) driver.meter.load(4, 1)
    const flags = answer >>> 16
    const { restored } = this
    this.restored = false
    if (region.onDeviceWrite !== null) this.reportUsed(used)
    if (restored) return true
    if (flags === RING_EVENT_FLAGS_DISABLE) return false
    const asked = answer & (PACKED_WRAP_COUNTER - 1)
    // What makes no sense is answered by a notification, which does no harm.
    if (flags !== RING_EVENT_FLAGS_DESCRIPTOR || !eventIndex || asked >= size) return true
    // Two laps make a circle. Was the descriptor at the event passed by those that were marked used?
    const event = (answer & PACKED_WRAP_COUNTER) === 0 ? asked + size : asked
    const now = usedMarks === MARKS ? usedAt : usedAt + size
    return (now - 1 - event + 2 * size) % (2 * size) < passed
  }

  // Last, as it runs foreign code, which may stop the queue. Of a list that a batch replaced, each place is told.
  private reportUsed(count: number): void {
    for (const at of this.written.slice(0, count)) {
      if (!this.attached) return
      const word = this.place(at)
      this.region.onDeviceWrite?.(4 * word + 8, 8)
    }
  }

  rearm(): boolean {
    // Without the event index the flags stay as they are, and the driver always notifies.
    if (!this.eventIndex || !this.attached) return false
    const { at, marks } = this
    const { offset, region: device } = this.deviceArea
    const word = this.place(at)
    const { region } = this
    if (device.u32.length === 0) device.refresh()
    const place = at | (marks === AVAILABLE_MARK ? PACKED_WRAP_COUNTER : 0)
    const event = place | (RING_EVENT_FLAGS_DESCRIPTOR << 16)
    const last = device.storeWordThenLoad(offset / 4, event, region, word + 3)
    if (device.meter !== null) device.meter.store(4, 1)
    if (device.onDeviceWrite !== null) device.onDeviceWrite(offset, 4)
    return this.attached && (last & MARKS) === marks
  }

  flushAndRearm(): boolean {
    const { port } = this.owner
    const { epoch } = port
    const wanted = this.flush()
    // Where who listens moved the ring, the device looks once more when it has found it.
    this.more = port.epoch !== epoch || this.rearm()
    return wanted
  }

  // Both places as offset and wrap counter. What was not published is published now, since a place says nothing of it.
  save(): RingPosition {
    if (this.heldAt !== NONE) this.flush()
    const used = this.usedAt | (this.usedMarks === MARKS ? PACKED_WRAP_COUNTER : 0)
    const next = this.at | (this.marks === AVAILABLE_MARK ? PACKED_WRAP_COUNTER : 0)
    return { next, used, published: used }
  }

  restore({ next, used }: RingPosition): void {
    this.at = next & (PACKED_WRAP_COUNTER - 1)
    this.marks = (next & PACKED_WRAP_COUNTER) === 0 ? MARKS ^ AVAILABLE_MARK : AVAILABLE_MARK
    this.usedAt = used & (PACKED_WRAP_COUNTER - 1)
    this.usedMarks = (used & PACKED_WRAP_COUNTER) === 0 ? 0 : MARKS
    this.restored = true
  }

  // Nothing in memory says where the used side stands; without anything in flight it is where the next chain is.
  get storedUsed(): number {
    return PACKED_WRAP_COUNTER
  }

  // Finds a descriptor: its first word in `region`. Descriptors are aligned, so none lies across two pieces of whole
  // pages.
  private place(index: number): number {
    const { ringArea } = this
    const byte = index * PACKED_DESCRIPTOR_SIZE
    if (!ringArea.scattered) {
      this.region = ringArea.region
      this.word = integer((ringArea.offset + byte) / 4)
    } else {
      const piece = ringArea.pieceAt(byte)
      this.region = piece.region
      this.word = integer((piece.offset + byte - piece.start) / 4)
    }
    if (this.region.u32.length === 0) this.region.refresh()
    return this.word
  }
}
