// The device's half of a packed ring (virtio 1.4 §2.8), with a driver that writes every descriptor by hand.
import { STATUS_DEVICE_NEEDS_RESET, VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MRG_RXBUF } from '@guestdma/spec'
import { beforeEach, describe, expect, test } from 'vitest'
import {
  BlkDevice,
  type BlockRequest,
  BusWindows,
  everything,
  MemoryBlockStore,
  NetDevice,
  type QueueFaultReason,
} from '../src/index.ts'
import {
  driverOf,
  header,
  MAC,
  packet,
  RecordingLink,
  status,
  TRANSPORTS,
  type TransportName,
} from './support/devices.ts'
import { BASE, type Element, type GuestDriver, Line, OFFSET, pattern, Ram } from './support/guest.ts'
import { AVAILABLE, PackedRing, USED } from './support/packed-ring.ts'
import { checkRing } from './support/ring-invariants.ts'

const PACKED = VIRTIO_F_RING_PACKED
const INDIRECT = 28
const EVENT_INDEX = 29
const IN_ORDER = 35
const SIZES = [1, 2, 5, 8]

let ram: Ram
let line: Line
let link: RecordingLink
let device: NetDevice
let driver: GuestDriver
let rx: PackedRing
let tx: PackedRing

function boot(transport: TransportName, size: number, features: readonly number[] = [], queueSize = 16): void {
  ram = new Ram()
  line = new Line()
  link = new RecordingLink()
  const port = everything(ram.memory)
  device = new NetDevice({
    name: 'net0',
    port,
    mac: MAC,
    link,
    queueSize,
    offer: [PACKED, IN_ORDER],
    inOrderBatches: true,
  })
  driver = driverOf(device, transport, line)
  rx = new PackedRing(ram, size)
  tx = new PackedRing(ram, size)
  driver.start([rx, tx], PACKED, ...features)
}

function run(): void {
  driver.kick(1)
  while (device.poll(64) > 0);
  for (const { walker } of device.queues) checkRing(walker)
}

/** A frame whose header and bytes are cut into so many pieces. */
function cut(frame: Uint8Array, pieces: number): Element[] {
  const whole = packet(ram, frame)
  const step = Math.floor(whole.length / pieces)
  return Array.from({ length: pieces }, (_, i) => ({
    address: whole.address + i * step,
    length: i === pieces - 1 ? whole.length - i * step : step,
  }))
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  test.each(SIZES)(
    'takes chains of all lengths round and round, in a queue of %i',
    {
      tags: ['2.8.12/start-in-order', '2.8.12/write-in-order', '2.8.18/same-order'],
    },
    (size) => {
      boot(transport, size)
      const frames: Uint8Array[] = []
      for (let n = 0; n < 40; n++) {
        const pieces = 1 + (n % size)
        frames.push(pattern(60 + n, n))
        tx.offer(n % size, ...cut(frames[n], pieces))
        run()
        expect(tx.reap()).toEqual([[n % size, 0]])
      }
      expect(link.frames).toEqual(frames)
      expect(device.faults.count).toBe(0)
    },
  )

  test('uses a descriptor once its marks are those of its lap, and leaves it alone once it is used', {
    tags: ['2.8.15/available-first', '2.8.15/used-last'],
  }, () => {
    boot(transport, 2)
    const one = packet(ram, pattern(60))
    for (const marks of [0, USED, AVAILABLE | USED]) {
      tx.describe(0, one.address, one.length, 0, 0)
      ram.set16(tx.at(0) + 14, marks)
      run()
      expect([link.frames.length, ram.u16(tx.at(0) + 14)]).toEqual([0, marks])
    }
    tx.offer(0, one)
    run()
    const used = ram.get(tx.at(0), 16)
    tx.offer(1, packet(ram, pattern(61)))
    run()
    expect(link.frames).toHaveLength(2)
    expect(ram.get(tx.at(0), 16)).toEqual(used)
    // Now the marks of the first lap mean nothing.
    ram.set16(tx.at(0) + 14, AVAILABLE)
    run()
    expect(link.frames).toHaveLength(2)
  })

  test('fills receive buffers, says how much it wrote, and writes nothing that is to be read', {
    tags: ['2.8.15/directions'],
  }, () => {
    boot(transport, 5)
    const readable = packet(ram, pattern(60))
    const before = ram.get(readable.address, readable.length)
    tx.offer(3, readable)
    run()
    expect(ram.get(readable.address, readable.length)).toEqual(before)
    for (let lap = 0; lap < 4; lap++) {
      const buffers = [ram.alloc(12), ram.alloc(200), ram.alloc(2000)]
      const lengths = [12, 200, 2000]
      rx.offer(4, ...buffers.map((address, i) => ({ address, length: lengths[i], w: true })))
      driver.kick(0)
      expect(device.receive(pattern(300, lap))).toBe(true)
      device.poll(64)
      expect(rx.reap()).toEqual([[4, 312]])
      expect(ram.get(buffers[1], 200)).toEqual(pattern(300, lap).slice(0, 200))
      expect(ram.get(buffers[2], 100)).toEqual(pattern(300, lap).slice(200))
    }
    expect(device.faults.count).toBe(0)
  })

  test('reads indirect tables in their order, and counts them as one entry', () => {
    boot(transport, 3, [INDIRECT])
    for (let n = 0; n < 10; n++) {
      const frame = pattern(90, n)
      tx.offerTable(n % 3, ...cut(frame, 3))
      run()
      expect([tx.reap(), link.frames[n]]).toEqual([[[n % 3, 0]], frame])
    }
  })

  test('in order, one element stands for a batch', () => {
    boot(transport, 8, [IN_ORDER])
    for (let round = 0; round < 5; round++) {
      for (let n = 0; n < 3; n++) tx.offer(n, ...cut(pattern(60, n), 2))
      const first = tx.at(tx.seen)
      run()
      expect([ram.u16(first + 12), link.frames.length]).toEqual([2, 3 * (round + 1)])
      tx.seen += 6
    }
    expect(device.faults.count).toBe(0)
  })

  test('interrupts as it is told: always, never, at an entry', () => {
    boot(transport, 4, [EVENT_INDEX])
    const rises = (): number => {
      const before = line.rises
      driver.acknowledge()
      tx.offer(tx.next % 4, packet(ram, pattern(60)))
      run()
      tx.reap()
      return line.rises - before
    }
    expect(rises()).toBe(1)
    tx.event(1)
    expect([rises(), rises()]).toEqual([0, 0])
    for (let n = 0; n < 20; n++) {
      tx.event(2, tx.next + 1)
      expect([rises(), rises(), rises()]).toEqual([0, 1, 0])
    }
    // Nonsense is answered by an interrupt.
    ram.set16(tx.avail, 77)
    expect(rises()).toBe(1)
    ram.set16(tx.avail + 2, 3)
    expect(rises()).toBe(1)
  })

  test('asks for a doorbell at the entry that comes next', () => {
    boot(transport, 3, [EVENT_INDEX])
    for (let n = 0; n < 8; n++) {
      tx.offer(0, packet(ram, pattern(60)))
      run()
      tx.reap()
      expect([ram.u16(tx.used), ram.u16(tx.used + 2)]).toEqual([tx.place(tx.next), 2])
    }
  })

  describe('what breaks a ring', () => {
    const broken: readonly [string, QueueFaultReason, () => void][] = [
      ['an id beyond the queue', 'head', () => tx.offer(4, packet(ram, pattern(60)))],
      [
        'a list without an end',
        'chain-length',
        () => {
          const { address } = packet(ram, pattern(60))
          for (let entry = 3; entry >= 0; entry--) tx.describe(entry, address, 16, 0, 1)
        },
      ],
      [
        'a readable element behind a writable one',
        'order',
        () => tx.offer(0, { address: BASE, length: 1, w: true }, { address: BASE, length: 16 }),
      ],
      ['a buffer out of reach', 'buffer-unreachable', () => tx.offer(0, { address: 4096, length: 16 })],
      ['a table that was not agreed on', 'indirect-feature', () => tx.describe(0, BASE, 16, 0, 4)],
    ]

    test.each(broken)('%s', (_, reason, act) => {
      boot(transport, 4)
      act()
      run()
      expect(device.faults.last()).toContainEqual(expect.objectContaining({ kind: 'queue', queue: 1, reason }))
      expect(driver.status & STATUS_DEVICE_NEEDS_RESET).toBe(STATUS_DEVICE_NEEDS_RESET)
    })

    test.each(broken)('%s: until a reset, which brings it back', (_, __, act) => {
      boot(transport, 4)
      act()
      run()
      expect(device.poll(64)).toBe(0)
      // Nothing more is taken of a ring that cannot be trusted.
      tx.offer(1, packet(ram, pattern(60)))
      run()
      expect([link.frames.length, tx.reap()]).toEqual([0, []])
      rx = new PackedRing(ram, 4)
      tx = new PackedRing(ram, 4)
      driver.start([rx, tx], PACKED)
      expect(driver.status & STATUS_DEVICE_NEEDS_RESET).toBe(0)
      for (let n = 0; n < 9; n++) {
        tx.offer(n % 4, packet(ram, pattern(60, n)))
        run()
        expect([tx.reap(), link.frames.at(-1)]).toEqual([[[n % 4, 0]], pattern(60, n)])
      }
    })

    test('lengths whose sum is more than 2^32, and an end that wraps', () => {
      boot(transport, 4)
      // A port on which every address is answered, so that length alone decides.
      const port = device.port as BusWindows
      const { resolve } = port
      port.resolve = function (length) {
        this.request[3] = 0
        return length
      }
      const long = { address: BASE, length: 0x8000_0000 }
      tx.offer(0, long, long, long)
      run()
      port.resolve = resolve
      expect(device.faults.last()).toContainEqual(
        expect.objectContaining({ kind: 'queue', reason: 'chain-bytes', value: 3 * 2 ** 31, limit: 2 ** 32 }),
      )
      for (const [high, low, length] of [
        [0, 0xffff_fff0, 32],
        [0, BASE, 0xffff_ffff],
        [0x1f_ffff, 0xffff_fff0, 32],
        [0x20_0000, 0, 16],
        [0xffff_ffff, 0xffff_fff0, 32],
      ]) {
        boot(transport, 4)
        tx.offer(0, { address: BASE, length })
        ram.set32(tx.at(0), low)
        ram.set32(tx.at(0) + 4, high)
        run()
        expect(device.faults.last(), `${high} ${low}`).toContainEqual(
          expect.objectContaining({ kind: 'queue', reason: 'buffer-unreachable' }),
        )
      }
    })

    test.each([
      ['a table longer than the queue', 'chain-length', 16 * 5, 4],
      ['a table of no whole entries', 'indirect-length', 15, 4],
      ['a table that is linked to more', 'indirect-next', 16, 5],
    ] as const)('%s', (_, reason, length, flags) => {
      boot(transport, 4, [INDIRECT])
      tx.describe(0, ram.alloc(128), length, 0, flags)
      tx.describe(1, BASE, 16, 0, 0)
      run()
      expect(device.faults.last()).toContainEqual(expect.objectContaining({ kind: 'queue', reason }))
    })

    test('a good chain before a bad one is executed', () => {
      boot(transport, 4)
      tx.offer(0, packet(ram, pattern(60)))
      tx.offer(9, packet(ram, pattern(60)))
      run()
      expect([link.frames.length, tx.reap()]).toEqual([1, [[0, 0]]])
      expect(device.faults.count).toBeGreaterThan(0)
    })

    test('a size beyond what the device has', () => {
      boot(transport, 17, [], 16)
      expect(device.faults.count).toBeGreaterThan(0)
    })
  })
})

describe('a block device', () => {
  let pending: BlockRequest[]
  let disk: BlkDevice
  let ring: PackedRing

  class Later extends MemoryBlockStore {
    override read(request: BlockRequest): void {
      pending.push(request)
    }
  }
  const store = new Later(new Uint8Array(8192).map((_, i) => i >>> 9))

  function start(port: BusWindows = everything(ram.memory)): void {
    pending = []
    disk = new BlkDevice({ name: 'blk0', port, store, offer: [PACKED], queueSize: 16 })
    driver = driverOf(disk, 'mmio', new Line())
    ring = new PackedRing(ram, 7)
    driver.start([ring], PACKED)
  }

  function read(id: number): number {
    const data = ram.alloc(512)
    ring.offer(id, header(ram, 0, id % 16), { address: data, length: 512, w: true }, status(ram))
    driver.kick(0)
    disk.poll(64)
    return data
  }

  beforeEach(() => {
    ram = new Ram()
  })

  test('completes in any order, and each element stands where the last one ended', () => {
    start()
    for (let round = 0; round < 9; round++) {
      const data = [read(1), read(2)]
      for (const request of pending.splice(0).toReversed()) MemoryBlockStore.prototype.read.call(store, request)
      disk.poll(64)
      expect(ring.reap()).toEqual([
        [2, 513],
        [1, 513],
      ])
      expect(data.map((at) => ram.get(at, 1)[0])).toEqual([1, 2])
    }
  })

  test('an id that is with the device breaks the ring', () => {
    start()
    read(1)
    read(1)
    expect(disk.faults.last()).toContainEqual(expect.objectContaining({ kind: 'queue', reason: 'head', value: 1 }))
    expect(disk.live).toBe(false)
  })

  test('a request completes within as many polls as there are before it, whatever the budget', () => {
    for (const budget of [1, 2, 64]) {
      pending = []
      start()
      for (let round = 0; round < 9; round++) {
        const data = ram.alloc(512)
        for (const id of [0, 1])
          ring.offer(id, header(ram, 0, id), { address: data, length: 512, w: true }, status(ram))
        driver.kick(0)
        const used: number[] = []
        let polls = 0
        while (used.length < 2 && polls < 8) {
          polls++
          disk.poll(budget)
          for (const request of pending.splice(0)) MemoryBlockStore.prototype.read.call(store, request)
          used.push(...ring.reap().map(([id]) => id))
        }
        expect(used.toSorted()).toEqual([0, 1])
        expect(polls).toBeLessThanOrEqual(4)
      }
    }
  })

  test('is saved in the middle of a lap, and another one goes on', () => {
    start()
    for (let n = 0; n < 4; n++) {
      read(n)
      MemoryBlockStore.prototype.read.call(store, pending.pop() as BlockRequest)
      disk.poll(64)
      ring.reap()
    }
    const state = JSON.parse(JSON.stringify(disk.save()))
    expect(state.queues[0]).toMatchObject({ size: 7, next: 12 - 7, used: 5 })
    const before = ring
    start()
    ring = before
    disk.restore(state)
    disk.poll(64)
    read(5)
    MemoryBlockStore.prototype.read.call(store, pending[0])
    disk.poll(64)
    expect(ring.reap()).toEqual([[5, 513]])
    expect(() => disk.restore({ ...state, queues: [{ ...state.queues[0], next: 7, used: 7, published: 7 }] })).toThrow(
      expect.objectContaining({ code: 'DEVICE_STATE' }),
    )
  })

  test('works on a ring on scattered pages', () => {
    const page = 4096
    ram = new Ram(1 << 20)
    // Neighbouring pages of the device stand in the other order.
    const [region] = ram.memory.regions
    const windows = Array.from({ length: 256 }, (_, i) => {
      return { base: BASE + i * page, length: page, region, offset: OFFSET + (i ^ 1) * page }
    })
    const moved = ram.at.bind(ram)
    ram.at = (address) => moved(BASE + ((Math.floor((address - BASE) / page) ^ 1) * page + ((address - BASE) % page)))
    pending = []
    const port = new BusWindows('p', windows)
    disk = new BlkDevice({ name: 'blk0', port, store, offer: [PACKED], queueSize: 512 })
    driver = driverOf(disk, 'mmio', new Line())
    ring = new PackedRing(ram, 500)
    driver.start([ring], PACKED, EVENT_INDEX)
    for (let n = 0; n < 500; n++) {
      ram.alloc(0, 512)
      const data = read(n)
      MemoryBlockStore.prototype.read.call(store, pending.pop() as BlockRequest)
      disk.poll(64)
      expect(ring.reap()).toEqual([[n, 513]])
      expect(data).toBeGreaterThan(0)
    }
    expect(disk.faults.count).toBe(0)
  })
})

describe('what listens to writes of a packed ring', () => {
  beforeEach(() => boot('mmio', 8, [VIRTIO_NET_F_MRG_RXBUF]))

  /** Runs `act` at the first write of the device. */
  function atFirstWrite(act: () => void): void {
    ram.hook = () => {
      ram.hook = null
      act()
    }
  }

  test('may reset the device: no descriptor is written behind that', () => {
    for (let id = 0; id < 4; id++) tx.offer(id, packet(ram, pattern(60)))
    let ran = false
    atFirstWrite(() => {
      ran = true
      device.reset()
      ram.bytes.fill(0, ram.at(tx.desc), ram.at(tx.desc) + 16 * 8)
    })
    driver.kick(1)
    device.poll(64)
    expect([ran, ram.get(tx.desc, 128).some((byte) => byte !== 0)]).toEqual([true, false])
  })

  test('may reset the device in the middle of a frame: no buffer is written behind that', () => {
    const buffers = [0, 1, 2].map((id) => {
      const address = ram.alloc(100)
      rx.offer(id, { address, length: 100, w: true })
      return address
    })
    let ran = false
    atFirstWrite(() => {
      ran = true
      device.reset()
      for (const address of buffers) ram.bytes.fill(0, ram.at(address), ram.at(address) + 100)
    })
    driver.kick(0)
    device.receive(pattern(250))
    expect([ran, buffers.some((address) => ram.get(address, 100).some((byte) => byte !== 0))]).toEqual([true, false])
  })

  test('cannot have a frame delivered, and is told of each used descriptor once, when it is shown', () => {
    for (let id = 0; id < 3; id++) rx.offer(id, { address: ram.alloc(1600), length: 1600, w: true })
    const inRing = (): [number, number][] =>
      ram.writes
        .filter(([address]) => address >= rx.desc && address < rx.desc + 128)
        .map(([address, length]) => [(address - rx.desc) / 16, length])
    const answers = new Set<boolean>()
    ram.hook = () => answers.add(device.receive(pattern(61)))
    driver.kick(0)
    for (let i = 0; i < 2; i++) expect(device.receive(pattern(60))).toBe(true)
    expect([[...answers], inRing()]).toEqual([[false], []])
    ram.hook = null
    device.poll(64)
    expect(inRing()).toEqual([
      [0.5, 8],
      [1.5, 8],
    ])
    expect(rx.reap().map(([id]) => id)).toEqual([0, 1])
  })
})

test('a driver that makes more descriptors available than there are breaks its queue, and the device looks at none of them', () => {
  boot('mmio', 8, [VIRTIO_NET_F_MRG_RXBUF])
  const chain = (id: number, lap: number): void => {
    for (let i = 0; i < 8; i++) {
      rx.describe(i + 8 * lap, ram.alloc(4), 4, id, 2 | (i < 7 ? 1 : 0))
    }
  }
  chain(0, 0)
  driver.kick(0)
  expect(device.receive(pattern(200))).toBe(false)
  expect(device.queues[0].walker.broken).toBeNull()
  // The same places in the next lap, while the device still has them.
  chain(1, 1)
  expect(device.receive(pattern(200))).toBe(false)
  expect(device.queues[0].walker.broken).toBe('chain-length')
  checkRing(device.queues[0].walker)
})
