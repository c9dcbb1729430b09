// One side of a ring in a thread of its own, for handshake.soak.ts.
import { workerData } from 'node:worker_threads'
import { BusWindows } from '@guestdma/devices'
import { RingWalker } from '@guestdma/devices/ring'
import { DirectBackend, TO_DEVICE } from '@guestdma/dma'
import { type GuestAddress, GuestMemory, Region, SpanAllocator } from '@guestdma/memory'
import {
  availableRingBytes,
  FeatureSet,
  usedRingBytes,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import { DriverQueue } from '@guestdma/virtqueue'
import { deviceProgram, driverProgram, type History } from '../../src/handshake/programs.ts'
import type { Turns } from '../../src/handshake/side.ts'

/** Words that the threads share beside the ring. */
export const CONTROL = {
  /** Signals to the driver and to the device so far, and how many of them each has slept away. */
  signals: 0,
  consumed: 2,
  asleep: 4,
  sleeps: 6,
  stop: 8,
  ready: 9,
  areas: 10,
  chains: 13,
  lost: 14,
  firstLoss: 15,
  words: 16,
} as const

export interface LitmusOptions extends History {
  readonly size: number
  readonly packed: boolean
  readonly eventIndex: boolean
  readonly seed: number
  /** `publish`, `arm`, `flush` or `rearm`: to see that the litmus loses chains where that barrier is missing. */
  readonly without: string | undefined
}

interface SideData {
  readonly side: 'driver' | 'device'
  readonly ram: SharedArrayBuffer
  readonly control: SharedArrayBuffer
  readonly options: LitmusOptions
}

const BASE = 0x1000
const DRIVER = 0
const DEVICE = 1
/** Both sides asleep for so long, with a chain outstanding: nobody will wake them. */
const PATIENCE_MS = 50
const STOPPED = Symbol('stopped')

function main({ side, ram, control, options }: SideData): void {
  const words = new Int32Array(control)
  const mine = side === 'driver' ? DRIVER : DEVICE
  let completed = (): number => 0
  let state = options.seed + mine
  const pause = (): void => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff
    // Mostly short, so that the sides stay close to each other and one goes to sleep while the other publishes.
    let spins = state % 97 === 0 ? (state >>> 8) % 4000 : (state >>> 8) % 60
    while (spins-- > 0) Math.imul(spins, state)
  }
  const signal = (): void => {
    Atomics.add(words, CONTROL.signals + 1 - mine, 1)
    Atomics.notify(words, CONTROL.signals + 1 - mine)
  }
  const isLost = (): boolean =>
    mine === DRIVER &&
    Atomics.load(words, CONTROL.asleep + DEVICE) === 1 &&
    Atomics.load(words, CONTROL.consumed + DEVICE) === Atomics.load(words, CONTROL.signals + DEVICE) &&
    Atomics.load(words, CONTROL.consumed + DRIVER) === Atomics.load(words, CONTROL.signals + DRIVER)
  const sleep = (): void => {
    for (;;) {
      if (words[CONTROL.stop] === 1) throw STOPPED
      const consumed = words[CONTROL.consumed + mine]
      const signals = Atomics.load(words, CONTROL.signals + mine)
      if (signals !== consumed) {
        Atomics.store(words, CONTROL.consumed + mine, signals)
        return
      }
      words[CONTROL.sleeps + mine]++
      // Asleep already: only a signal ends this. Waking a thread takes so long that the other side would hardly ever be at
      // work at the same time, so the sleep is a light one at first.
      for (let spins = 0; spins < 2000 && Atomics.load(words, CONTROL.signals + mine) === consumed; spins++);
      Atomics.store(words, CONTROL.asleep + mine, 1)
      const answer = Atomics.wait(words, CONTROL.signals + mine, consumed, PATIENCE_MS)
      if (answer === 'timed-out' && isLost()) {
        if (words[CONTROL.lost]++ === 0) words[CONTROL.firstLoss] = completed()
        // Both are woken, so that the next loss can be counted.
        Atomics.add(words, CONTROL.signals + DRIVER, 1)
        signal()
      }
      Atomics.store(words, CONTROL.asleep + mine, 0)
    }
  }
  const turns: Turns = { signal, sleep, pause }

  const memory = new GuestMemory([{ base: BASE, length: ram.byteLength, memory: ram }])
  const [region] = memory.regions
  let program: (turns: Turns) => void
  if (side === 'driver') {
    const backend = new DirectBackend({ memory, ram: new SpanAllocator(BASE as GuestAddress, ram.byteLength) })
    const features = FeatureSet.of(
      VIRTIO_F_VERSION_1,
      ...(options.packed ? [VIRTIO_F_RING_PACKED] : []),
      ...(options.eventIndex ? [VIRTIO_F_EVENT_IDX] : []),
    )
    const { size } = options
    const queue = new DriverQueue({ name: 'litmus', index: 0, size, backend, features, doorbell: signal })
    completed = () => queue.counters.completed
    const payload = backend.alloc(8, 8, TO_DEVICE, 'payload').device
    const { descriptor, driver, device } = queue.areas
    words.set([descriptor, driver, device], CONTROL.areas)
    Atomics.store(words, CONTROL.ready, 1)
    Atomics.notify(words, CONTROL.ready)
    program = driverProgram(queue, options, payload)
  } else {
    Atomics.wait(words, CONTROL.ready, 0)
    const walker = new RingWalker(
      options.size,
      new BusWindows('litmus', [{ base: BASE, length: ram.byteLength, region }]),
    )
    const [descriptor, driver, device] = words.subarray(CONTROL.areas)
    const areas = Uint32Array.of(descriptor, 0, driver, 0, device, 0)
    const { size, packed, eventIndex } = options
    walker.start({ size, areas, packed, indirect: false, eventIndex, inOrder: false, batchUsed: false }, size)
    program = deviceProgram(walker, options)
  }
  if (options.packed) takeOutOfPacked(region, side, options, words)
  else takeOut(region, options, words)
  try {
    program(turns)
  } catch (error) {
    if (error !== STOPPED) throw error
  }
  if (side === 'driver') words[CONTROL.chains] = completed()
}

// Replaces the barrier at one of the four places by a plain store and a plain load.
function takeOut(region: Region, { without, size }: LitmusOptions, words: Int32Array): void {
  if (without === undefined) return
  const available = words[CONTROL.areas + 1] - BASE
  const used = words[CONTROL.areas + 2] - BASE
  const places: Record<string, readonly number[]> = {
    publish: [available + 2],
    arm: [available, available + availableRingBytes(size) - 2],
    flush: [used + 2],
    rearm: [used, used + usedRingBytes(size) - 2],
  }
  const place = places[without]
  if (place === undefined) throw new Error(`there is no barrier '${without}'; there are ${Object.keys(places)}`)
  const [first, second = first] = place.map((offset) => offset / 2)
  region.storeThenLoad = (half, value, other, otherHalf) => {
    if (half !== first && half !== second)
      return Region.prototype.storeThenLoad.call(region, half, value, other, otherHalf)
    region.u16[half] = value
    return other.u16[otherHalf]
  }
}

// The same in a packed ring, where each side stores at two of the places: among the descriptors and in its event field.
function takeOutOfPacked(region: Region, side: SideData['side'], { without }: LitmusOptions, words: Int32Array): void {
  if (without === undefined) return
  const [marks, event] = side === 'driver' ? ['publish', 'arm'] : ['flush', 'rearm']
  const eventWord = (words[CONTROL.areas + (side === 'driver' ? 1 : 2)] - BASE) / 4
  region.storeWordThenLoad = (word, value, other, otherWord) => {
    if (without !== (word === eventWord ? event : marks))
      return Region.prototype.storeWordThenLoad.call(region, word, value, other, otherWord)
    region.u32[word] = value
    return other.u32[otherWord]
  }
}

if (workerData !== null && typeof workerData === 'object' && 'side' in workerData) main(workerData as SideData)
