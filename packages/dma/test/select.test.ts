import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import { type DmaProvider, directScheme, listedIds, type PlatformOffer, select } from '../src/index.ts'
import { type Facts, offer, provider, required, unusable, usable } from './support/offers.ts'

const direct = directScheme().provider

// Stand-ins for the schemes of other packages, with the conditions that DESIGN's table gives them.
const pool = provider('pool', 'pool', ({ offered, iommu, pool: fact, ramReachable, listed }) => {
  const accessPlatform = offered.has(VIRTIO_F_ACCESS_PLATFORM)
  if (fact === undefined || (accessPlatform && iommu !== undefined)) return unusable
  return accessPlatform || !ramReachable || listed.has('pool') ? usable : unusable
})
const iommu = provider('iommu', 'granule', ({ offered, iommu: fact }) =>
  offered.has(VIRTIO_F_ACCESS_PLATFORM) && fact !== undefined ? usable : unusable,
)
const all: readonly DmaProvider[] = [iommu, pool, direct]
const ladder = (
  facts: Facts,
  choice: Parameters<typeof select>[2] = 'auto',
  providers: readonly DmaProvider[] = all,
): string[] =>
  select(offer({ ...facts, listed: [...listedIds(choice)] }), providers, choice).ladder.map(
    (candidate) => candidate.provider.id,
  )

describe('the table of choices (init/access-platform), first match wins', () => {
  const table: ReadonlyArray<readonly [condition: string, facts: Facts, ladder: readonly string[]]> = [
    ['A ∧ I ∧ M: IOMMU', { accessPlatform: true, iommu: 'translating' }, ['iommu']],
    ['A ∧ I ∧ M, and a pool: IOMMU', { accessPlatform: true, iommu: 'translating', pool: true }, ['iommu']],
    ['A ∧ I in bypass, nothing listed: IOMMU', { accessPlatform: true, iommu: 'bypass' }, ['iommu']],
    ['A ∧ ¬I ∧ P: pool', { accessPlatform: true, pool: true }, ['pool']],
    ['A ∧ ¬I ∧ P ∧ ¬M: pool', { accessPlatform: true, pool: true, ram: false }, ['pool']],
    ['A ∧ ¬I ∧ ¬P ∧ M: direct', { accessPlatform: true }, ['direct']],
    ['A ∧ ¬I ∧ ¬P ∧ M, a bus offset: direct', { accessPlatform: true, busOffset: 4096 }, ['direct']],
    ['¬A ∧ M: direct', {}, ['direct']],
    ['¬A ∧ M, a bus offset: none', { busOffset: 4096 }, []],
    ['¬A ∧ ¬M ∧ P: pool', { ram: false, pool: true }, ['pool']],
    ['¬A ∧ ¬M ∧ ¬P: none', { ram: false }, []],
    ['A ∧ ¬I ∧ ¬M ∧ ¬P: none', { accessPlatform: true, ram: false }, []],
  ]
  test.each(table)('%s', (_, facts, expected) => {
    expect(ladder(facts)).toEqual(expected)
  })

  test('direct listed by the caller, A ∧ I: only with the endpoint in bypass', () => {
    expect(ladder({ accessPlatform: true, iommu: 'translating' }, 'direct')).toEqual([])
    expect(ladder({ accessPlatform: true, iommu: 'bypass' }, 'direct')).toEqual(['direct'])
  })

  test('¬A ∧ M: a pool is usable if the caller lists it', () => {
    expect(ladder({ pool: true }, 'pool')).toEqual(['pool'])
    expect(ladder({ pool: true }, ['pool', 'direct'])).toEqual(['pool', 'direct'])
  })

  test('a device that is behind an IOMMU and does not offer ACCESS_PLATFORM gets nothing that confines less', () => {
    const selection = select(offer({ iommu: 'translating' }), all, 'auto')
    expect(selection.ladder).toEqual([])
    expect(selection.downgrade).toEqual({ refused: 'direct', stronger: 'iommu' })
  })
})

describe('a device’s claim may narrow the choice and never widen it', () => {
  test('a device that withholds ACCESS_PLATFORM does not get direct where the platform allows a pool', () => {
    const selection = select(offer({ pool: true }), all, 'auto')
    expect(selection.ladder).toEqual([])
    expect(selection.downgrade).toEqual({ refused: 'direct', stronger: 'pool' })
    expect(selection.reports.find(({ id }) => id === 'direct')).toMatchObject({
      fit: 'usable',
      outcome: expect.stringContaining("'pool'"),
    })
  })

  test('listing it accepts that', () => {
    expect(ladder({ pool: true }, 'direct')).toEqual(['direct'])
    expect(ladder({ accessPlatform: true, pool: true }, ['direct'])).toEqual(['direct'])
  })

  test('where nothing stronger is possible, nothing is refused', () => {
    expect(select(offer({}), all, 'auto').downgrade).toBeUndefined()
    expect(select(offer({ pool: true }), [direct], 'auto').downgrade).toBeUndefined()
  })

  test('where a device that offers ACCESS_PLATFORM would be refused, one that withholds it is refused too', () => {
    // An IOMMU that nobody drives.
    for (const accessPlatform of [true, false]) {
      const selection = select(offer({ iommu: 'translating', accessPlatform }), [direct], 'auto')
      expect([selection.ladder, selection.downgrade]).toEqual([[], undefined])
    }
    const [report] = select(offer({ iommu: 'translating' }), [direct], 'auto').reports
    expect(report).toMatchObject({ fit: 'usable', outcome: expect.stringContaining('behind an IOMMU') })
    expect(ladder({ iommu: 'translating' }, 'direct', [direct])).toEqual(['direct'])
  })

  test('required and without confinement is refused like usable', () => {
    const insisting = provider('insisting', 'all', required)
    const { ladder: left, downgrade } = select(offer({ accessPlatform: true, pool: true }), [insisting, pool], 'auto')
    expect(left.map((candidate) => candidate.provider.id)).toEqual(['pool'])
    expect(downgrade).toEqual({ refused: 'insisting', stronger: 'pool' })
  })
})

describe('the order of the ladder', () => {
  const [a, b, must] = [
    provider('a', 'pool', usable),
    provider('b', 'byte', usable),
    provider('must', 'pool', required),
  ]

  test('auto: what is required first, then as registered', () => {
    expect(ladder({}, 'auto', [a, b])).toEqual(['a', 'b'])
    expect(ladder({}, 'auto', [b, a, must])).toEqual(['must', 'b', 'a'])
  })

  test('a list is followed as it stands, each once, and what is not listed is not tried', () => {
    expect(ladder({}, ['b', 'a', 'b'], [a, b, must])).toEqual(['b', 'a'])
    expect(ladder({}, ['a', 'must'], [a, b, must])).toEqual(['a', 'must'])
    expect(ladder({}, 'b', [a, b, must])).toEqual(['b'])
  })

  test('a scheme that is pinned and unusable leaves nothing, and the report says why', () => {
    const selection = select(offer({ listed: ['no'] }), [a, provider('no', 'pool', unusable)], 'no')
    expect(selection.ladder).toEqual([])
    expect(selection.reports).toEqual([{ id: 'no', fit: 'unusable', why: 'a reason against it' }])
  })

  test('two required ones are a conflict', () => {
    const other = provider('other', 'pool', required)
    expect(() => select(offer(), [must, a, other], 'auto')).toThrow(
      expect.objectContaining({ code: 'DMA_CONFLICT', details: { ids: ['must', 'other'] } }),
    )
    expect(ladder({}, ['must', 'a'], [must, a, other])).toEqual(['must', 'a'])
  })

  test('an id that is not registered is an error that lists the known ones', () => {
    const error = { code: 'DMA_UNKNOWN_SCHEME', details: { id: 'c', known: ['a', 'b'] } }
    expect(() => select(offer(), [a, b], ['a', 'c'])).toThrow(expect.objectContaining(error))
    expect(() => select(offer(), [a, b], 'c')).toThrow(expect.objectContaining(error))
  })

  test('an empty list chooses nothing', () => {
    expect(() => select(offer(), [a, b], [])).toThrow(expect.objectContaining({ code: 'DMA_EMPTY_CHOICE' }))
  })

  test('no provider at all leaves nothing', () => {
    expect(select(offer(), [], 'auto')).toEqual({ ladder: [], reports: [], downgrade: undefined })
  })
})

describe('selection is pure', () => {
  test('only offered bits are accepted (init/features)', () => {
    const greedy = provider('greedy', 'pool', usable)
    expect(select(offer(), [greedy], 'auto').ladder[0].accept).toEqual(FeatureSet.empty)
    expect(select(offer({ accessPlatform: true }), [greedy], 'auto').ladder[0].accept.bits()).toEqual([
      VIRTIO_F_ACCESS_PLATFORM,
    ])
  })

  test('the same answer for the same offer, which is not changed', () => {
    const given = Object.freeze(offer({ accessPlatform: true, pool: true }))
    const first = select(given, all, 'auto')
    expect(select(given, all, 'auto')).toEqual(first)
    expect(given.offered.bits()).toEqual(offer({ accessPlatform: true }).offered.bits())
  })

  test('providers are asked about the offer with its facts', () => {
    const asked: PlatformOffer[] = []
    const curious = provider('curious', 'pool', (o) => {
      asked.push(o)
      return o.fact({ name: 'a fact' }) === 7 ? usable : unusable
    })
    const { ladder: left } = select({ ...offer(), fact: <T>() => 7 as T }, [curious], 'auto')
    expect(left.length).toBe(1)
    expect(asked.every(({ device }) => device === 'dev0')).toBe(true)
  })
})
