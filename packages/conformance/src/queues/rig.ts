import { BusWindows } from '@guestdma/devices'
import { type DmaMappings, type DmaRegion, type DmaStatus, TO_DEVICE } from '@guestdma/dma'
import { FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import { SEGMENT_DEVICE, SEGMENT_GUEST, type Virtqueue, type VirtqueueOptions } from '@guestdma/virtqueue'
import { CheckedBackend } from '../doubles/checked-backend.ts'
import { CheckError } from '../doubles/errors.ts'
import { ExactBackend } from '../doubles/exact-backend.ts'
import { FaultyBackend } from '../doubles/faulty-backend.ts'
import { ForwardingBackend } from '../doubles/forwarding-backend.ts'
import { PackedRingPeer } from '../doubles/packed-ring-peer.ts'
import type { PeerChain, PeerSetup, RingPeer } from '../doubles/ring-peer.ts'
import { SplitRingPeer } from '../doubles/split-ring-peer.ts'
import { TestMachine } from '../doubles/test-machine.ts'
import type { Check, TestFunctions } from '../runner/test-functions.ts'

/** What {@link describeVirtqueue} may be told. */
export interface VirtqueueSuiteOptions {
  /** Heads the tests. Default `virtqueue`. */
  readonly name?: string
  /** Makes the device's half. Default: a `SplitRingPeer` or a `PackedRingPeer`, as the format says. */
  readonly makePeer?: (setup: PeerSetup) => RingPeer
  /** Feature bits that make the format: RING_PACKED, or none, which is the default. */
  readonly format?: readonly number[]
  /** Sizes that have to work. Default: the powers of two from 1 to 32768, and others in a packed ring. */
  readonly sizes?: readonly number[]
  /** Sizes that have to be refused. Default: 0, 65536 and others, and 3 in a split ring. */
  readonly badSizes?: readonly number[]
}

/** Is it a packed ring that is tested? */
export function isPacked({ format }: VirtqueueSuiteOptions): boolean {
  return format?.includes(VIRTIO_F_RING_PACKED) ?? false
}

/** What one test asks for. */
export interface QueueRigOptions extends Pick<VirtqueueOptions, 'longestChain' | 'standing' | 'indirect'> {
  readonly size?: number
  /** Beside VERSION_1 and the format's. */
  readonly features?: readonly number[]
  readonly maxMappingLength?: number
}

/** Remembers what each unmap was told. */
class Recorder extends ForwardingBackend {
  readonly unmaps: { readonly guest: number; readonly length: number; readonly written: number }[] = []

  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    this.unmaps.push({ guest: m.guest[row], length: m.length[row], written })
    return super.unmap(m, row, written)
  }
}

/** A queue over an exact IOMMU that can fail, watched by a checker, and its other side. */
export class QueueRig {
  readonly machine: TestMachine = new TestMachine({ ramBytes: 4 << 20 })
  readonly port: BusWindows = new BusWindows('dev0')
  readonly exact: ExactBackend
  readonly faulty: FaultyBackend
  /** What was unmapped so far: guest address, length, and the bytes that the queue said were written. */
  readonly unmaps: Recorder['unmaps']
  readonly backend: CheckedBackend
  readonly queue: Virtqueue
  peer: RingPeer
  /** The positions that the doorbell was rung with. */
  readonly doorbells: number[] = []
  private scratch: DmaRegion | undefined
  private readonly makePeer: () => RingPeer

  constructor(
    make: (options: VirtqueueOptions) => Virtqueue,
    suite: VirtqueueSuiteOptions,
    options: QueueRigOptions = {},
  ) {
    const { size = 8, features: bits = [], maxMappingLength, ...rest } = options
    const { memory, ram } = this.machine
    this.exact = new ExactBackend(
      { memory, ram, port: this.port },
      maxMappingLength === undefined ? {} : { maxMappingLength },
    )
    const recorder = new Recorder(this.exact)
    this.unmaps = recorder.unmaps
    this.faulty = new FaultyBackend(recorder)
    this.backend = new CheckedBackend(this.faulty)
    const features = FeatureSet.of(VIRTIO_F_VERSION_1, ...(suite.format ?? []), ...bits)
    const doorbell = (index: number, position: number): void => {
      if (index !== QUEUE_INDEX)
        throw new CheckError(
          'CHECK_DOORBELL',
          'test queue',
          `queue ${QUEUE_INDEX} rang the doorbell of queue ${index}`,
          {
            index,
          },
        )
      this.doorbells.push(position)
    }
    this.queue = make({
      name: 'test queue',
      index: QUEUE_INDEX,
      size,
      backend: this.backend,
      features,
      doorbell,
      ...rest,
    })
    const { areas } = this.queue
    const setup = { port: this.port, size, areas, features }
    this.makePeer = () =>
      suite.makePeer?.(setup) ?? (isPacked(suite) ? new PackedRingPeer(setup) : new SplitRingPeer(setup))
    this.peer = this.makePeer()
  }

  /** Resets the queue: its other side forgets all, and looks at it anew when it is enabled. */
  reset(): void {
    this.queue.reset()
    this.peer = this.makePeer()
  }

  /** Segment `i` lends arena[at .. at + length). */
  guest(i: number, at: number, length: number): void {
    const { segments } = this.queue
    segments.address[i] = this.machine.arenaBase + at
    segments.length[i] = length
    segments.kind[i] = SEGMENT_GUEST
  }

  /** Segment `i` is `length` bytes that both sides see, for tests that are not about mappings. */
  device(i: number, length = 16): void {
    this.scratch ??= this.backend.alloc(4096, 16, TO_DEVICE, 'payload')
    const { segments } = this.queue
    segments.address[i] = this.scratch.device
    segments.length[i] = length
    segments.kind[i] = SEGMENT_DEVICE
  }

  /** Adds a chain of one segment of guest memory, a kilobyte of the arena for each. Returns its id. */
  addOne(n: number, writable = false, length = 100): number {
    this.guest(0, 1024 * (n % 512), length)
    return this.queue.add(writable ? 0 : 1, writable ? 1 : 0)
  }

  /** Adds a chain that needs no mapping. */
  addPlain(): number {
    this.device(0)
    return this.queue.add(1, 0)
  }

  /** Takes all that is available. */
  takeAll(): PeerChain[] {
    const chains: PeerChain[] = []
    for (let chain = this.peer.take(); chain !== null; chain = this.peer.take()) chains.push(chain)
    return chains
  }

  /** The ids and lengths that the last `reap` delivered. */
  completions(count: number): { id: number; written: number; status: number }[] {
    const { id, written, status } = this.queue.completed
    return Array.from({ length: count }, (_, i) => ({ id: id[i], written: written[i], status: status[i] }))
  }

  /** Device address of arena[at]. */
  deviceAddress(at: number): number {
    return this.machine.arenaBase + at + this.exact.limits.maxDeviceAddress - (this.machine.memory.ranges[0].end - 1)
  }

  /** Disposes queue and backend; the checker throws where anything is left. */
  close(): void {
    if (this.scratch !== undefined) this.backend.free(this.scratch)
    this.queue.dispose()
    this.backend.dispose()
  }
}

/** Not 0, so that a queue which forgets its index is noticed. */
const QUEUE_INDEX = 3

/** What the parts of the suite get. */
export interface QueueSuite {
  readonly test: TestFunctions['test']
  readonly check: Check
  readonly options: VirtqueueSuiteOptions
  /** What only one format has is tested for that one. */
  readonly packed: boolean
  readonly make: (options: VirtqueueOptions) => Virtqueue
  /** A queue with its other side. */
  readonly rig: (options?: QueueRigOptions) => QueueRig
}
