import { DirectBackend, DMA_OK } from '@guestdma/dma'
import { GuestMemory, guestAddress, Meter, SpanAllocator } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_EVENT_IDX } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import { DriverQueue, SEGMENT_GUEST } from '../src/index.ts'

// What a queue has to do is in the conformance suite; here is what needs neither its doubles nor a device.
const PAGE = 65_536

function queueOver(
  ram: WebAssembly.Memory,
  features = FeatureSet.empty,
): { queue: DriverQueue; memory: GuestMemory; bells: number[] } {
  const memory = new GuestMemory([{ base: 0, length: PAGE, memory: ram }])
  const backend = new DirectBackend({ memory, ram: new SpanAllocator(guestAddress(0), PAGE / 2) })
  const bells: number[] = []
  const queue = new DriverQueue({
    name: 'q',
    index: 0,
    size: 8,
    backend,
    features,
    doorbell: (_, position) => bells.push(position),
  })
  return { queue, memory, bells }
}

function add(queue: DriverQueue, address: number): number {
  queue.segments.address[0] = address
  queue.segments.length[0] = 16
  queue.segments.kind[0] = SEGMENT_GUEST
  return queue.add(1, 0)
}

// Device address and guest address are the same here, and a guest address is the offset in the memory.
const descriptorAddress = (queue: DriverQueue, ram: WebAssembly.Memory, id: number): number =>
  new DataView(ram.buffer).getUint32(queue.areas.descriptor + 16 * id, true)
const available = (queue: DriverQueue, ram: WebAssembly.Memory): number[] => [
  ...new Uint16Array(ram.buffer, queue.areas.driver, 12),
]

describe('a WebAssembly.Memory may grow between any two calls (ring/publication)', () => {
  test('between two adds of a batch: the second descriptor is there as well', () => {
    const ram = new WebAssembly.Memory({ initial: 1, maximum: 10 })
    const { queue } = queueOver(ram)
    const first = add(queue, 40_000)
    ram.grow(1)
    const second = add(queue, 50_000)
    expect(queue.publish()).toBe(DMA_OK)
    expect([descriptorAddress(queue, ram, first), descriptorAddress(queue, ram, second)]).toEqual([40_000, 50_000])
    expect(available(queue, ram).slice(1, 4)).toEqual([2, first, second])
  })

  test('between two calls of addEach', () => {
    const ram = new WebAssembly.Memory({ initial: 1, maximum: 10 })
    const { queue } = queueOver(ram)
    const ids: number[] = []
    for (const address of [40_000, 50_000]) {
      expect(queue.addEach(1, Float64Array.of(address), Uint32Array.of(16), 0, SEGMENT_GUEST, true)).toBe(1)
      ids.push(queue.added[0])
      ram.grow(1)
    }
    expect(queue.publish()).toBe(DMA_OK)
    expect(ids.map((id) => descriptorAddress(queue, ram, id))).toEqual([40_000, 50_000])
    expect(available(queue, ram)[1]).toBe(2)
  })

  test('between add and publish, before reap, and before arm and disarm', () => {
    const ram = new WebAssembly.Memory({ initial: 1, maximum: 10 })
    const { queue, bells } = queueOver(ram)
    const id = add(queue, 40_000)
    ram.grow(1)
    queue.publish()
    expect([available(queue, ram)[1], bells]).toEqual([1, [1]])
    ram.grow(1)
    queue.disarm()
    expect(available(queue, ram)[0]).toBe(1)
    ram.grow(1)
    expect(queue.arm()).toBe(false)
    expect(available(queue, ram)[0]).toBe(0)
    const used = new DataView(ram.buffer, queue.areas.device)
    used.setUint32(4, id, true)
    used.setUint16(2, 1, true)
    ram.grow(1)
    expect(queue.reap(8)).toBe(1)
    expect(queue.completed.id[0]).toBe(id)
  })

  test('before the suppression of the device is read', () => {
    const ram = new WebAssembly.Memory({ initial: 1, maximum: 10 })
    const { queue, bells } = queueOver(ram, FeatureSet.of(VIRTIO_F_EVENT_IDX))
    new DataView(ram.buffer).setUint16(queue.areas.device + 4 + 8 * 8, 5, true)
    add(queue, 40_000)
    ram.grow(1)
    queue.publish()
    expect(bells).toEqual([])
  })
})

describe('recycle', () => {
  test('gives back exactly what was completed, whatever a caller wrote into completed.id', () => {
    const ram = new WebAssembly.Memory({ initial: 1 })
    const { queue } = queueOver(ram)
    const ids = [add(queue, 40_000), add(queue, 40_100), add(queue, 40_200)]
    queue.publish()
    const used = new DataView(ram.buffer, queue.areas.device)
    for (const [i, id] of ids.entries()) used.setUint32(4 + 8 * i, id, true)
    used.setUint16(2, 3, true)
    expect(queue.reap(8)).toBe(3)
    queue.completed.id[1] = 7
    queue.recycle()
    expect(queue.free).toBe(8)
    const again = Array.from({ length: 8 }, (_, i) => add(queue, 40_000 + 100 * i))
    expect([...again].sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
  })
})

describe('areas', () => {
  test('are aligned, apart, and as long as virtio 1.4 §2.7 says (ring/geometry)', { tags: ['2.7.1/alignment'] }, () => {
    for (const size of [1, 2, 256, 2048]) {
      const memory = new GuestMemory([{ base: 0x10_0000, length: 1 << 20, memory: new ArrayBuffer(1 << 20) }])
      const backend = new DirectBackend({ memory, ram: new SpanAllocator(guestAddress(0x10_0002), (1 << 20) - 2) })
      const { areas } = new DriverQueue({
        name: 'q',
        index: 0,
        size,
        backend,
        features: FeatureSet.empty,
        doorbell: () => {},
      })
      expect([areas.descriptor % 16, areas.driver % 2, areas.device % 4]).toEqual([0, 0, 0])
      const spans = [
        [areas.descriptor, 16 * size],
        [areas.driver, 6 + 2 * size],
        [areas.device, 6 + 8 * size],
      ].sort((a, b) => a[0] - b[0])
      for (let i = 1; i < 3; i++) expect(spans[i - 1][0] + spans[i - 1][1]).toBeLessThanOrEqual(spans[i][0])
      // 4 bytes more than the areas have, so that the used ring begins at 4 modulo 8.
      expect(backend.counters.allocatedBytes).toBe(28 * size - 2 * size + 12 + 4)
    }
  })
})

describe('ring/memory: what the driver writes, and where', () => {
  const words = (ram: WebAssembly.Memory, at: number, count: number): number[] =>
    Array.from({ length: count }, (_, i) => new DataView(ram.buffer).getUint16(at + 2 * i, true))

  test('entries of exposed buffers stay as they are while others come and go (§3.3.1)', {
    tags: ['3.3.1/entries-stay'],
  }, () => {
    const ram = new WebAssembly.Memory({ initial: 1 })
    const { queue } = queueOver(ram)
    const exposed = add(queue, 40_000)
    queue.publish()
    const entry = (): number[] => [
      ...words(ram, queue.areas.descriptor + 16 * exposed, 8),
      ...words(ram, queue.areas.driver + 4, 1),
    ]
    const before = entry()
    const used = new DataView(ram.buffer, queue.areas.device)
    for (let n = 0; n < 7; n++) {
      const id = add(queue, 41_000 + 100 * n)
      queue.publish()
      expect(entry()).toEqual(before)
      used.setUint32(4 + 8 * n, id, true)
      used.setUint16(2, n + 1, true)
      expect(queue.reap(8)).toBe(1)
      queue.recycle()
      expect(entry()).toEqual(before)
    }
  })

  test("the used ring's flags begin as 0, whatever lay there (§2.7.10.1)", { tags: ['2.7.10.1/flags-start'] }, () => {
    const ram = new WebAssembly.Memory({ initial: 1 })
    new Uint8Array(ram.buffer).fill(0xff)
    const { queue } = queueOver(ram)
    expect(words(ram, queue.areas.device, 2)).toEqual([0, 0])
  })

  test('the flags of the available ring are 0 or 1, and 0 with EVENT_IDX (§2.7.7.1)', {
    tags: ['2.7.7.1/flags', '2.7.7.1/flags-zero'],
  }, () => {
    for (const [features, disarmed] of [
      [FeatureSet.empty, 1],
      [FeatureSet.of(VIRTIO_F_EVENT_IDX), 0],
    ] as const) {
      const ram = new WebAssembly.Memory({ initial: 1 })
      const { queue } = queueOver(ram, features)
      const flags = (): number => words(ram, queue.areas.driver, 1)[0]!
      for (let n = 0; n < 3; n++) {
        queue.arm()
        expect(flags()).toBe(0)
        queue.disarm()
        expect(flags()).toBe(disarmed)
        add(queue, 40_000)
        queue.publish()
        expect(flags()).toBe(disarmed)
      }
    }
  })

  test('without EVENT_IDX the flags alone decide on doorbells, and avail_event is ignored (§2.7.10.1)', {
    tags: ['2.7.10.1/avail-event-ignored', '2.7.10.1/suppressed', '2.7.10.1/doorbell-by-flags'],
  }, () => {
    const ram = new WebAssembly.Memory({ initial: 1 })
    const { queue, bells } = queueOver(ram)
    const device = new DataView(ram.buffer, queue.areas.device)
    for (const [n, event] of [0, 1, 2, 77, 0xffff].entries()) {
      device.setUint16(4 + 8 * 8, event, true)
      device.setUint16(0, n % 2, true)
      bells.length = 0
      add(queue, 40_000)
      queue.publish()
      expect(bells.length).toBe(n % 2 === 0 ? 1 : 0)
    }
  })
})

describe('metering', () => {
  test('counts what the ring costs, once per batch', () => {
    const ram = new WebAssembly.Memory({ initial: 1 })
    const { queue, memory } = queueOver(ram)
    const meter = new Meter()
    memory.regions[0].meter = meter
    for (let i = 0; i < 3; i++) add(queue, 40_000)
    queue.publish()
    const { loads, stores } = meter.snapshot()
    // Three descriptors of four words, three ring entries and the index, and the device's flags.
    expect([stores[4], stores[2], loads[2]]).toEqual([12, 4, 1])
  })
})

describe('the used ring begins at 4 modulo 8 (virtio 1.4 §2.7: aligned to 4)', () => {
  test.each(Array.from({ length: 16 }, (_, i) => 2 ** i))(
    'so that no element of a queue of %d lies across two pages',
    (size) => {
      const bytes = 2 << 20
      const memory = new GuestMemory([{ base: 0, length: bytes, memory: new ArrayBuffer(bytes) }])
      const ram = new SpanAllocator(guestAddress(0), bytes)
      // What was allocated before does not matter.
      for (const before of [0, 1, 4, 12, 4090]) {
        if (before > 0) ram.allocate(before, 1)
        const backend = new DirectBackend({ memory, ram })
        const queue = new DriverQueue({
          name: 'q',
          index: 0,
          size,
          backend,
          features: FeatureSet.empty,
          doorbell: () => {},
        })
        const { device } = queue.areas
        expect(device % 8).toBe(4)
        const across = Array.from({ length: size }, (_, i) => device + 4 + 8 * i).filter(
          (at) => Math.floor(at / 4096) !== Math.floor((at + 7) / 4096),
        )
        expect(across).toEqual([])
        queue.dispose()
        expect(backend.counters.allocatedBytes).toBe(0)
      }
    },
  )
})
