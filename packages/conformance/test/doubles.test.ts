import { BusWindows } from '@guestdma/devices'
import { GuestMemory, Region } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC } from '@guestdma/spec'
import { DriverQueue } from '@guestdma/virtqueue'
import { beforeEach, describe, expect, test } from 'vitest'
import { HostileSplitRing, QueueRig, SplitRingPeer, SteppingMemory } from '../src/index.ts'
import { rule } from './support/broken-rule.ts'

describe('SteppingMemory', () => {
  let region: Region
  let stepping: SteppingMemory

  beforeEach(() => {
    region = new Region(new ArrayBuffer(64), 'stepped')
    stepping = new SteppingMemory(region)
  })

  test('steps after each store, whatever its width, and says where', () => {
    const steps: [number, number][] = []
    stepping.onStore = (offset, bytes) => steps.push([offset, bytes])
    stepping.run(() => {
      region.u8[3] = 1
      region.u16[2] = 2
      region.u32[2] = 3
      region.u64[2] = 4n
      region.view.setUint16(33, 5, true)
      region.view.setBigUint64(40, 6n, true)
      region.u8.fill(7, 50, 52)
      region.u8[64] = 8
    })
    expect(steps).toEqual([
      [3, 1],
      [4, 2],
      [8, 4],
      [16, 8],
      [33, 2],
      [40, 8],
      [0, 64],
    ])
    expect(stepping.stores).toBe(7)
    expect([
      stepping.raw.u8[3],
      stepping.raw.u16[2],
      stepping.raw.u32[2],
      stepping.raw.u64[2],
      stepping.raw.view.getUint16(33, true),
      stepping.raw.u8[51],
    ]).toEqual([1, 2, 3, 4n, 5, 7])
  })

  test('the other side acts between two stores', () => {
    const seen: number[][] = []
    stepping.onStore = () => seen.push([region.u16[0], region.u16[1]])
    stepping.run(() => {
      region.u16[0] = 1
      region.u16[1] = 2
    })
    expect(seen).toEqual([
      [1, 0],
      [1, 2],
    ])
  })

  test('counts loads by byte, across widths, and lets words change between two of them', () => {
    region.u32[0] = 5
    stepping.onLoad = (offset, _bytes, nth) => {
      if (nth === 2) stepping.raw.u8[offset] = 99
    }
    const loaded = stepping.run(() => [region.u32[0], region.view.getUint8(0), region.u16[1]])
    expect(loaded).toEqual([5, 99, 99])
    expect([0, 1, 2, 4].map((offset) => stepping.loadsOf(offset))).toEqual([2, 1, 2, 0])
  })

  test('does not step outside of run, and none after restore', () => {
    let steps = 0
    stepping.onStore = () => steps++
    region.u8[0] = 1
    expect(() =>
      stepping.run(() => {
        throw new Error('inside')
      }),
    ).toThrow('inside')
    region.u8[0] = 2
    expect(steps).toBe(0)
    stepping.restore()
    stepping.run(() => region.u8.fill(3, 0, 1))
    expect([steps, stepping.raw.u8[0]]).toEqual([0, 3])
  })

  test('views keep their lengths, buffers and methods', () => {
    expect([
      region.u8.length,
      region.u32.byteLength,
      region.u8.buffer === region.source,
      region.length,
      region.refresh(),
    ]).toEqual([64, 64, true, 64, false])
    region.u8.set([1, 2, 3], 4)
    expect([...region.u8.subarray(3, 8)]).toEqual([0, 1, 2, 3, 0])
    region.u8.copyWithin(0, 4, 7)
    expect([...region.u8.slice(0, 3)]).toEqual([1, 2, 3])
  })
})

describe('SplitRingPeer refuses what a driver must not do', () => {
  const AREAS = { descriptor: 0x1000, driver: 0x2000, device: 0x3000 } as unknown as DriverQueue['areas']
  let view: DataView
  let peer: (...bits: number[]) => SplitRingPeer

  beforeEach(() => {
    const memory = new GuestMemory([{ base: 0x1000, length: 0x4000, memory: new ArrayBuffer(0x4000) }])
    const [{ region }] = memory.ranges
    view = region.view
    const port = new BusWindows('dev0', [{ base: 0x1000, length: 0x4000, region }])
    peer = (...bits) => new SplitRingPeer({ port, size: 4, areas: AREAS, features: FeatureSet.of(...bits) })
  })

  const descriptor = (at: number, length: number, flags: number, next = 0): void => {
    view.setUint32(at, 0x4000, true)
    view.setUint32(at + 8, length, true)
    view.setUint16(at + 12, flags, true)
    view.setUint16(at + 14, next, true)
  }
  const offer = (...heads: number[]): void => {
    for (const [i, head] of heads.entries()) view.setUint16(0x1000 + 4 + 2 * i, head, true)
    view.setUint16(0x1000 + 2, heads.length, true)
  }
  test('and accepts what it may do', () => {
    descriptor(0, 10, 1, 2)
    descriptor(32, 20, 2)
    offer(0)
    expect(peer().take()).toEqual({
      id: 0,
      elements: [
        { address: 0x4000, length: 10, writable: false },
        { address: 0x4000, length: 20, writable: true },
      ],
      indirect: false,
    })
  })

  const cases: ReadonlyArray<readonly [what: string, rule: string, set: () => void, bits?: number[]]> = [
    ['a head outside the table', 'ring/chains', () => offer(4)],
    [
      'a next outside the table',
      'ring/chains',
      () => {
        descriptor(0, 1, 1, 4)
        offer(0)
      },
    ],
    [
      'a loop',
      'ring/chains',
      () => {
        descriptor(0, 1, 1, 0)
        offer(0)
      },
    ],
    [
      'a longer loop',
      'ring/chains',
      () => {
        descriptor(0, 1, 1, 1)
        descriptor(16, 1, 1, 0)
        offer(0)
      },
    ],
    [
      'an empty element',
      'ring/chains',
      () => {
        descriptor(0, 0, 0)
        offer(0)
      },
    ],
    [
      'unknown flags',
      'ring/chains',
      () => {
        descriptor(0, 1, 8)
        offer(0)
      },
    ],
    [
      'a readable element after a writable one',
      'ring/chains',
      () => {
        descriptor(0, 1, 3, 1)
        descriptor(16, 1, 0)
        offer(0)
      },
    ],
    [
      'an indirect table that was not negotiated',
      'ring/chains',
      () => {
        descriptor(0, 16, 4)
        offer(0)
      },
    ],
    [
      'INDIRECT and NEXT',
      'ring/chains',
      () => {
        descriptor(0, 16, 5, 1)
        offer(0)
      },
      [VIRTIO_F_INDIRECT_DESC],
    ],
    [
      'a table of half a descriptor',
      'ring/chains',
      () => {
        descriptor(0, 24, 4)
        offer(0)
      },
      [VIRTIO_F_INDIRECT_DESC],
    ],
    [
      'a table of nothing',
      'ring/chains',
      () => {
        descriptor(0, 0, 4)
        offer(0)
      },
      [VIRTIO_F_INDIRECT_DESC],
    ],
    [
      'a nested table',
      'ring/chains',
      () => {
        descriptor(0, 16, 4)
        descriptor(0x3000, 16, 4)
        offer(0)
      },
      [VIRTIO_F_INDIRECT_DESC],
    ],
    [
      'a next that is not the next with IN_ORDER',
      'ring/chains',
      () => {
        descriptor(0, 1, 1, 2)
        descriptor(32, 1, 0)
        offer(0)
      },
      [VIRTIO_F_IN_ORDER],
    ],
    ['more chains than entries', 'ring/publication', () => view.setUint16(0x1002, 5, true)],
    [
      'a chain of more than 2^32 bytes',
      'ring/chains',
      () => {
        descriptor(0, 0xffff_ffff, 1, 1)
        descriptor(16, 2, 0)
        offer(0)
      },
    ],
  ]
  for (const [what, expected, set, bits = []] of cases) {
    test(`${what} (${expected})`, () => {
      set()
      expect(rule(() => peer(...bits).take())).toMatch(`${expected}: `)
    })
  }

  test('areas that are not aligned, and areas that the port does not reach (ring/geometry, swiotlb/inside)', () => {
    const port = new BusWindows('dev0')
    const setup = { port, size: 4, features: FeatureSet.empty }
    expect(rule(() => new SplitRingPeer({ ...setup, areas: { ...AREAS, descriptor: 8 } as never }))).toMatch(
      'ring/geometry',
    )
    expect(rule(() => new SplitRingPeer({ ...setup, areas: AREAS }).take())).toMatch('swiotlb/inside')
  })
})

describe('HostileSplitRing', () => {
  test.each([
    ['an id outside', 'VIRTQUEUE_USED_ID', (peer: HostileSplitRing) => peer.returnOutOfRange(8)],
    ['an id twice', 'VIRTQUEUE_USED_TWICE', (peer: HostileSplitRing, id: number) => peer.returnTwice(id)],
    ['too many bytes', undefined, (peer: HostileSplitRing, id: number) => peer.overstate(id)],
  ])('returns %s', (_, code, lie) => {
    const rig = new QueueRig((options) => new DriverQueue(options), {
      makePeer: (setup) => new HostileSplitRing(setup),
    })
    const ids = [rig.addOne(0, true), rig.addOne(1, true)]
    rig.queue.publish()
    rig.takeAll()
    lie(rig.peer as HostileSplitRing, ids[0])
    rig.queue.reap(8)
    expect([rig.queue.broken?.code, rig.queue.counters.clamped]).toEqual([code, code === undefined ? 1 : 0])
  })
})
