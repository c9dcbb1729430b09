import { BusWindows } from '@guestdma/devices'
import { type DeviceRing, type RingOwner, RingWalker } from '@guestdma/devices/ring'
import { DirectBackend } from '@guestdma/dma'
import { type GuestAddress, GuestMemory, SpanAllocator } from '@guestdma/memory'
import {
  AVAILABLE_FLAGS,
  AVAILABLE_INDEX,
  availableRingBytes,
  descriptorRingBytes,
  FeatureSet,
  USED_FLAGS,
  USED_INDEX,
  usedRingBytes,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import { DriverQueue, type Virtqueue, type VirtqueueOptions } from '@guestdma/virtqueue'
import { CheckError } from '../doubles/errors.ts'
import { deviceProgram, driverProgram, type History } from './programs.ts'
import { type BufferedStore, Side, type SideEvent } from './side.ts'

/**
 * The four places where a side stores a word and then looks at one of the other's: the driver publishes chains and arms
 * its interrupt, the device flushes used elements and re-arms the doorbell.
 */
export type Barrier = 'publish' | 'arm' | 'flush' | 'rearm'

export interface HandshakeOptions extends History {
  /** Entries of the queue. Small ones: the histories grow fast. */
  readonly size: number
  readonly eventIndex: boolean
  /** Default: a split ring. */
  readonly packed?: boolean
  /**
   * Chains that went through the ring before the history begins. A few less than 65,536 has it cross the wrap of a split
   * ring's indices, and one less than the size that of a packed ring. Default 0.
   */
  readonly start?: number
  /** A barrier that is taken out: its store may become visible later than the load behind it. */
  readonly without?: Barrier
  /** Makes the driver's half. Default: a `DriverQueue`. */
  readonly make?: (options: VirtqueueOptions) => Virtqueue
  /** Makes the ring of the device's half. Default: the library's. */
  readonly device?: (owner: RingOwner) => DeviceRing
}

export interface HandshakeReport {
  /** Distinct states that were reached. */
  readonly states: number
  /**
   * A history after which both sides sleep although something is outstanding, as its steps; `null` where there is
   * none.
   */
  readonly lost: readonly string[] | null
}

/**
 * Runs the driver's half and the device's half of a queue against each other in every order that a machine with store
 * buffers allows (x86-TSO), and looks for one in which both go to sleep with work left.
 *
 * Each side has a buffer: a plain store goes there and becomes visible later, in order; a load sees the side's own
 * buffer first and may thus overtake the side's earlier stores; an atomic store, a doorbell and an interrupt empty it.
 * All loads, atomic stores and signals are interleaved. Plain stores are not a choice of their own: they become visible
 * as late as they can, which is with the next atomic store, and a load that would have seen one of them early or late
 * is an error, so that no other moment could make a difference.
 *
 * In a packed ring a descriptor says itself whether it is available or used. So each side may store the marks of one by
 * a plain store as long as the other side does not look at it yet; that it does not is checked at each load.
 *
 * @throws CheckError `CHECK_UNPUBLISHED` where a side loads what the other has not published yet; `CHECK_PLAIN_STORE`
 *   where it stores an index or an event field otherwise than by the methods of `Region` for that
 */
export function exploreHandshake(options: HandshakeOptions): HandshakeReport {
  return new Explorer(options).explore()
}

const DRIVER = 0
const DEVICE = 1
const NAMES = ['driver', 'device'] as const

const BASE = 0x1000
const BYTES = 0x400

/** A history with more states than that is too large, or one of its sides never comes to rest. */
const MAX_STATES = 4_000_000

/** All that is the case at one moment. Indexed by side. Never changed once it was made. */
interface State {
  readonly answers: readonly [readonly number[], readonly number[]]
  /** Plain stores so far. */
  readonly stores: readonly [number, number]
  /** Stores that are not visible yet. */
  readonly buffers: readonly [readonly BufferedStore[], readonly BufferedStore[]]
  /** Signals that the side has not slept away yet. */
  readonly woken: readonly [boolean, boolean]
  readonly events: readonly [SideEvent, SideEvent]
  readonly memory: Uint8Array
  readonly step: string
  readonly before: State | null
}

class Explorer {
  private readonly sides: readonly [Side, Side]
  private readonly barrierAt: (side: number, offset: number) => Barrier | undefined
  private readonly without: Barrier | undefined
  private readonly first: State

  constructor({
    size,
    eventIndex,
    packed = false,
    start = 0,
    without,
    make,
    device: makeRing,
    ...history
  }: HandshakeOptions) {
    const buffer = new ArrayBuffer(BYTES)
    const barriers = new Map<number, Barrier>()
    const isShared = (offset: number): boolean => barriers.has(offset)
    let ringEnd = 0
    const driver = new Side('driver', buffer, isShared)
    const device = new Side('device', buffer, isShared)

    const memory = new GuestMemory([{ base: BASE, length: BYTES, memory: buffer }])
    const backend = new DirectBackend({ memory, ram: new SpanAllocator(BASE as GuestAddress, BYTES) })
    // The driver's half sees memory through its own side.
    const alloc = backend.alloc.bind(backend)
    backend.alloc = (...args) => ({ ...alloc(...args), region: driver.region })
    let rung = (): void => {}
    const queue = (make ?? ((wanted) => new DriverQueue(wanted)))({
      name: 'handshake',
      index: 0,
      size,
      backend,
      features: FeatureSet.of(
        VIRTIO_F_VERSION_1,
        ...(packed ? [VIRTIO_F_RING_PACKED] : []),
        ...(eventIndex ? [VIRTIO_F_EVENT_IDX] : []),
      ),
      doorbell: () => rung(),
    })
    const port = new BusWindows('handshake', [{ base: BASE, length: BYTES, region: device.region }])
    const formats = makeRing === undefined ? {} : { [packed ? 'packed' : 'split']: makeRing }
    const walker = new RingWalker(size, port, formats)
    const { areas } = queue
    walker.start(
      {
        size,
        areas: Uint32Array.of(areas.descriptor, 0, areas.driver, 0, areas.device, 0),
        packed,
        indirect: false,
        eventIndex,
        inOrder: false,
        batchUsed: false,
      },
      size,
    )
    const ring = areas.descriptor - BASE
    const available = areas.driver - BASE
    const used = areas.device - BASE
    if (packed) {
      ringEnd = ring + descriptorRingBytes(size)
      barriers.set(available, 'arm')
      barriers.set(used, 'rearm')
    } else {
      barriers.set(available + AVAILABLE_INDEX, 'publish')
      barriers.set(available + AVAILABLE_FLAGS, 'arm')
      barriers.set(available + availableRingBytes(size) - 2, 'arm')
      barriers.set(used + USED_INDEX, 'flush')
      barriers.set(used + USED_FLAGS, 'rearm')
      barriers.set(used + usedRingBytes(size) - 2, 'rearm')
    }
    // Both sides mark the descriptors of a packed ring.
    this.barrierAt = (side, offset) =>
      offset >= ring && offset < ringEnd ? (side === DRIVER ? 'publish' : 'flush') : barriers.get(offset)

    const payload = backend.alloc(8, 8, 1, 'payload').device
    turnAround(queue, walker, start, payload)
    driver.begin((turns) => {
      rung = turns.signal
      driverProgram(queue, history, payload)(turns)
    }, queue)
    device.begin(deviceProgram(walker, history), walker, port)
    this.sides = [driver, device]
    this.without = without
    this.first = this.begun(new Uint8Array(buffer).slice())
  }

  explore(): HandshakeReport {
    const seen = new Set<string>([keyOf(this.first)])
    const open: State[] = [this.first]
    for (let state = open.pop(); state !== undefined; state = open.pop()) {
      const next = this.successors(state)
      if (next.length === 0 && state.events[DRIVER].kind !== 'end') return { states: seen.size, lost: traceOf(state) }
      for (const successor of next) {
        const key = keyOf(successor)
        if (seen.has(key)) continue
        seen.add(key)
        open.push(successor)
        if (seen.size > MAX_STATES)
          throw new CheckError(
            'CHECK_STATES',
            'handshake',
            `there are more than ${MAX_STATES} states; pass a smaller history`,
          )
      }
    }
    return { states: seen.size, lost: null }
  }

  private begun(memory: Uint8Array): State {
    const driver = this.sides[DRIVER].run([], 0)
    const device = this.sides[DEVICE].run([], 0)
    return {
      answers: [[], []],
      stores: [driver.stores.length, device.stores.length],
      buffers: [driver.stores, device.stores],
      woken: [false, false],
      events: [driver.event, device.event],
      memory,
      step: '',
      before: null,
    }
  }

  private successors(state: State): State[] {
    const next: State[] = []
    // The driver is done: what the device still does is nobody's.
    if (state.events[DRIVER].kind === 'end') return next
    for (const side of [DRIVER, DEVICE]) {
      const event = state.events[side]
      if (event.kind !== 'end' && (event.kind !== 'sleep' || state.woken[side])) next.push(this.act(state, side, event))
      // Only a store whose barrier was taken out waits in the buffer by itself.
      const waits = state.buffers[side].findIndex(({ shared }) => shared)
      if (waits >= 0) next.push(this.drain(state, side, waits + 1))
    }
    return next
  }

  private act(state: State, side: number, event: SideEvent): State {
    const buffers = [...state.buffers] as [readonly BufferedStore[], readonly BufferedStore[]]
    const woken = [...state.woken] as [boolean, boolean]
    let memory = state.memory
    let answer = 0
    if (event.kind === 'load') {
      answer = this.load(state, side, event.offset, event.bytes)
    } else if (event.kind === 'store' && this.barrierAt(side, event.offset) === this.without) {
      buffers[side] = [...buffers[side], event]
    } else if (event.kind === 'store') {
      memory = written(memory, [...buffers[side], event])
      buffers[side] = []
    } else if (event.kind === 'signal') {
      memory = written(memory, buffers[side])
      buffers[side] = []
      woken[1 - side] = true
    } else if (event.kind === 'sleep') {
      woken[side] = false
    }
    const answers = [...state.answers] as [readonly number[], readonly number[]]
    const stores = [...state.stores] as [number, number]
    const events = [...state.events] as [SideEvent, SideEvent]
    answers[side] = [...answers[side], answer]
    const ran = this.sides[side].run(answers[side], stores[side])
    stores[side] += ran.stores.length
    buffers[side] = [...buffers[side], ...ran.stores]
    events[side] = ran.event
    const step = `${NAMES[side]}: ${this.describe(side, event, answer)}`
    return { answers, stores, buffers, woken, events, memory, step, before: state }
  }

  private drain(state: State, side: number, count: number): State {
    const buffers = [...state.buffers] as [readonly BufferedStore[], readonly BufferedStore[]]
    const memory = written(state.memory, buffers[side].slice(0, count))
    buffers[side] = buffers[side].slice(count)
    return { ...state, buffers, memory, step: `${NAMES[side]}: its store becomes visible`, before: state }
  }

  private load({ memory, buffers }: State, side: number, offset: number, bytes: number): number {
    const isUnpublished = (store: BufferedStore): boolean =>
      !store.shared && store.offset < offset + bytes && offset < store.offset + store.bytes
    if (buffers[1 - side].some(isUnpublished)) {
      throw new CheckError(
        'CHECK_UNPUBLISHED',
        NAMES[side],
        `it loads byte ${offset} before the ${NAMES[1 - side]} has published it`,
        { offset, bytes },
      )
    }
    const seen = written(memory, buffers[side])
    let value = 0
    for (let i = 0; i < bytes; i++) value += seen[offset + i] * 2 ** (8 * i)
    return value
  }

  private describe(side: number, event: SideEvent, answer: number): string {
    if (event.kind === 'load') return `loads ${this.barrierAt(1 - side, event.offset) ?? event.offset}: ${answer}`
    if (event.kind === 'store') return `${this.barrierAt(side, event.offset)} ${event.value}`
    return event.kind
  }
}

// Brings both halves to a position, with no interleaving.
function turnAround(queue: Virtqueue, walker: RingWalker, start: number, payload: number): void {
  const history: History = { direction: 'transmit', chains: start, batch: 1 }
  const device = deviceProgram(walker, history)
  const turns = { signal: () => {} }
  const stop = Symbol('the device has nothing left')
  driverProgram(
    queue,
    history,
    payload,
  )({
    ...turns,
    sleep: () => {
      let slept = false
      try {
        device({
          ...turns,
          sleep: () => {
            if (slept) throw stop
            slept = true
          },
        })
      } catch (error) {
        if (error !== stop) throw error
      }
    },
  })
}

function written(memory: Uint8Array, stores: readonly BufferedStore[]): Uint8Array {
  if (stores.length === 0) return memory
  const copy = memory.slice()
  for (const { offset, bytes, value } of stores) {
    for (let i = 0; i < bytes; i++) copy[offset + i] = Math.floor(value / 2 ** (8 * i)) & 0xff
  }
  return copy
}

// What a side was answered says where it stands and what it stored; what is visible of that, the buffers say.
function keyOf({ answers, buffers, woken }: State): string {
  return `${answers[DRIVER]}|${answers[DEVICE]}|${buffers[DRIVER].length},${buffers[DEVICE].length}|${woken}`
}

function traceOf(state: State): string[] {
  const steps: string[] = []
  for (let at: State | null = state; at?.before != null; at = at.before) steps.unshift(at.step)
  return steps
}
