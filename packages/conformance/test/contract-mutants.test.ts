import {
  DMA_CORRUPT,
  DMA_EXHAUSTED,
  DMA_OK,
  DMA_TOO_LONG,
  DMA_UNMAPPABLE,
  type DmaBackend,
  type DmaDirection,
  DmaError,
  type DmaMappings,
  type DmaRegion,
  type DmaScheme,
  type DmaStatus,
  FROM_DEVICE,
} from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import {
  bouncingScheme,
  type DmaSchemeOptions,
  describeDmaScheme,
  exactScheme,
  FaultyBackend,
  ForwardingBackend,
  sealingCodec,
  sealingScheme,
  withBackend,
} from '../src/index.ts'
import { collect } from './support/collect.ts'
import { failNext } from './support/lies.ts'
import { small } from './support/small.ts'

type Use = 'ring' | 'payload'
type Mutant = readonly [
  line: string,
  error: string,
  scheme: DmaScheme,
  mutant: (inner: DmaBackend) => DmaBackend,
  options?: DmaSchemeOptions,
]

/** The backend with some of its methods replaced. */
function but(inner: DmaBackend, methods: Partial<DmaBackend>): DmaBackend {
  return Object.assign(new ForwardingBackend(inner), methods)
}

const sealed = { codec: sealingCodec() }
const failing = { failNext }

// One for each line of the contract that the errors of real backends do not violate.
const MUTANTS: readonly Mutant[] = [
  [
    'alloc-plain',
    'keeps a ring where the CPU does not see it',
    bouncingScheme(),
    (inner) =>
      but(inner, {
        alloc(length: number, align: number, direction: DmaDirection, use: Use): DmaRegion {
          const region = inner.alloc(2 * length + align, align, direction, use)
          return { ...region, length, offset: region.offset + Math.ceil(length / align) * align }
        },
      }),
  ],
  [
    'alloc-granules',
    'hands out parts of granules',
    exactScheme({ granule: 4096 }),
    (inner) =>
      but(inner, {
        alloc: (length: number, align: number, direction: DmaDirection, use: Use): DmaRegion => {
          const region = inner.alloc(length + 64, align, direction, use)
          return { ...region, device: (region.device + 64) as DmaRegion['device'], offset: region.offset + 64 }
        },
      }),
  ],
  [
    'alloc-refused',
    'throws an error of another kind where there is no room',
    bouncingScheme(),
    (inner) =>
      but(inner, {
        alloc(length: number, align: number, direction: DmaDirection, use: Use): DmaRegion {
          if (length > 2 ** 30) throw new RangeError('no room')
          return inner.alloc(length, align, direction, use)
        },
      }),
  ],
  [
    'free-unconfirmed',
    'gives a region back that the device may still reach',
    exactScheme(),
    (inner) => new FaultyBackend(freeingTooEarly(inner)),
    {
      failNext(backend) {
        const early = (backend as FaultyBackend).inner as ForwardingBackend & { unconfirmed: boolean }
        early.unconfirmed = true
      },
    },
  ],
  [
    'map-overhead',
    'adds more than it declares',
    bouncingScheme(),
    (inner) =>
      but(inner, {
        map(m: DmaMappings, row: number): DmaStatus {
          const status = inner.map(m, row)
          m.deviceLength[row] += 4
          return status
        },
      }),
  ],
  [
    'map-too-long',
    'is exhausted by what is too long, once nothing is left',
    bouncingScheme(),
    (inner) => {
      let full = false
      return but(inner, {
        map(m: DmaMappings, row: number): DmaStatus {
          const status = inner.map(m, row)
          full ||= status === DMA_EXHAUSTED
          return full && status === DMA_TOO_LONG ? DMA_EXHAUSTED : status
        },
      })
    },
  ],
  [
    'map-too-long',
    'is too long where it is exhausted',
    bouncingScheme(),
    (inner) =>
      but(inner, {
        map(m: DmaMappings, row: number): DmaStatus {
          const status = inner.map(m, row)
          return status === DMA_EXHAUSTED && m.length[row] > 64 ? DMA_TOO_LONG : status
        },
      }),
  ],
  [
    'unmap-clamped',
    'answers an overlong write with a status of its own',
    bouncingScheme(),
    (inner) =>
      but(inner, {
        unmap(m: DmaMappings, row: number, written: number): DmaStatus {
          inner.unmap(m, row, 0)
          return written > m.length[row] ? DMA_TOO_LONG : DMA_OK
        },
      }),
  ],
  [
    'unmap-corrupt',
    'calls plain payload corrupt',
    bouncingScheme(),
    (inner) =>
      but(inner, {
        unmap(m: DmaMappings, row: number, written: number): DmaStatus {
          inner.unmap(m, row, written)
          return written === 0 ? DMA_OK : DMA_CORRUPT
        },
      }),
  ],
  [
    'unmap-corrupt',
    'delivers what failed its check',
    bouncingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override get traits() {
          return { ...inner.traits, payload: 'transformed' as const }
        }

        private refused = 0
        override get counters() {
          return { ...inner.counters, corrupt: this.refused }
        }

        override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
          inner.unmap(m, row, written)
          this.refused++
          return DMA_CORRUPT
        }
      })(inner),
  ],
  [
    'unmap-corrupt',
    'does not count what failed its check',
    sealingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override get counters() {
          return { ...inner.counters, corrupt: 0 }
        }
      })(inner),
    sealed,
  ],
  [
    'unmap-corrupt',
    'keeps the row lent that failed its check',
    sealingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        private kept = 0
        override get counters() {
          return { ...inner.counters, unmaps: inner.counters.unmaps - this.kept }
        }

        override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
          const status = inner.unmap(m, row, written)
          if (status === DMA_CORRUPT) this.kept++
          return status
        }
      })(inner),
    sealed,
  ],
  [
    'unmap-unchecked',
    'checks the tag of what was never written',
    sealingScheme(),
    (inner) =>
      but(inner, {
        unmap(m: DmaMappings, row: number, written: number): DmaStatus {
          const status = inner.unmap(m, row, written)
          return m.direction[row] === FROM_DEVICE && written === 0 ? DMA_CORRUPT : status
        },
      }),
    sealed,
  ],
  [
    'sync-device',
    'does not sync for the device',
    bouncingScheme(),
    (inner) => but(inner, { syncForDevice: () => DMA_OK }),
  ],
  [
    'sync-direction',
    'delivers what was lent for reading, when it syncs',
    bouncingScheme(),
    (inner) =>
      but(inner, {
        syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
          const direction = m.direction[row]
          m.direction[row] = FROM_DEVICE
          const status = inner.syncForCpu(m, row, offset, length)
          m.direction[row] = direction
          return status
        },
      }),
  ],
  [
    'sync-range',
    'looks at the range only where there is something to copy',
    bouncingScheme(),
    (inner) =>
      but(inner, {
        syncForDevice: (m: DmaMappings, row: number, offset: number, length: number): DmaStatus =>
          m.direction[row] === FROM_DEVICE ? DMA_OK : inner.syncForDevice(m, row, offset, length),
      }),
  ],
  [
    'sync-range',
    'copies the part of a range that lies within the mapping',
    bouncingScheme(),
    (inner) =>
      but(inner, {
        syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
          const status = inner.syncForCpu(m, row, offset, length)
          if (status === DMA_UNMAPPABLE && offset === 0) inner.syncForCpu(m, row, 0, m.length[row])
          return status
        },
      }),
  ],
  [
    'sync-corrupt',
    'answers a status of its own where a check fails in a sync',
    sealingScheme(),
    (inner) =>
      but(inner, {
        syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
          const status = inner.syncForCpu(m, row, offset, length)
          return status === DMA_CORRUPT ? DMA_UNMAPPABLE : status
        },
      }),
    sealed,
  ],
  [
    'commit-maps-failed',
    'keeps the rows of a batch whose commit failed',
    bouncingScheme(),
    (inner) => {
      let failed = false
      const faulty = new FaultyBackend(inner)
      return Object.assign(faulty, {
        commitMaps: (): DmaStatus => {
          const status = FaultyBackend.prototype.commitMaps.call(faulty)
          failed = status !== DMA_OK
          return status
        },
        unmap: (m: DmaMappings, row: number, written: number): DmaStatus =>
          failed ? DMA_OK : inner.unmap(m, row, written),
      })
    },
    failing,
  ],
  [
    'commit-unmaps-failed',
    'uses slots again whose unmap was not confirmed',
    bouncingScheme(),
    (inner) => new FaultyBackend(inner),
    failing,
  ],
  [
    'commit-revokes',
    'forgets to close the port at the commit',
    exactScheme(),
    (inner) => but(inner, { commitUnmaps: () => DMA_OK }),
  ],
]

function freeingTooEarly(inner: DmaBackend): DmaBackend {
  return Object.assign(new ForwardingBackend(inner), {
    unconfirmed: false,
    free(this: { unconfirmed: boolean }, region: DmaRegion): void {
      inner.free(region)
      if (!this.unconfirmed) return
      this.unconfirmed = false
      throw new DmaError('DMA_STILL_REACHABLE', inner.name, 'it was given back all the same')
    },
  })
}

describe('a test of the line notices a backend that', () => {
  for (const [line, error, scheme, mutant, options = {}] of MUTANTS) {
    test(`${error} [${line}]`, async () => {
      const { ran, failed } = await collect(
        (functions) => describeDmaScheme(functions, withBackend(scheme, mutant), { ...small, ...options }),
        new RegExp(`\\[${line}\\]`),
      )
      expect(ran).toBeGreaterThan(0)
      expect(failed.length).toBeGreaterThan(0)
      expect(failed[0].message).toContain(`[${line}]`)
    })
  }
})
