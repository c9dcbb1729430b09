import {
  BIDIRECTIONAL,
  DMA_EXHAUSTED,
  DMA_FAILED,
  DMA_OK,
  DMA_TOO_LONG,
  type DmaBackend,
  type DmaDirection,
  DmaMappings,
  type DmaRegion,
  type DmaScheme,
  type DmaStatus,
  directScheme,
  newDmaCounters,
} from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import {
  bouncingScheme,
  describeDmaScheme,
  exactScheme,
  ForwardingBackend,
  sealingScheme,
  withBackend,
} from '../src/index.ts'
import { collect, expectNoticed } from './support/collect.ts'
import { claiming } from './support/lies.ts'
import { small } from './support/small.ts'

// One error each, of those that real backends had; and the test that has to notice.
const MUTANTS: ReadonlyArray<
  readonly [error: string, scheme: DmaScheme, mutant: (inner: DmaBackend) => DmaBackend, noticed: RegExp]
> = [
  [
    'delivers the whole buffer, not what was written (CVE-2022-0854)',
    bouncingScheme({ clear: false }),
    (inner) =>
      new (class extends ForwardingBackend {
        override unmap = (m: DmaMappings, row: number): DmaStatus => inner.unmap(m, row, m.length[row])
      })(inner),
    /from the device/,
  ],
  [
    'delivers one byte less',
    bouncingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override unmap = (m: DmaMappings, row: number, written: number): DmaStatus =>
          inner.unmap(m, row, Math.max(0, written - 1))
      })(inner),
    /from the device/,
  ],
  [
    'delivers a byte beyond the buffer',
    bouncingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override unmap = (m: DmaMappings, row: number, written: number): DmaStatus => {
          m.length[row]++
          const status = inner.unmap(m, row, written + 1)
          m.length[row]--
          return status
        }
      })(inner),
    /from the device/,
  ],
  [
    'copies back what was lent for reading',
    bouncingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override unmap = (m: DmaMappings, row: number, written: number): DmaStatus => {
          m.direction[row] = BIDIRECTIONAL
          return inner.unmap(m, row, written)
        }
      })(inner),
    /ring\/immutability/,
  ],
  [
    'keeps something when a map is refused',
    bouncingScheme(),
    (inner) => {
      const leaked = new DmaMappings(4096)
      let rows = 0
      return new (class extends ForwardingBackend {
        override map = (m: DmaMappings, row: number): DmaStatus => {
          const status = inner.map(m, row)
          if (status !== DMA_TOO_LONG) return status
          leaked.guest[rows] = m.guest[row]
          leaked.length[rows] = 1
          leaked.direction[rows] = 1
          inner.map(leaked, rows++)
          return status
        }
      })(inner)
    },
    /a refusal takes nothing/,
  ],
  [
    'does not zero what it allocates',
    directScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override alloc = (length: number, align: number, direction: DmaDirection): DmaRegion => {
          const region = inner.alloc(length, align, direction, 'ring')
          region.region.u8[region.offset + region.length - 1] = 1
          return region
        }
      })(inner),
    /zeroed/,
  ],
  [
    'ignores the alignment',
    directScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override alloc = (length: number, _align: number, direction: DmaDirection): DmaRegion =>
          inner.alloc(length, 1, direction, 'ring')
      })(inner),
    /aligned/,
  ],
  [
    'frees a region twice',
    directScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        private readonly freed = new Set<DmaRegion>()
        override free = (region: DmaRegion): void => {
          if (!this.freed.has(region)) inner.free(region)
          this.freed.add(region)
        }
      })(inner),
    /freed once/,
  ],
  [
    'clobbers what the device wrote when a part is synced (CVE-2022-0854, first fix)',
    bouncingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override syncForDevice = (m: DmaMappings, row: number, offset: number, length: number): DmaStatus => {
          const direction = m.direction[row]
          m.direction[row] = BIDIRECTIONAL
          const status = inner.syncForDevice(m, row, offset, length)
          m.direction[row] = direction
          return status
        }
      })(inner),
    /CVE-2022-0854/,
  ],
  [
    'syncs the whole buffer for the device',
    bouncingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override syncForDevice = (m: DmaMappings, row: number): DmaStatus =>
          inner.syncForDevice(m, row, 0, m.length[row])
      })(inner),
    /leaves the rest/,
  ],
  [
    'syncs the whole buffer for the CPU',
    bouncingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override syncForCpu = (m: DmaMappings, row: number): DmaStatus => inner.syncForCpu(m, row, 0, m.length[row])
      })(inner),
    /syncForCpu shows/,
  ],
  [
    'stays exhausted once it was',
    bouncingScheme(),
    (inner) => {
      let exhausted = false
      return new (class extends ForwardingBackend {
        override map = (m: DmaMappings, row: number): DmaStatus => {
          const status = exhausted ? DMA_EXHAUSTED : inner.map(m, row)
          exhausted ||= status === DMA_EXHAUSTED
          return status
        }
      })(inner)
    },
    /a retry works/,
  ],
  [
    'calls a mapping that is too long exhausted',
    bouncingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override map = (m: DmaMappings, row: number): DmaStatus => {
          const status = inner.map(m, row)
          return status === DMA_TOO_LONG ? DMA_EXHAUSTED : status
        }
      })(inner),
    /never Exhausted/,
  ],
  [
    'lets receive buffers take all slots',
    bouncingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override map = (m: DmaMappings, row: number): DmaStatus =>
          inner.map(Object.create(m, { standing: { value: false } }) as DmaMappings, row)
      })(inner),
    /no deadlock/,
  ],
  [
    'counts nothing',
    bouncingScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override get counters() {
          return newDmaCounters()
        }
      })(inner),
    /counters add up/,
  ],
  [
    'gives nothing back at dispose',
    directScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override dispose = (): void => {}
      })(inner),
    /dispose gives/,
  ],
  [
    'lends a byte more than it was given',
    directScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override map = (m: DmaMappings, row: number): DmaStatus => {
          const status = inner.map(m, row)
          m.deviceLength[row]++
          return status
        }
      })(inner),
    /to the device/,
  ],
  [
    'gets odd addresses wrong',
    directScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override map = (m: DmaMappings, row: number): DmaStatus => {
          const status = inner.map(m, row)
          if (m.guest[row] % 8 === 7) m.device[row] -= 7
          return status
        }
      })(inner),
    /at every address modulo 8/,
  ],
  [
    'lends what is not memory',
    directScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override map = (m: DmaMappings, row: number): DmaStatus => {
          inner.map(m, row)
          return DMA_OK
        }
      })(inner),
    /is Unmappable/,
  ],
  [
    'forgets to open the port at the commit',
    exactScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override commitMaps = (): DmaStatus => DMA_OK
      })(inner),
    /to the device/,
  ],
  [
    'forgets to close the port at the commit',
    exactScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override commitUnmaps = (): DmaStatus => DMA_OK
      })(inner),
    /revocation/,
  ],
  [
    'fails a commit of nothing',
    exactScheme(),
    (inner) =>
      new (class extends ForwardingBackend {
        override commitMaps = (): DmaStatus => (this.counters.maps === 0 ? DMA_FAILED : inner.commitMaps())
      })(inner),
    /commits say Ok/,
  ],
  [
    'transforms a payload that it calls plain',
    claiming(sealingScheme({ tag: false }), { payload: 'plain' }),
    (inner) => inner,
    /traits > payload/,
  ],
]

describe('describeDmaScheme notices a backend that', () => {
  for (const [error, scheme, mutant, noticed] of MUTANTS) {
    test(error, () =>
      expectNoticed((functions) => describeDmaScheme(functions, withBackend(scheme, mutant), small), noticed),
    )
  }
})

describe('describeDmaScheme reports a scheme that cannot be used at all', () => {
  test('every test on its own platform fails, with the reason', async () => {
    const scheme = directScheme()
    const unusable = {
      ...scheme,
      provider: { ...scheme.provider, assess: () => ({ fit: 'unusable' as const, why: 'a reason' }) },
    }
    const { ran, failed } = await collect(
      (functions) => describeDmaScheme(functions, unusable, small),
      /^(?!.*a platform )/,
    )
    expect(failed.length).toBe(ran)
    expect(failed[0].message).toContain('a reason')
  })
})
