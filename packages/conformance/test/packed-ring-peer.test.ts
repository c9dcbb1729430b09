import { BusWindows } from '@guestdma/devices'
import { GuestMemory, type Region } from '@guestdma/memory'
import {
  FeatureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
} from '@guestdma/spec'
import type { Virtqueue } from '@guestdma/virtqueue'
import { beforeEach, describe, expect, test } from 'vitest'
import { HostilePackedRing, PackedRingPeer, QueueRig, SteppingMemory } from '../src/index.ts'
import { rule } from './support/broken-rule.ts'
import { type NaiveChain, NaivePackedRing } from './support/naive-packed-ring.ts'
import { NaivePackedVirtqueue } from './support/naive-packed-virtqueue.ts'

const BASE = 0x1000
const DRIVER = 0x2000
const DEVICE = 0x3000
const TABLE = 0x4000
const BUFFER = 0x4800
const AREAS = { descriptor: BASE, driver: DRIVER, device: DEVICE } as unknown as Virtqueue['areas']

const NEXT = 1
const WRITE = 2
const INDIRECT = 4
const AVAILABLE = 0x80
const USED = 0x8000
const BOTH = AVAILABLE | USED

interface Raw {
  readonly address?: number
  readonly length?: number
  readonly id?: number
  readonly flags?: number
}

let region: Region
let port: BusWindows

beforeEach(() => {
  const memory = new GuestMemory([{ base: BASE, length: 0x4000, memory: new ArrayBuffer(0x4000) }])
  region = memory.regions[0]
  port = new BusWindows('dev0', [{ base: BASE, length: 0x4000, region }])
})

const features = (...bits: number[]): FeatureSet => FeatureSet.of(VIRTIO_F_RING_PACKED, ...bits)
const peerOf = (size: number, ...bits: number[]): PackedRingPeer =>
  new PackedRingPeer({ port, size, areas: AREAS, features: features(...bits) })

/** Descriptor `slot` of the ring, or of the table where `base` says so, as four fields. */
function put(slot: number, { address = BUFFER, length = 10, id = 0, flags = AVAILABLE }: Raw, base = BASE): void {
  const at = base - BASE + 16 * slot
  region.view.setBigUint64(at, BigInt(address), true)
  region.view.setUint32(at + 8, length, true)
  region.view.setUint16(at + 12, id, true)
  region.view.setUint16(at + 14, flags, true)
}

function get(slot: number): Required<Raw> {
  const at = 16 * slot
  const { view } = region
  return {
    address: Number(view.getBigUint64(at, true)),
    length: view.getUint32(at + 8, true),
    id: view.getUint16(at + 12, true),
    flags: view.getUint16(at + 14, true),
  }
}

function event(descriptor: number, flags: number, area = DRIVER): void {
  region.view.setUint16(area - BASE, descriptor, true)
  region.view.setUint16(area - BASE + 2, flags, true)
}

describe('PackedRingPeer takes what a driver may publish', () => {
  test('a list, whose id is in its last descriptor, readable elements first (virtio 1.4 §2.8.6)', () => {
    const peer = peerOf(4)
    put(0, { length: 10, id: 0xffff, flags: NEXT | AVAILABLE })
    put(1, { length: 20, id: 77, flags: NEXT | WRITE | AVAILABLE })
    put(2, { address: 2 ** 40 + 4, length: 30, id: 3, flags: WRITE | AVAILABLE })
    const chain = {
      id: 3,
      elements: [
        { address: BUFFER, length: 10, writable: false },
        { address: BUFFER, length: 20, writable: true },
        { address: 2 ** 40 + 4, length: 30, writable: true },
      ],
      indirect: false,
    }
    expect(peer.peek()).toEqual([chain])
    expect(peer.take()).toEqual(chain)
    expect([peer.take(), peer.taken]).toEqual([null, 3])
  })

  test('an indirect table, which is one descriptor of the ring (virtio 1.4 §2.8.7)', () => {
    const peer = peerOf(4, VIRTIO_F_INDIRECT_DESC)
    for (const [i, flags] of [0, 0, WRITE, WRITE].entries()) put(i, { length: i + 1, flags }, TABLE)
    put(0, { address: TABLE, length: 64, id: 1, flags: INDIRECT | AVAILABLE })
    const chain = peer.take()
    expect([chain?.id, chain?.indirect, peer.taken]).toEqual([1, true, 1])
    expect(chain?.elements.map(({ length, writable }) => [length, writable])).toEqual([
      [1, false],
      [2, false],
      [3, true],
      [4, true],
    ])
  })

  test('nothing of a ring that is zero, or full and taken (virtio 1.4 §2.8.1)', () => {
    const peer = peerOf(2)
    expect([peer.peek(), peer.take()]).toEqual([[], null])
    put(0, { id: 0 })
    put(1, { id: 1 })
    expect(peer.peek().map(({ id }) => id)).toEqual([0, 1])
    expect([peer.take()?.id, peer.take()?.id, peer.take()]).toEqual([0, 1, null])
  })

  test('nothing where a batch was undone: a descriptor that looks used again', () => {
    const peer = peerOf(2)
    put(0, { flags: NEXT | AVAILABLE })
    put(1, { id: 1 })
    expect(peer.take()?.id).toBe(1)
    peer.use([{ id: 1, written: 0 }])
    // The second descriptor of the list was skipped and still has the marks of an available one of the first lap.
    put(0, { id: 0, flags: USED })
    expect(peer.peek().map(({ id }) => id)).toEqual([0])
    put(1, { id: 0, flags: USED })
    put(1, { id: 0, flags: BOTH })
    expect(peer.peek().map(({ id }) => id)).toEqual([0])
  })

  test('whatever the device area held before', () => {
    event(5, 1, DEVICE)
    expect(peerOf(2).mustInterrupt()).toBe(false)
  })

  test.each([1, 2, 3, 5, 32_767, 32_768])('lap after lap of a naive driver, in a queue of %d', (size) => {
    const memory = new GuestMemory([{ base: BASE, length: 0x10_0000, memory: new ArrayBuffer(0x10_0000) }])
    const [{ region: ram }] = memory.ranges
    const wide = new BusWindows('dev0', [{ base: BASE, length: 0x10_0000, region: ram }])
    const events = 16 * size
    const ring = new NaivePackedRing(size, features(), {
      ring: { region: ram, offset: 0 },
      driver: { region: ram, offset: events },
      device: { region: ram, offset: events + 4 },
    })
    const areas = {
      descriptor: BASE,
      driver: BASE + events,
      device: BASE + events + 4,
    } as unknown as Virtqueue['areas']
    const peer = new PackedRingPeer({ port: wide, size, areas, features: features() })
    const longest = Math.min(3, size)
    for (let position = 0, round = 0; position < 2 * size + 10; round++) {
      const count = 1 + (round % longest)
      ring.publish([chainOf(round % size, count)])
      position += count
      expect(ring.position).toBe(peer.positionOf(position))
      expect([peer.take()?.elements.length, peer.take()]).toEqual([count, null])
      peer.use([{ id: round % size, written: round }])
      expect(ring.peekUsed()).toEqual({ id: round % size, written: round })
      expect(peer.mustInterrupt()).toBe(true)
      ring.complete(round % size)
    }
  })
})

describe('PackedRingPeer refuses what a driver must not publish', () => {
  const table = (...entries: Raw[]): void => {
    for (const [i, entry] of entries.entries()) put(i, { flags: 0, ...entry }, TABLE)
    put(0, { address: TABLE, length: 16 * entries.length, flags: INDIRECT | AVAILABLE })
  }
  const ring = (...descriptors: Raw[]): void => {
    for (const [i, descriptor] of descriptors.entries()) put(i, descriptor)
  }
  const CASES: ReadonlyArray<readonly [what: string, message: RegExp, write: () => void]> = [
    ['reserved flags', /ring\/chains: flags 136 .*§2.8.13/, () => ring({ flags: AVAILABLE | 8 })],
    ['an empty element', /ring\/chains: .* empty/, () => ring({ length: 0 })],
    ['an empty element in a table', /ring\/chains: .* empty/, () => table({}, { length: 0 })],
    ['an id outside of the queue', /ring\/chains: id 4 in a queue of 4/, () => ring({ id: 4 })],
    ['two available chains with one id', /ring\/chains: id 2 .* two/, () => ring({ id: 2 }, { id: 2 })],
    [
      'a readable element behind a writable one',
      /ring\/chains: a device-readable .*§2.8.17/,
      () => ring({ flags: NEXT | WRITE | AVAILABLE }, {}),
    ],
    [
      'a readable element behind a writable one, in a table',
      /ring\/chains: a device-readable .*§2.8.17/,
      () => table({ flags: WRITE }, {}),
    ],
    [
      'more than 2^32 bytes',
      /ring\/chains: a chain of 4294967297 bytes/,
      () => ring({ length: 0xffff_ffff, flags: NEXT | AVAILABLE }, { length: 2 }),
    ],
    [
      'a list that is longer than the queue',
      /ring\/chains: a list is longer .*§2.8.17/,
      () => ring(...Array.from({ length: 4 }, () => ({ flags: NEXT | AVAILABLE }))),
    ],
    [
      'a list whose rest is not there',
      /ring\/publication: descriptor 1, in a list, .*§2.8.17/,
      () => ring({ flags: NEXT | AVAILABLE }),
    ],
    [
      'a list whose rest is marked as used',
      /ring\/publication: descriptor 1, in a list, .*§2.8.17/,
      () => ring({ flags: NEXT | AVAILABLE }, { flags: BOTH }),
    ],
    ['a descriptor that is marked as used', /ring\/publication: marks 32896 .*§2.8.1/, () => ring({ flags: BOTH })],
    [
      'a descriptor with the wrong wrap counter',
      /ring\/publication: marks 32768 .*§2.8.1/,
      () => ring({ flags: USED }),
    ],
    [
      'INDIRECT with NEXT',
      /ring\/chains: INDIRECT in a list .*§2.8.19/,
      () => ring({ address: TABLE, length: 16, flags: INDIRECT | NEXT | AVAILABLE }, {}),
    ],
    [
      'INDIRECT behind NEXT',
      /ring\/chains: INDIRECT in a list .*§2.8.19/,
      () => ring({ flags: NEXT | AVAILABLE }, { address: TABLE, length: 16, flags: INDIRECT | AVAILABLE }),
    ],
    [
      'INDIRECT with WRITE',
      /ring\/chains: WRITE, .*§2.8.7/,
      () => ring({ address: TABLE, length: 16, flags: INDIRECT | WRITE | AVAILABLE }),
    ],
    ['a nested table', /ring\/chains: flags 4 in an indirect table .*§2.8.19/, () => table({ flags: INDIRECT })],
    ['NEXT in a table', /ring\/chains: flags 1 in an indirect table .*§2.8.19/, () => table({ flags: NEXT }, {})],
    ['marks in a table', /ring\/chains: flags 128 in an indirect table .*§2.8.19/, () => table({ flags: AVAILABLE })],
    ['an id in a table', /ring\/chains: id 1 in an indirect table, .*§2.8.7/, () => table({ id: 1 })],
    ['an empty table', /ring\/chains: an indirect table of 0 bytes/, () => table()],
    [
      'a table that ends within a descriptor',
      /ring\/chains: an indirect table of 24 bytes/,
      () => ring({ address: TABLE, length: 24, flags: INDIRECT | AVAILABLE }),
    ],
    [
      'a table that is longer than the queue',
      /ring\/chains: a table of 80 bytes .*§2.8.17/,
      () => table(...Array.from({ length: 5 }, () => ({}))),
    ],
  ]
  for (const [what, message, write] of CASES) {
    test(what, () => {
      const peer = peerOf(4, VIRTIO_F_INDIRECT_DESC)
      write()
      expect(rule(() => peer.peek())).toMatch(message)
    })
  }

  test('INDIRECT that was not negotiated', () => {
    const peer = peerOf(4)
    put(0, { address: TABLE, length: 16, flags: INDIRECT | AVAILABLE })
    put(0, { flags: 0 }, TABLE)
    expect(rule(() => peer.take())).toMatch(/ring\/chains: INDIRECT was not negotiated .*§2.8.19/)
  })

  test('the id of a chain that the device has', () => {
    const peer = peerOf(4)
    put(0, { id: 2 })
    peer.take()
    put(1, { id: 2 })
    expect(rule(() => peer.take())).toMatch(/ring\/chains: id 2 is that of an outstanding chain/)
    put(1, { id: 1 })
    expect(peer.take()?.id).toBe(1)
  })

  test('more than is free', () => {
    const peer = peerOf(2)
    for (const id of [0, 1]) put(id, { id })
    expect([peer.take()?.id, peer.take()?.id]).toEqual([0, 1])
    put(0, { id: 2, flags: USED })
    expect(rule(() => peer.peek())).toMatch(/ring\/publication: descriptor 0 is available and was not free .*§2.8.17/)
  })

  test('areas that are not aligned, sizes that cannot be, a ring that is not zero, and one that the port refuses', () => {
    const setup = { port, size: 4, areas: AREAS, features: features() }
    for (const wrong of [{ descriptor: BASE + 8 }, { driver: DRIVER + 2 }, { device: DEVICE + 2 }]) {
      const areas = { ...AREAS, ...wrong } as never
      expect(rule(() => new PackedRingPeer({ ...setup, areas }))).toMatch(/ring\/geometry: areas .*§2.8.11/)
    }
    for (const size of [0, -1, 1.5, 32_769])
      expect(rule(() => new PackedRingPeer({ ...setup, size }))).toMatch(/ring\/geometry: a queue of/)
    const areas = { ...AREAS, descriptor: 0x8000 } as never
    expect(rule(() => new PackedRingPeer({ ...setup, areas }))).toMatch(/swiotlb\/inside/)
    region.view.setUint8(16 * 3 + 14, 1)
    expect(rule(() => new PackedRingPeer(setup))).toMatch(/ring\/geometry: descriptor 3 is not zero .*§2.8.13/)
  })
})

describe('PackedRingPeer finds a driver that', () => {
  /** Chains of two and of one go round a queue of 5 until something is wrong; the peer looks after every store. */
  function run(Ring: typeof NaivePackedRing, ...bits: number[]): string {
    const peer = peerOf(5, ...bits)
    const stepping = new SteppingMemory(region)
    const ring = new Ring(5, features(...bits), {
      ring: { region, offset: 0 },
      driver: { region, offset: DRIVER - BASE },
      device: { region, offset: DEVICE - BASE },
    })
    let left = 0
    stepping.onStore = () => {
      left = peer.peek().length
    }
    return rule(() => {
      for (let round = 0; round < 20; round++) {
        stepping.run(() => ring.publish([chainOf(round % 2, 2), chainOf(2 + (round % 2), 1)]))
        if (left !== 2) throw new Error(`the device saw ${left} chains`)
        const ids = [peer.take()?.id ?? -1, peer.take()?.id ?? -1].reverse()
        stepping.run(() => ring.arm())
        peer.use(ids.map((id) => ({ id, written: 1 })))
        peer.mustInterrupt()
        for (let used = ring.peekUsed(); used !== null; used = ring.peekUsed()) ring.complete(used.id)
        stepping.run(() => ring.disarm())
      }
    })
  }

  test('breaks no rule, by not throwing', () => {
    expect(run(NaivePackedRing)).toBe('nothing was thrown')
  })

  test('and with EVENT_IDX neither', () => {
    expect(run(NaivePackedRing, VIRTIO_F_EVENT_IDX)).toBe('nothing was thrown')
  })

  const MUTANTS: ReadonlyArray<
    readonly [what: string, message: RegExp, Ring: typeof NaivePackedRing, ...bits: number[]]
  > = [
    [
      'never turns its wrap counter',
      /ring\/publication: marks 128 .* counter 0/,
      class extends NaivePackedRing {
        protected override step(): void {
          super.step()
          this.availableWrap = true
        }
      },
    ],
    [
      'turns its wrap counter one descriptor early',
      /ring\/publication: descriptor 4, in a list,/,
      class extends NaivePackedRing {
        protected override marks(): number {
          const last = this.nextAvailable === this.size - 1
          return this.availableWrap !== last ? AVAILABLE : USED
        }
      },
    ],
    [
      'marks available descriptors as used ones',
      /ring\/publication: marks 32896/,
      class extends NaivePackedRing {
        protected override marks(): number {
          return this.availableWrap ? BOTH : 0
        }
      },
    ],
    [
      'marks the first descriptor of a list alone',
      /ring\/publication: descriptor 1, in a list,/,
      class extends NaivePackedRing {
        protected override writeFlags(slot: number, flags: number): void {
          super.writeFlags(slot, (flags & NEXT) === 0 ? flags & ~BOTH : flags)
        }
      },
    ],
    [
      'writes the flags of a descriptor before the rest of it',
      /ring\/chains: an element is empty/,
      class extends NaivePackedRing {
        protected override writeDescriptor(slot: number, address: number, length: number, id: number): void {
          this.writeFlags(slot, this.marks())
          super.writeDescriptor(slot, address, length, id)
        }
      },
    ],
    [
      'makes the first descriptor of a list available before the rest',
      /ring\/publication: descriptor 1, in a list,/,
      class extends NaivePackedRing {
        protected override writeDescriptor(slot: number, address: number, length: number, id: number): void {
          super.writeDescriptor(slot, address, length, id)
          if (this.counts.size === 0 && slot % 3 === 0) this.writeFlags(slot, this.marks() | NEXT)
        }
      },
    ],
    [
      'changes a descriptor that the device has',
      /ring\/immutability: descriptor 0 changed .*§2.8.16/,
      class extends NaivePackedRing {
        override arm(): boolean {
          this.writeDescriptor(0, BUFFER, 9, 0)
          return super.arm()
        }
      },
    ],
    [
      'sets reserved bits of its event structure',
      /ring\/notification: event flags 4,/,
      class extends NaivePackedRing {
        protected override writeEvent(descriptor: number, flags: number): void {
          super.writeEvent(descriptor, flags | 4)
        }
      },
    ],
    [
      'sets the reserved event flags 3',
      /ring\/notification: event flags 3,/,
      class extends NaivePackedRing {
        protected override writeEvent(descriptor: number): void {
          super.writeEvent(descriptor, 3)
        }
      },
    ],
    [
      'asks for an event without EVENT_IDX',
      /ring\/notification: event flags 2 without EVENT_IDX/,
      class extends NaivePackedRing {
        protected override writeEvent(descriptor: number): void {
          super.writeEvent(descriptor, 2)
        }
      },
    ],
    [
      'asks for an event outside of the ring',
      /ring\/notification: an event at 32773 is outside/,
      class extends NaivePackedRing {
        protected override writeEvent(_: number, flags: number): void {
          super.writeEvent(0x8005, flags)
        }
      },
      VIRTIO_F_EVENT_IDX,
    ],
    [
      'writes to the device area',
      /ring\/notification: the driver wrote to the device area/,
      class extends NaivePackedRing {
        protected override wantsDoorbell(passed: readonly number[]): boolean {
          event(7, 0, DEVICE)
          return super.wantsDoorbell(passed)
        }
      },
    ],
  ]
  for (const [what, message, Ring, ...bits] of MUTANTS) {
    test(what, () => {
      expect(run(Ring, ...bits)).toMatch(message)
    })
  }
})

describe('PackedRingPeer', () => {
  function takeSingles(peer: PackedRingPeer, ids: readonly number[], wrap = true): void {
    for (const id of ids) put(peer.taken % 4, { id, flags: WRITE | (wrap ? AVAILABLE : USED) })
    for (const id of ids) {
      put(peer.taken % 4, { id, flags: WRITE | (wrap ? AVAILABLE : USED) })
      expect(peer.take()?.id).toBe(id)
    }
  }

  test('writes used descriptors in the order of completion, with its own wrap counter (virtio 1.4 §2.8.1, §2.8.4)', () => {
    const peer = peerOf(4)
    takeSingles(peer, [0, 1, 2])
    peer.use([
      { id: 2, written: 5 },
      { id: 0, written: 0 },
    ])
    expect([get(0), get(1)]).toEqual([
      { address: BUFFER, length: 5, id: 2, flags: BOTH | WRITE },
      { address: BUFFER, length: 0, id: 0, flags: BOTH },
    ])
    put(3, { id: 3, flags: NEXT | AVAILABLE })
    put(0, { id: 3, flags: USED })
    expect(peer.take()?.elements.length).toBe(2)
    peer.use([{ id: 1, written: 1 }])
    peer.use([{ id: 3, written: 2 }])
    expect([get(2), get(3)]).toMatchObject([
      { id: 1, flags: BOTH | WRITE },
      { id: 3, length: 2, flags: BOTH | WRITE },
    ])
    // The list took the last descriptor and the first: the next lap goes on behind it, with the other wrap counter.
    put(1, { id: 0, flags: USED })
    expect(peer.take()?.id).toBe(0)
    peer.use([{ id: 0, written: 3 }])
    expect([get(1), peer.used]).toEqual([{ address: BUFFER, length: 3, id: 0, flags: WRITE }, 6])
  })

  test('lets a driver see all used descriptors of one call at once, whenever it looks', () => {
    const peer = peerOf(4)
    takeSingles(peer, [0, 1, 2])
    const stepping = new SteppingMemory(region)
    const seen = new Set<string>()
    stepping.onStore = () => {
      const used = [0, 1, 2].map((slot) => (get(slot).flags & BOTH) === BOTH)
      if (used[0]) seen.add(used.join())
    }
    stepping.run(() => peer.use([0, 1, 2].map((id) => ({ id, written: 0 }))))
    expect([...seen]).toEqual(['true,true,true'])
  })

  test('stands for a batch with one used descriptor, and skips the descriptors of all (virtio 1.4 §2.8.8)', () => {
    const peer = peerOf(8, VIRTIO_F_IN_ORDER)
    put(0, { flags: NEXT | AVAILABLE })
    put(1, { id: 5 })
    put(2, { id: 6 })
    put(3, { id: 7, flags: WRITE | AVAILABLE })
    while (peer.take() !== null);
    peer.useBatch(6, 2, 0)
    expect([get(0), get(2).flags, peer.used]).toMatchObject([{ id: 6, flags: BOTH }, AVAILABLE, 3])
    peer.useBatch(7, 1, 9)
    expect(get(3)).toMatchObject({ id: 7, length: 9, flags: BOTH | WRITE })
  })

  test('names entries by offset and wrap counter (virtio 1.4 §2.9)', () => {
    const peer = peerOf(3)
    expect([-1, 0, 2, 3, 5, 6, 6_000_002].map((entry) => peer.positionOf(entry))).toEqual([
      0x0002, 0x8000, 0x8002, 0x0000, 0x0002, 0x8000, 0x8002,
    ])
  })

  test.each([
    ['enabled', 0, 0, [true, true, false]],
    ['disabled', 0, 1, [false, false, false]],
    ['at the first', 0x8000, 2, [true, false, false]],
    ['at the third, which is the second of a list', 0x8002, 2, [false, true, false]],
    ['at the fourth', 0x8003, 2, [false, false, false]],
    ['at the first of the next lap', 0x0000, 2, [false, false, false]],
  ])('interrupts as the driver asks: %s (virtio 1.4 §2.8.10)', (_, descriptor, flags, expected) => {
    const peer = peerOf(4, VIRTIO_F_EVENT_IDX)
    event(descriptor, flags)
    takeSingles(peer, [0])
    put(1, { flags: NEXT | AVAILABLE })
    put(2, { id: 1 })
    peer.take()
    peer.use([{ id: 0, written: 0 }])
    const first = peer.mustInterrupt()
    peer.use([{ id: 1, written: 0 }])
    expect([first, peer.mustInterrupt(), peer.mustInterrupt()]).toEqual(expected)
  })

  test('says in the device area when it wants a doorbell (virtio 1.4 §2.8.14)', () => {
    const peer = peerOf(3, VIRTIO_F_EVENT_IDX)
    const area = (): number => region.view.getUint32(DEVICE - BASE, true)
    peer.wantDoorbells(false)
    expect(area()).toBe(0x0001_0000)
    peer.wantDoorbellAt(5)
    expect(area()).toBe(0x0002_0002)
    peer.wantDoorbellAt(7)
    expect(area()).toBe(0x0002_8001)
    peer.wantDoorbells(true)
    expect(area()).toBe(0x0000_8001)
    expect(peer.mustInterrupt()).toBe(false)
  })

  test('scribbles over all that the driver wrote, and leaves what marks a descriptor', () => {
    const peer = peerOf(4)
    takeSingles(peer, [0, 1])
    const before = [0, 1, 2, 3].map((slot) => get(slot).flags & BOTH)
    peer.scribble()
    expect([0, 1, 2, 3].map((slot) => get(slot).flags & BOTH)).toEqual(before)
    for (const slot of [0, 1, 2, 3]) expect(get(slot)).toMatchObject({ length: 0xdeaddead, id: 0xdead })
    expect(region.view.getUint32(DRIVER - BASE, true)).toBe(0xbeefbeef)
    peer.use([
      { id: 1, written: 0 },
      { id: 0, written: 0 },
    ])
    expect([get(0), get(1)]).toMatchObject([
      { id: 1, flags: BOTH },
      { id: 0, flags: BOTH },
    ])
  })
})

describe('HostilePackedRing', () => {
  test.each([
    ['an id outside', 'VIRTQUEUE_USED_ID', 0, (peer: HostilePackedRing) => peer.returnOutOfRange(8)],
    ['an id twice', 'VIRTQUEUE_USED_TWICE', 1, (peer: HostilePackedRing, id: number) => peer.returnTwice(id)],
    ['too many bytes', undefined, 1, (peer: HostilePackedRing, id: number) => peer.overstate(id)],
    ['ahead of the turn', undefined, 0, (peer: HostilePackedRing, id: number) => peer.returnAhead(id)],
    ['with the wrong wrap', undefined, 0, (peer: HostilePackedRing, id: number) => peer.returnWithWrongWrap(id)],
  ])('returns %s', (what, code, completed, lie) => {
    const rig = new QueueRig((options) => new NaivePackedVirtqueue(options), {
      makePeer: (setup) => new HostilePackedRing(setup),
      format: [VIRTIO_F_RING_PACKED],
    })
    const ids = [rig.addOne(0, true), rig.addOne(1, true)]
    rig.queue.publish()
    rig.takeAll()
    lie(rig.peer as HostilePackedRing, ids[0])
    expect(rig.queue.reap(8)).toBe(completed)
    expect([rig.queue.broken?.code, rig.queue.counters.clamped]).toEqual([code, what === 'too many bytes' ? 1 : 0])
  })
})

function chainOf(id: number, count: number): NaiveChain {
  return { id, descriptors: Array.from({ length: count }, () => ({ address: BUFFER, length: 8, flags: 2 })) }
}
