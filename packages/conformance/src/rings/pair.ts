import { BusWindows } from '@guestdma/devices'
import { type DeviceRing, type RingOwner, RingWalker } from '@guestdma/devices/ring'
import { DirectBackend } from '@guestdma/dma'
import { type GuestAddress, GuestMemory, Region, SpanAllocator } from '@guestdma/memory'
import {
  FeatureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import { DriverQueue, type RingFormat, SEGMENT_GUEST } from '@guestdma/virtqueue'
import type { Check } from '../runner/test-functions.ts'

/** How two halves are put together. */
export interface PairOptions {
  readonly size: number
  readonly packed: boolean
  readonly driver: RingFormat | undefined
  readonly device: ((owner: RingOwner) => DeviceRing) | undefined
  readonly eventIndex: boolean
  readonly indirect: boolean
  readonly inOrder: boolean
}

const BASE = 0x4000_0000
const RAM = 4 << 20
/** Segments of one chain at most, and bytes of one of them. */
const SEGMENTS = 6
const BYTES = 48

/** What the device did with a chain that the driver has not got back yet. */
interface Lent {
  readonly serial: number
  readonly readable: number[]
  readonly writable: number[]
  written: number
}

/** Both halves of a queue over the same memory; each believes nothing of the other, and a judge compares. */
export class RingPair {
  readonly queue: DriverQueue
  readonly walker: RingWalker
  private readonly check: Check
  private readonly random: (below: number) => number
  private readonly bytes: Uint8Array
  private readonly arena: number
  private readonly lent = new Map<number, Lent>()
  private readonly taken: number[] = []
  private readonly inOrder: boolean
  private readonly scratch = new Region(new ArrayBuffer(SEGMENTS * BYTES), 'what the device wrote')
  private serial = 0
  private completed = 0

  constructor(check: Check, random: (below: number) => number, options: PairOptions) {
    const { device, driver, eventIndex, indirect, inOrder, packed, size } = options
    this.check = check
    this.random = random
    this.inOrder = inOrder
    const buffer = new ArrayBuffer(RAM)
    this.bytes = new Uint8Array(buffer)
    const memory = new GuestMemory([{ base: BASE, length: RAM, memory: buffer }])
    const ram = new SpanAllocator(BASE as GuestAddress, RAM)
    const features = [VIRTIO_F_VERSION_1]
    if (packed) features.push(VIRTIO_F_RING_PACKED)
    if (eventIndex) features.push(VIRTIO_F_EVENT_IDX)
    if (indirect) features.push(VIRTIO_F_INDIRECT_DESC)
    if (inOrder) features.push(VIRTIO_F_IN_ORDER)
    this.queue = new DriverQueue(
      {
        name: 'pair',
        index: 0,
        size,
        backend: new DirectBackend({ memory, ram }),
        features: FeatureSet.of(...features),
        doorbell: () => {},
        indirect: { tables: 4, capacity: SEGMENTS, from: 2 },
      },
      driver,
    )
    this.arena = ram.allocate(size * SEGMENTS * BYTES, 64)
    const port = new BusWindows('pair', [{ base: BASE, length: RAM, region: memory.regions[0] }])
    const formats = device === undefined ? {} : { [packed ? 'packed' : 'split']: device }
    this.walker = new RingWalker(size, port, formats)
    const { areas } = this.queue
    const started = this.walker.start(
      {
        size,
        areas: Uint32Array.of(areas.descriptor, 0, areas.driver, 0, areas.device, 0),
        packed,
        indirect,
        eventIndex,
        inOrder,
        batchUsed: inOrder,
      },
      size,
    )
    check('the device started', started, true)
  }

  /** The driver adds up to `most` chains, and publishes. */
  add(most: number): void {
    const { queue, random } = this
    const { segments } = queue
    let added = 0
    while (added < most && queue.free > 0) {
      const count = 1 + random(Math.min(SEGMENTS, queue.size))
      const readable = random(count + 1)
      const lengths = Array.from({ length: count }, () => 1 + random(BYTES))
      // The place of its bytes is the first free one, whatever its id will be.
      let place = 0
      while ([...this.lent.values()].some(({ serial }) => serial % queue.size === (this.serial + place) % queue.size))
        place++
      const serial = this.serial + place
      const at = this.arena + (serial % queue.size) * SEGMENTS * BYTES
      for (const [i, length] of lengths.entries()) {
        segments.kind[i] = SEGMENT_GUEST
        segments.address[i] = at + i * BYTES
        segments.length[i] = length
        this.bytes.fill(i < readable ? (serial + i) & 0xff : 0, at + i * BYTES - BASE, at + i * BYTES - BASE + length)
      }
      const id = queue.add(readable, count - readable)
      if (id < 0) break
      this.check('an id that is free', this.lent.has(id), false)
      this.serial = serial + 1
      this.lent.set(id, {
        serial,
        readable: lengths.slice(0, readable),
        writable: lengths.slice(readable),
        written: -1,
      })
      added++
    }
    this.check('publish', queue.publish(), 0)
  }

  /** The device takes up to `most` chains and looks at what is in them. */
  take(most: number): void {
    const { walker } = this
    walker.update()
    const rows = walker.takeBatch(Math.min(most, 32))
    for (let row = 0; row < rows; row++) {
      const id = walker.chains.head(row)
      const lent = this.lent.get(id) as Lent
      this.check('a chain that was lent', lent !== undefined && lent.written === -1, true)
      const readable = lent.readable.reduce((sum, length) => sum + length, 0)
      const writable = lent.writable.reduce((sum, length) => sum + length, 0)
      this.check('its bytes', [walker.chains.readable(row), walker.chains.writable(row)], [readable, writable])
      walker.chains.gather(row, 0, this.scratch, 0, readable)
      const expected = lent.readable.flatMap((length, i) => new Array<number>(length).fill((lent.serial + i) & 0xff))
      this.check('what the driver wrote', [...this.scratch.u8.subarray(0, readable)], expected)
      lent.written = this.random(2) === 0 ? writable : this.random(writable + 1)
      this.scratch.u8.fill((lent.serial ^ 0x55) & 0xff, 0, lent.written)
      walker.chains.scatter(row, 0, this.scratch, 0, lent.written)
      this.taken.push(id)
    }
    this.check('the device is content', walker.broken, null)
  }

  /** The device gives up to `most` chains back, in order or in any, and shows them. */
  give(most: number): void {
    for (let n = 0; n < most && this.taken.length > 0; n++) {
      const [id] = this.taken.splice(this.inOrder ? 0 : this.random(this.taken.length), 1)
      const { writable, written } = this.lent.get(id) as Lent
      this.walker.push(id, written, written === writable.reduce((sum, length) => sum + length, 0))
    }
    this.walker.flush()
  }

  /** The driver takes back what there is, and looks at it. */
  reap(): void {
    const { queue } = this
    for (let n = queue.reap(queue.size); n > 0; n = queue.reap(queue.size)) {
      for (let i = 0; i < n; i++) {
        const id = queue.completed.id[i]
        const lent = this.lent.get(id) as Lent
        this.check('a chain that was given back', lent !== undefined && lent.written >= 0, true)
        this.check('bytes written', queue.completed.written[i], lent.written)
        let left = lent.written
        const at = this.arena + (lent.serial % queue.size) * SEGMENTS * BYTES - BASE
        for (const [k, length] of lent.writable.entries()) {
          const from = at + (lent.readable.length + k) * BYTES
          const here = Math.min(left, length)
          const expected = [
            ...new Array<number>(here).fill((lent.serial ^ 0x55) & 0xff),
            ...new Array<number>(length - here).fill(0),
          ]
          this.check('what the device wrote', [...this.bytes.subarray(from, from + length)], expected)
          left -= here
        }
        this.lent.delete(id)
        this.completed++
      }
      queue.recycle()
    }
    this.check('the driver is content', queue.broken, null)
  }

  /** Until nothing is outstanding. Each chain came back once. */
  drain(): void {
    for (let rounds = 0; this.lent.size > 0 && rounds < 4 * this.queue.size + 8; rounds++) {
      this.take(32)
      this.give(this.taken.length)
      this.reap()
    }
    this.check(
      'outstanding, and free',
      [this.lent.size, this.queue.outstanding, this.queue.free],
      [0, 0, this.queue.size],
    )
    this.check('used without having been asked for', this.queue.hasUsed, false)
  }

  /** Chains that came back. */
  get done(): number {
    return this.completed
  }
}
