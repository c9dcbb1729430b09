import { BusWindows } from '@guestdma/devices'
import {
  DMA_UNMAPPABLE,
  type DmaBackend,
  type DmaCounters,
  type DmaLimits,
  DmaMappings,
  type DmaScheme,
  type DmaStatus,
  directScheme,
  factKey,
  newDmaCounters,
  type PlatformBuilder,
} from '@guestdma/dma'
import type { BusPort } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import {
  BouncingBackend,
  BouncingSlots,
  bouncingScheme,
  describeDmaScheme,
  ForwardingBackend,
  withBackend,
} from '../src/index.ts'
import { collect } from './support/collect.ts'
import { claiming } from './support/lies.ts'
import { small } from './support/small.ts'

const DEVICE_BASE = 0x9_0000_0000
const SLOTS = 64
// Of the test machine.
const RAM_BASE = 0x4000_0000
const SLOT_BYTES = 512

interface Faults {
  readonly makeSlots?: (platform: PlatformBuilder) => BouncingSlots
  /** Guest RAM that the port shows beside the slots: how far from their start, and bytes. */
  readonly ramAt?: readonly [distance: number, length: number]
  readonly make?: (...args: ConstructorParameters<typeof BouncingBackend>) => DmaBackend
}

const slotsOf = factKey<BouncingSlots>('slots with faults')

/** The bouncing scheme, with parts of its set-up replaced. */
function faulty({ makeSlots, ramAt, make }: Faults): DmaScheme {
  const { provider } = bouncingScheme()
  return {
    id: 'bouncing',
    provider: {
      ...provider,
      assess: ({ fact }) =>
        fact(slotsOf) === undefined
          ? { fit: 'unusable', why: 'no slots' }
          : { fit: 'usable', accept: FeatureSet.empty, why: 'slots' },
      create({ memory, fact }) {
        const slots = fact(slotsOf) as BouncingSlots
        return make === undefined ? new BouncingBackend(memory, slots) : make(memory, slots)
      },
    },
    install(platform): () => BusPort {
      const slots = makeSlots === undefined ? new BouncingSlots(SLOTS, SLOT_BYTES) : makeSlots(platform)
      platform.declareRam(false)
      platform.declareFact(slotsOf, slots)
      const { region } = slots
      const windows = [{ base: DEVICE_BASE, length: region.length, region, offset: 0 }]
      if (ramAt !== undefined) {
        const [distance, length] = ramAt
        const [ram] = platform.memory.ranges
        windows.push({ base: DEVICE_BASE + distance, length, region: ram.region, offset: ram.offset + (1 << 20) })
      }
      return () => new BusWindows(platform.device, windows)
    },
  }
}

/** Long runs get half the slots that they need, so that the next one begins inside them. */
class OverlappingSlots extends BouncingSlots {
  override take(count: number, from: number, limit: number): number {
    return super.take(Math.ceil(count / 2), from, limit - (count >>> 1))
  }
}

const sharedSlots = factKey<BouncingSlots>('slots of a machine')

/** One memory for all devices, and each takes its slots as if it were alone. */
function handedOutTwice(platform: PlatformBuilder): BouncingSlots {
  const first = platform.shared(sharedSlots, () => new BouncingSlots(SLOTS, SLOT_BYTES))
  return Object.assign(new BouncingSlots(SLOTS, SLOT_BYTES), { region: first.region })
}

/** Uses the views of guest memory that there were at first. */
function neverRefreshing(...[memory, slots]: ConstructorParameters<typeof BouncingBackend>): DmaBackend {
  const guestBytes = (m: DmaMappings, row: number, offset: number, length: number): Uint8Array => {
    memory.locate(m.guest, row, m.length[row])
    return memory.region.u8.subarray(memory.offset + offset, memory.offset + offset + length)
  }
  return Object.assign(new BouncingBackend(memory, slots), { guestBytes })
}

function counting(scheme: DmaScheme, wrong: (right: Readonly<DmaCounters>) => Partial<DmaCounters>): DmaScheme {
  return withBackend(
    scheme,
    (inner) =>
      new (class extends ForwardingBackend {
        override get counters(): Readonly<DmaCounters> {
          return { ...inner.counters, ...wrong(inner.counters) }
        }
      })(inner),
  )
}

function leakingOnUnmappable(inner: DmaBackend): DmaBackend {
  const leaked = new DmaMappings(4096)
  let rows = 0
  return new (class extends ForwardingBackend {
    override map(m: DmaMappings, row: number): DmaStatus {
      const status = inner.map(m, row)
      if (status !== DMA_UNMAPPABLE) return status
      leaked.guest[rows] = RAM_BASE
      leaked.length[rows] = 1
      leaked.direction[rows] = 1
      inner.map(leaked, rows++)
      return status
    }
  })(inner)
}

/** What `dispose` frees it still counts, for it forgot to. */
function countingFreed(inner: DmaBackend): DmaBackend {
  let left = 0
  return new (class extends ForwardingBackend {
    override get counters(): Readonly<DmaCounters> {
      return { ...inner.counters, allocatedBytes: inner.counters.allocatedBytes + left }
    }

    override dispose(): void {
      left = inner.counters.allocatedBytes
      inner.dispose()
    }
  })(inner)
}

const limits = (changed: Partial<DmaLimits>): DmaScheme => claiming(bouncingScheme(), {}, changed)

function declaringRam(scheme: DmaScheme, reachable: boolean): DmaScheme {
  return {
    ...scheme,
    install(platform) {
      const enforce = scheme.install(platform)
      platform.declareRam(reachable)
      return enforce
    },
  }
}

function assessing(scheme: DmaScheme, assess: DmaScheme['provider']['assess']): DmaScheme {
  return { ...scheme, provider: { ...scheme.provider, assess } }
}

let answers = 0

// One error each, and the test that has to notice.
const ERRORS: ReadonlyArray<readonly [error: string, scheme: DmaScheme, noticed: RegExp]> = [
  [
    'lends overlapping slots',
    faulty({ makeSlots: () => new OverlappingSlots(SLOTS, SLOT_BYTES) }),
    /mappings that live together keep to themselves, a page/,
  ],
  ['hands two devices the same slots', faulty({ makeSlots: handedOutTwice }), /mappings of two devices/],
  ['shows RAM above its pool', faulty({ ramAt: [SLOTS * SLOT_BYTES, 4096] }), /was reserved for it/],
  ['shows RAM below its pool', faulty({ ramAt: [-8192, 8192] }), /was reserved for it/],
  [
    'promises more confinement than its backends give',
    { ...directScheme(), provider: { ...directScheme().provider, reach: 'pool' } },
    /agree on what they are/,
  ],
  ['names its backend otherwise', { ...bouncingScheme(), id: 'other' }, /agree on what they are/],
  ['assures two mappings beside allocations', limits({ assuredMappings: 2 }), /as assured .* beside allocations/],
  [
    'assures mappings without end',
    limits({ assuredMappings: Infinity, maxLiveMappings: Infinity }),
    /as assured .* beside posted/,
  ],
  ['assures more than can live', limits({ assuredMappings: 65 }), /limits are/],
  [
    'loses a slot when it refuses an address',
    withBackend(bouncingScheme(), leakingOnUnmappable),
    /Unmappable takes nothing \[map-undo\]$/,
  ],
  ['frees nothing at dispose', withBackend(directScheme(), countingFreed), /dispose gives/],
  ['never refreshes its views, and copies in', faulty({ make: neverRefreshing }), /grows before map/],
  ['never refreshes its views, and copies out', faulty({ make: neverRefreshing }), /grows between map/],
  ['never refreshes its views, and syncs', faulty({ make: neverRefreshing }), /grows before a sync/],
  [
    'is usable everywhere, and works only at home',
    assessing(bouncingScheme(), () => ({ fit: 'usable', accept: FeatureSet.empty, why: 'always' })),
    /a platform on which the device reaches all/,
  ],
  [
    'accepts bits that are the driver’s',
    assessing(directScheme(), () => ({ fit: 'usable', accept: FeatureSet.of(VIRTIO_F_VERSION_1), why: 'always' })),
    /a platform on which the device reaches all/,
  ],
  [
    'changes its mind',
    assessing(directScheme(), (offer) => ({ ...directScheme().provider.assess(offer), why: `${answers++}` })),
    /a platform on which the device reaches all/,
  ],
  ['declares RAM that the device does not reach', declaringRam(bouncingScheme(), true), /declareRam/],
  [
    'denies RAM that the device reaches',
    assessing(declaringRam(directScheme(), false), () => ({ fit: 'usable', accept: FeatureSet.empty, why: 'always' })),
    /declareRam/,
  ],
  ['never counts what it clears', counting(bouncingScheme(), () => ({ bytesCleared: 0 })), /cleared, so that/],
  [
    'never counts what it copies',
    counting(bouncingScheme(), () => ({ bytesCopiedToDevice: 0, bytesCopiedFromDevice: 0 })),
    /syncs count the bytes/,
  ],
  ['counts nothing', counting(bouncingScheme(), newDmaCounters), /counters/],
]

describe('describeDmaScheme notices a scheme that', () => {
  for (const [error, scheme, noticed] of ERRORS) {
    test(error, async () => {
      const { ran, failed } = await collect((functions) => describeDmaScheme(functions, scheme, small), noticed)
      expect(ran).toBeGreaterThan(0)
      expect(failed.length).toBeGreaterThan(0)
    })
  }
})

describe('describeDmaScheme has nothing against', () => {
  // What the errors above were made from: none of the tests that noticed them fails by itself.
  const honest: ReadonlyArray<readonly [label: string, scheme: () => DmaScheme]> = [
    ['slots without faults', () => faulty({})],
  ]
  for (const [label, scheme] of honest) {
    test(label, async () => {
      const { ran, failed } = await collect((functions) => describeDmaScheme(functions, scheme, small))
      expect(ran).toBeGreaterThan(0)
      expect(failed).toEqual([])
    })
  }
})
