import { BusWindows } from '@guestdma/devices'
import { DMA_EXHAUSTED, DMA_FAILED, DMA_OK, DMA_TOO_LONG } from '@guestdma/dma'
import {
  FeatureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import { DriverQueue, QUEUE_FULL, SEGMENT_GUEST, type Virtqueue, type VirtqueueOptions } from '@guestdma/virtqueue'
import {
  BouncingBackend,
  BouncingSlots,
  CheckedBackend,
  FaultyBackend,
  PackedRingPeer,
  type PeerChain,
  type PeerSetup,
  type RingPeer,
  readBus,
  SplitRingPeer,
  TestMachine,
  writeBus,
} from '../../src/index.ts'
import { checkQueue } from './queue-invariants.ts'

/** One step: what to do, and two numbers that say to what. */
export type Step = readonly [kind: number, a: number, b: number]

interface Chain {
  id: number
  /** Segments as places in the arena, and what the readable ones held. */
  readonly segments: readonly { readonly at: number; readonly length: number; readonly writable: boolean }[]
  readonly sent: Uint8Array
  received: Uint8Array
  written: number
}

export interface ModelOptions {
  readonly size: number
  readonly inOrder: boolean
  readonly eventIndex: boolean
  readonly indirect: boolean
  readonly format: QueueFormat
}

/** Both halves of a queue. */
export interface QueueFormat {
  readonly features: readonly number[]
  readonly make: (options: VirtqueueOptions) => Virtqueue
  readonly makePeer: (setup: PeerSetup) => RingPeer
}

export const SPLIT: QueueFormat = {
  features: [],
  make: (options) => new DriverQueue(options),
  makePeer: (setup) => new SplitRingPeer(setup),
}

export const PACKED: QueueFormat = {
  features: [VIRTIO_F_RING_PACKED],
  make: (options) => new DriverQueue(options),
  makePeer: (setup) => new PackedRingPeer(setup),
}

const UNTOUCHED = 0x11
const SLOTS = 96

/** A queue and its peer, over bounce buffers, against lists of chains. Throws where they disagree. */
export class QueueModel {
  private readonly machine = new TestMachine({ ramBytes: 1 << 20, arenaBytes: 1 << 18 })
  private readonly slots = new BouncingSlots(SLOTS, 256)
  private readonly port = new BusWindows('dev0', [
    { base: 0x9_0000_0000, length: SLOTS * 256, region: this.slots.region },
  ])
  private readonly faulty = new FaultyBackend(new BouncingBackend(this.machine.memory, this.slots))
  private readonly backend = new CheckedBackend(this.faulty)
  private readonly queue: Virtqueue
  private readonly peer: RingPeer
  private readonly options: ModelOptions

  // The life of a chain: added, published, taken by the device, used, and reaped until it is recycled.
  private added: Chain[] = []
  private published: Chain[] = []
  private taken: { chain: Chain; seen: PeerChain }[] = []
  private used: Chain[] = []
  private reaped: Chain[] = []
  private areas: number[]
  private doorbells = 0
  private seed = 1

  constructor(options: ModelOptions) {
    this.options = options
    const { size, inOrder, eventIndex, indirect, format } = options
    const bits = [
      inOrder ? [VIRTIO_F_IN_ORDER] : [],
      eventIndex ? [VIRTIO_F_EVENT_IDX] : [],
      indirect ? [VIRTIO_F_INDIRECT_DESC] : [],
    ].flat()
    const features = FeatureSet.of(VIRTIO_F_VERSION_1, ...format.features, ...bits)
    this.queue = format.make({
      name: 'model',
      index: 0,
      size,
      backend: this.backend,
      features,
      doorbell: () => void this.doorbells++,
      indirect: { tables: 3, capacity: 6, from: 3 },
    })
    this.peer = format.makePeer({ port: this.port, size, areas: this.queue.areas, features })
    this.areas = Array.from({ length: size }, (_, i) => 4096 * i)
  }

  run(steps: readonly Step[]): void {
    for (const [kind, a, b] of steps) {
      if (kind < 6) this.add(a, b)
      else if (kind < 9) this.publish(b)
      else if (kind < 12) this.take(a)
      else if (kind < 15) this.use(a, b)
      else if (kind < 18) this.reap(a % 20)
      else if (kind === 18) this.recycle()
      else this.same(this.queue.arm(), this.used.length > 0, 'arm')
      this.check()
    }
    this.queue.dispose()
    this.backend.dispose()
  }

  private add(a: number, b: number): void {
    if (this.areas.length === 0) return
    const area = this.areas[0]
    const readable = a % 3
    const writable = readable === 0 ? 1 + (b % 3) : b % 3
    const count = readable + writable
    const segments = Array.from({ length: count }, (_, i) => ({
      at: area + 700 * i + ((a >>> 4) & 15),
      length: 1 + ((a * 31 + b * 7 + i * 101) % 500),
      writable: i >= readable,
    }))
    const { segments: rows, free } = this.queue
    const sent: number[] = []
    for (const [i, { at, length, writable: into }] of segments.entries()) {
      rows.address[i] = this.machine.arenaBase + at
      rows.length[i] = length
      rows.kind[i] = SEGMENT_GUEST
      for (let k = at; k < at + length; k++) this.machine.arena[k] = into ? UNTOUCHED : this.byte()
      if (!into) sent.push(...this.machine.arena.subarray(at, at + length))
    }
    this.faulty.failMap = b % 11 === 0 ? 1 + (a % 4) : 0
    const id = this.queue.add(readable, writable)
    const failing = b % 11 === 0
    this.faulty.failMap = 0
    if (id < 0) {
      if (count > this.queue.size) {
        this.same(id, DMA_TOO_LONG, 'add of a chain that can never fit')
        return
      }
      if (id === QUEUE_FULL && free >= count) throw new Error(`full with ${free} descriptors for ${count} segments`)
      if (id !== QUEUE_FULL && id !== DMA_EXHAUSTED) throw new Error(`add: ${id}`)
      this.same(this.queue.free, free, 'free after a refused add')
      if (id === DMA_EXHAUSTED && !failing && this.live() === 0) throw new Error('exhausted with nothing mapped')
      return
    }
    if (this.chains().some((chain) => chain.id === id)) throw new Error(`id ${id} is in use`)
    this.areas.shift()
    this.added.push({ id, segments, sent: Uint8Array.from(sent), received: new Uint8Array(0), written: 0 })
  }

  private publish(b: number): void {
    const before = this.doorbells
    this.faulty.failCommitMaps = b % 9 === 0 ? 1 : 0
    const status = this.queue.publish()
    const failed = b % 9 === 0 && this.added.length > 0
    this.faulty.failCommitMaps = 0
    this.same(status, failed ? DMA_FAILED : DMA_OK, 'publish')
    if (failed) {
      this.same(
        [...this.queue.undoneId.subarray(0, this.queue.undone)].join(),
        this.added.map(({ id }) => id).join(),
        'undone',
      )
      for (const chain of this.added) this.giveArea(chain)
    } else {
      if (!this.options.eventIndex) this.same(this.doorbells - before, this.added.length > 0 ? 1 : 0, 'doorbells')
      this.published.push(...this.added)
    }
    this.added = []
  }

  private take(a: number): void {
    for (let n = a % 4; n >= 0; n--) {
      const seen = this.peer.take()
      const chain = this.published.shift()
      this.same(seen?.id, chain?.id, 'the chain that the device takes')
      if (seen === null || chain === undefined) return
      const readable = seen.elements.filter(({ writable }) => !writable)
      const bytes = readable.flatMap(({ address, length }) => [...(readBus(this.port, address, length) ?? [])])
      this.same(bytes.join(), chain.sent.join(), 'what the device reads')
      this.taken.push({ chain, seen })
    }
  }

  private use(a: number, b: number): void {
    if (this.taken.length === 0) return
    if (this.options.inOrder) {
      const batch = this.taken.splice(0, 1 + (a % this.taken.length))
      const last = batch[batch.length - 1]
      // What is skipped was used completely.
      for (const { chain, seen } of batch.slice(0, -1)) this.write(chain, seen, Number.POSITIVE_INFINITY)
      const written = this.write(last.chain, last.seen, b % 900)
      this.peer.useBatch(last.chain.id, batch.length, written)
      this.used.push(...batch.map(({ chain }) => chain))
      return
    }
    const elements: { id: number; written: number }[] = []
    for (let n = a % 3; n >= 0 && this.taken.length > 0; n--) {
      const [{ chain, seen }] = this.taken.splice((a + n * 7) % this.taken.length, 1)
      elements.push({ id: chain.id, written: this.write(chain, seen, (b + n * 97) % 900) })
      this.used.push(chain)
    }
    this.peer.use(elements)
  }

  // The device writes the first `bytes` of a chain's writable elements, in their order.
  private write(chain: Chain, seen: PeerChain, bytes: number): number {
    const received: number[] = []
    for (const { address, length } of seen.elements.filter(({ writable }) => writable)) {
      const here = Math.min(length, bytes - received.length)
      const data = Uint8Array.from({ length: here }, () => this.byte())
      this.same(writeBus(this.port, address, data), here, 'bytes that the port lets through')
      received.push(...data)
    }
    chain.received = Uint8Array.from(received)
    chain.written = received.length
    return received.length
  }

  private reap(budget: number): void {
    for (const chain of this.reaped.splice(0)) this.giveArea(chain)
    const n = this.queue.reap(budget)
    if (n < Math.min(budget, this.used.length) || n > this.used.length || (n > budget && !this.options.inOrder))
      throw new Error(`reap(${budget}) of ${this.used.length}: ${n}`)
    for (let i = 0; i < n; i++) {
      const chain = this.used.shift() as Chain
      const { id, written, status } = this.queue.completed
      this.same([id[i], written[i], status[i]].join(), [chain.id, chain.written, DMA_OK].join(), 'completion')
      let left = chain.written
      let from = 0
      for (const { at, length, writable } of chain.segments) {
        if (!writable) continue
        const here = Math.min(left, length)
        const expected = new Uint8Array(length).fill(UNTOUCHED)
        expected.set(chain.received.subarray(from, from + here))
        this.same(this.machine.arena.subarray(at, at + length).join(), expected.join(), 'what arrived')
        left -= here
        from += here
      }
      this.reaped.push(chain)
    }
  }

  private recycle(): void {
    this.queue.recycle()
    for (const chain of this.reaped.splice(0)) this.giveArea(chain)
  }

  private check(): void {
    const { added, published, taken, used } = this
    if (this.queue instanceof DriverQueue) checkQueue(this.queue)
    this.same(this.queue.outstanding, published.length + taken.length + used.length, 'outstanding')
    this.same(this.queue.broken, null, 'broken')
    // Throws where the driver asks for interrupts in a way that is not allowed.
    this.peer.mustInterrupt()
    const mapped = [...added, ...published, ...taken.map(({ chain }) => chain), ...used].reduce(
      (sum, { segments }) => sum + segments.length,
      0,
    )
    this.same(this.live(), mapped, 'mappings')
    this.same(this.backend.uncommitted, 0, 'uncommitted unmaps')
    if (this.chains().length === 0) this.same(this.queue.free, this.queue.size, 'free')
  }

  private chains(): Chain[] {
    return [...this.added, ...this.published, ...this.taken.map(({ chain }) => chain), ...this.used, ...this.reaped]
  }

  private live(): number {
    return this.backend.liveMappings
  }

  private giveArea({ segments }: Chain): void {
    this.areas.push(Math.floor(segments[0].at / 4096) * 4096)
  }

  private byte(): number {
    this.seed = (this.seed % 239) + 1
    return this.seed + 16 === UNTOUCHED ? 0xfe : this.seed + 16
  }

  private same<T>(is: T, should: T, what: string): void {
    if (is !== should) throw new Error(`${what}: is ${is}, should be ${should}`)
  }
}
