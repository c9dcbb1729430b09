// The device's half of both formats between any two of its stores and loads, with the driver's half at the other end.
import { everything } from '@guestdma/devices'
import { RingWalker } from '@guestdma/devices/ring'
import { DirectBackend, DMA_OK } from '@guestdma/dma'
import type { Region } from '@guestdma/memory'
import {
  FeatureSet,
  PACKED_DESCRIPTOR_FLAGS,
  PACKED_DESCRIPTOR_ID,
  PACKED_DESCRIPTOR_SIZE,
  USED_ELEMENT_SIZE,
  USED_INDEX,
  USED_RING,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import { DriverQueue, SEGMENT_GUEST } from '@guestdma/virtqueue'
import { describe, expect, test } from 'vitest'
import { SteppingMemory, TestMachine } from '../src/index.ts'

const SIZE = 8
const MARKS = 0x8080
const FORMATS = [
  ['split', false],
  ['packed', true],
] as const

interface RigOptions {
  readonly packed: boolean
  readonly features?: readonly number[]
  readonly batchUsed?: boolean
}

/** Both halves of a queue, and memory that steps. */
class Rig {
  readonly machine: TestMachine = new TestMachine({ ramBytes: 1 << 20, arenaBytes: 1 << 16 })
  readonly queue: DriverQueue
  readonly walker: RingWalker
  readonly stepping: SteppingMemory
  readonly packed: boolean
  /** Where an address is in memory. */
  readonly ram: (address: number) => number

  constructor({ packed, features = [], batchUsed = false }: RigOptions) {
    const { memory, ram } = this.machine
    this.packed = packed
    const agreed = FeatureSet.of(VIRTIO_F_VERSION_1, ...(packed ? [VIRTIO_F_RING_PACKED] : []), ...features)
    this.queue = new DriverQueue({
      name: 'stepped',
      index: 0,
      size: SIZE,
      backend: new DirectBackend({ memory, ram }),
      features: agreed,
      doorbell: () => {},
      indirect: { tables: 2, capacity: 8, from: 3 },
    })
    this.walker = new RingWalker(SIZE, everything(memory))
    const { descriptor, driver, device } = this.queue.areas
    const setup = {
      size: SIZE,
      areas: Uint32Array.of(descriptor, 0, driver, 0, device, 0),
      packed,
      indirect: agreed.has(VIRTIO_F_INDIRECT_DESC),
      eventIndex: agreed.has(VIRTIO_F_EVENT_IDX),
      inOrder: agreed.has(VIRTIO_F_IN_ORDER),
      batchUsed,
    }
    expect(this.walker.start(setup, SIZE)).toBe(true)
    const [range] = memory.ranges
    this.ram = (address) => address - range.base + range.offset
    this.stepping = new SteppingMemory(range.region)
  }

  get region(): Region {
    return this.stepping.region
  }

  /** Adds a chain of so many segments, the last of which the device may write, and returns its id. */
  add(count: number): number {
    const { segments } = this.queue
    for (let i = 0; i < count; i++) {
      segments.address[i] = this.machine.arenaBase + 4096 * i
      segments.length[i] = 16 + i
      segments.kind[i] = SEGMENT_GUEST
    }
    return this.queue.add(count - 1, 1)
  }

  /** All that is available goes into rows. Returns the ids. */
  take(): number[] {
    this.walker.update()
    const rows = this.walker.takeBatch(SIZE)
    return Array.from({ length: rows }, (_, row) => this.walker.chains.head(row))
  }

  /**
   * The ids that a driver would find now, by plain loads and the text alone. `seen`: used entries that it passed, in
   * descriptors of a packed ring, and how many each chain takes.
   */
  used(seen: number, counts: ReadonlyMap<number, number>): number[] {
    const { raw } = this.stepping
    const { descriptor, device } = this.queue.areas
    const ids: number[] = []
    if (!this.packed) {
      const used = this.ram(device)
      const index = raw.view.getUint16(used + USED_INDEX, true)
      for (let i = seen & 0xffff; i !== index; i = (i + 1) & 0xffff)
        ids.push(raw.view.getUint32(used + USED_RING + USED_ELEMENT_SIZE * (i % SIZE), true))
      return ids
    }
    for (let at = seen; ; ) {
      const entry = this.ram(descriptor) + PACKED_DESCRIPTOR_SIZE * (at % SIZE)
      const lap = Math.floor(at / SIZE) % 2 === 0 ? MARKS : 0
      if ((raw.view.getUint16(entry + PACKED_DESCRIPTOR_FLAGS, true) & MARKS) !== lap) return ids
      const id = raw.view.getUint16(entry + PACKED_DESCRIPTOR_ID, true)
      ids.push(id)
      at += counts.get(id) ?? SIZE
    }
  }
}

describe.each(FORMATS)('the device half of a %s ring', (_, packed) => {
  test('shows used chains together and whole, with the store of its flush, and not before (virtio 1.4 §2.7.8.2, §2.8.15)', () => {
    const rig = new Rig({ packed })
    const { queue, stepping, walker } = rig
    let passed = 0
    for (let round = 0; round < 40; round++) {
      const counts = new Map<number, number>()
      for (const count of [1, 2, 1 + (round % 3)]) counts.set(rig.add(count), count)
      expect(queue.publish()).toBe(DMA_OK)
      const ids = rig.take()
      expect(ids).toEqual([...counts.keys()])
      const order = round % 2 === 0 ? ids : ids.toReversed()
      // All rows at once, of which nothing was written.
      const together = round % 4 === 0
      const written = together ? 0 : 3
      const seen: string[] = []
      stepping.onStore = () => seen.push(rig.used(passed, counts).join())
      stepping.run(() => {
        if (together) walker.pushRows(0, order.length, new Int32Array(order.length).fill(written))
        else for (const id of order) walker.push(id, written, false)
      })
      expect([...new Set(seen)]).toEqual([''])
      seen.length = 0
      stepping.run(() => walker.flushAndRearm())
      stepping.onStore = null
      expect(seen.at(-1)).toBe(order.join())
      // From nothing to all in one step.
      expect([...new Set(seen)].filter((ids) => ids !== '')).toEqual([order.join()])
      passed += packed ? [...counts.values()].reduce((sum, count) => sum + count, 0) : order.length
      expect(queue.reap(SIZE)).toBe(order.length)
      expect([...queue.completed.written.subarray(0, order.length)]).toEqual(order.map(() => written))
      queue.recycle()
    }
  })

  test('loads each word of a chain once, tables included, and its event fields once for each decision', () => {
    const features = [VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX]
    const rig = new Rig({ packed, features })
    const { queue, stepping, walker } = rig
    const twice: string[] = []
    const once = (what: string, body: () => void): void => {
      stepping.onLoad = (offset, bytes, nth) => {
        if (nth > 1) twice.push(`${what}: ${bytes} bytes at ${offset}`)
      }
      stepping.run(body)
      stepping.onLoad = null
    }
    for (let round = 0; round < 40; round++) {
      const ids = [1, 2, 4].map((count) => rig.add(count))
      queue.publish()
      walker.update()
      let rows = 0
      // A packed ring says only at its descriptors whether there are any, so the first word is a hint of `update` before.
      once('take', () => {
        rows = walker.takeBatch(3)
      })
      expect(rows).toBe(3)
      expect([0, 1, 2].map((row) => walker.chains.end(row) - walker.chains.first(row))).toEqual([1, 2, 4])
      for (const id of ids) walker.push(id, 0, false)
      once('flush', () => void walker.flush())
      once('rearm', () => void walker.rearm())
      once('update', () => void walker.update())
      queue.reap(SIZE)
      queue.recycle()
    }
    expect(twice).toEqual([])
  })

  test('acts on what it loaded: words that the driver changes after that change nothing', () => {
    const rig = new Rig({ packed, features: [VIRTIO_F_INDIRECT_DESC] })
    const { queue, stepping, walker } = rig
    for (let round = 0; round < 40; round++) {
      for (const count of [1, 2, 4]) rig.add(count)
      queue.publish()
      walker.update()
      // What was loaded is all ones from then on: flags, addresses, lengths, ids and indices that cannot be.
      stepping.onLoad = (offset, bytes, nth) => void (nth > 1 && stepping.raw.u8.fill(0xff, offset, offset + bytes))
      const ids = stepping.run(() => {
        const rows = walker.takeBatch(SIZE)
        return Array.from({ length: rows }, (_, row) => walker.chains.head(row))
      })
      stepping.onLoad = null
      expect(ids).toHaveLength(3)
      const { chains } = walker
      const lengths = [0, 1, 2].map((row) => [chains.readable(row), chains.writable(row)])
      expect(lengths).toEqual([
        [0, 16],
        [16, 17],
        [16 + 17 + 18, 19],
      ])
      for (const id of ids) walker.push(id, 1, false)
      walker.flush()
      expect(queue.reap(SIZE)).toBe(3)
      queue.recycle()
    }
    expect([walker.broken, queue.broken]).toEqual([null, null])
  })

  test('flags that flip while a batch is fetched: a chain is taken whole as it was, or not at all', () => {
    for (let step = 1; step < 40; step++) {
      const rig = new Rig({ packed })
      const { queue, stepping, walker } = rig
      rig.add(1)
      rig.add(3)
      queue.publish()
      const { descriptor } = queue.areas
      const table = descriptor - rig.machine.memory.ranges[0].base + rig.machine.memory.ranges[0].offset
      let loads = 0
      // At one moment all flags of the ring turn over: NEXT, WRITE, INDIRECT and the marks.
      stepping.onLoad = () => {
        if (++loads !== step) return
        const flags = packed ? PACKED_DESCRIPTOR_FLAGS : 12
        for (let i = 0; i < SIZE; i++) stepping.raw.u8[table + 16 * i + flags] ^= 0xff
      }
      const rows = stepping.run(() => {
        walker.update()
        return walker.takeBatch(SIZE)
      })
      stepping.onLoad = null
      // Every row is inside of memory that it was given, and bounded; the queue is whole or says why not.
      expect(rows).toBeLessThanOrEqual(SIZE)
      for (let row = 0; row < rows; row++) {
        const { chains } = walker
        const segments = chains.end(row) - chains.first(row)
        expect(segments).toBeLessThanOrEqual(SIZE)
        expect(chains.write(row)).toBeGreaterThanOrEqual(chains.first(row))
      }
      if (walker.broken !== null) expect(walker.update()).toBe(0)
    }
  })

  test('loads no more descriptors than the queue has, in however many circles they link each other', () => {
    const rig = new Rig({ packed })
    const { areas } = rig.queue
    const { view } = rig.stepping.raw
    for (let i = 0; i < SIZE; i++) {
      const at = rig.ram(areas.descriptor) + 16 * i
      view.setUint32(at, rig.machine.arenaBase, true)
      view.setUint32(at + 8, 1, true)
      view.setUint16(at + (packed ? PACKED_DESCRIPTOR_FLAGS : 12), packed ? 0x81 : 1, true)
      if (!packed) view.setUint16(at + 14, (i + 1) % SIZE, true)
    }
    if (!packed) view.setUint16(rig.ram(areas.driver) + 2, 1, true)
    let loads = 0
    rig.stepping.onLoad = () => void loads++
    rig.stepping.run(() => expect(rig.take()).toEqual([]))
    expect(rig.walker.broken).toBe('chain-length')
    // Four words each, and those that say that there is something.
    expect(loads).toBeLessThanOrEqual(4 * SIZE + 4)
  })

  test('looks again behind the store of its event field: what came before that is found (virtio 1.4 §2.7.10, §2.8.22)', () => {
    const rig = new Rig({ packed, features: [VIRTIO_F_EVENT_IDX] })
    const { queue, stepping, walker } = rig
    const found: boolean[] = []
    for (let round = 0; round < 40; round++) {
      const id = rig.add(1)
      queue.publish()
      expect(rig.take()).toEqual([id])
      walker.push(id, 0, true)
      let added = -1
      // The driver publishes right before a store of the device's becomes visible, which only the last one's barrier is behind.
      let stores = 0
      stepping.onStore = () => {
        if (++stores === 1 + (round % 2)) {
          added = rig.add(1)
          queue.publish()
        }
      }
      stepping.run(() => walker.flushAndRearm())
      stepping.onStore = null
      found.push(walker.more)
      expect(added).toBeGreaterThanOrEqual(0)
      expect(rig.take()).toEqual([added])
      walker.push(added, 0, true)
      walker.flush()
      queue.reap(SIZE)
      queue.recycle()
    }
    // Whatever came before the last barrier.
    expect(new Set(found)).toEqual(new Set([true]))
  })

  test('in order, one used element for a batch is replaced in place until it is published', () => {
    const rig = new Rig({ packed, features: [VIRTIO_F_IN_ORDER], batchUsed: true })
    const { queue, walker } = rig
    for (let round = 0; round < 40; round++) {
      const ids = [1, 2, 1].map((count) => rig.add(count))
      queue.publish()
      expect(rig.take()).toEqual(ids)
      // One that was not written completely has a length to tell, and is not left out.
      const whole = round % 2 === 0
      walker.push(ids[0], whole ? 16 : 3, whole)
      walker.push(ids[1], 17, true)
      walker.flush()
      walker.push(ids[2], 5, false)
      expect(queue.reap(SIZE)).toBe(2)
      expect([...queue.completed.written.subarray(0, 2)]).toEqual([whole ? 16 : 3, 17])
      queue.recycle()
      walker.flush()
      expect([queue.reap(SIZE), queue.completed.written[0]]).toEqual([1, 5])
      queue.recycle()
    }
    expect([walker.broken, queue.broken]).toEqual([null, null])
  })
})

// The marks of a descriptor say that its other words are there. A processor may load those first, unless a barrier lies
// between: on x86 none does, and so no history of the explorer shows it.
describe('a packed ring: what marks speak of is loaded behind a barrier that is behind them (virtio 1.4 §2.8.21.1)', () => {
  /** The ring's words in the order in which they are loaded, as `marks 2` and `words 2`, and barriers. */
  function loads(rig: Rig, body: () => void): string[] {
    const { region, stepping, queue } = rig
    const from = rig.ram(queue.areas.descriptor)
    const events: string[] = []
    stepping.onLoad = (offset) => {
      const entry = Math.floor((offset - from) / PACKED_DESCRIPTOR_SIZE)
      if (entry < 0 || entry >= SIZE) return
      events.push(`${(offset - from) % PACKED_DESCRIPTOR_SIZE === 12 ? 'marks' : 'words'} ${entry}`)
    }
    region.readBarrier = () => void events.push('barrier')
    stepping.run(body)
    stepping.onLoad = null
    Reflect.deleteProperty(region, 'readBarrier')
    return events
  }

  // Where words are loaded with no barrier since marks were.
  const early = (events: readonly string[]): string[] => {
    let behind = true
    return events.filter((event) => {
      if (event === 'barrier') behind = true
      else if (event.startsWith('marks')) behind = false
      return event.startsWith('words') && !behind
    })
  }

  test('of available descriptors, and of the first one of a list', () => {
    const rig = new Rig({ packed: true })
    const { queue, walker } = rig
    for (let round = 0; round < 20; round++) {
      const ids = [1, 3].map((count) => rig.add(count))
      queue.publish()
      walker.update()
      const events = loads(rig, () => expect(walker.takeBatch(SIZE)).toBe(2))
      expect(early(events)).toEqual([])
      // The list begins at the second descriptor.
      const first = events.indexOf(`marks ${(4 * round + 1) % SIZE}`)
      expect(first).toBeGreaterThanOrEqual(0)
      expect(events.slice(first, first + 2)).toContain('barrier')
      for (const id of ids) walker.push(id, 1, false)
      walker.flush()
      const reaped = loads(rig, () => expect(queue.reap(SIZE)).toBe(2))
      expect(early(reaped)).toEqual([])
      // A buffer that is read next belongs to what the marks speak of as well.
      expect(reaped.slice(reaped.findLastIndex((event) => event.startsWith('marks')))).toContain('barrier')
      queue.recycle()
    }
  })
})
