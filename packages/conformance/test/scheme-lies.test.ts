import { type DmaScheme, type DmaTraits, directScheme } from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import { bouncingScheme, describeDmaScheme, exactScheme } from '../src/index.ts'
import { collect } from './support/collect.ts'
import { claiming } from './support/lies.ts'
import { small } from './support/small.ts'

const direct = (): DmaScheme => directScheme()
const exact = (): DmaScheme => exactScheme()
const pages = (): DmaScheme => exactScheme({ granule: 4096 })
const deferred = (): DmaScheme => exactScheme({ staleEntries: 8 })
const bouncing = (): DmaScheme => bouncingScheme()
const dirty = (): DmaScheme => bouncingScheme({ clear: false })
const shared = (): DmaScheme => bouncingScheme({ clear: false, shared: true })

// Which scheme claims what, one lie at a time.
const LIES: ReadonlyArray<readonly [label: string, scheme: () => DmaScheme, traits: Partial<DmaTraits>]> = [
  ['direct', direct, { streaming: 'copied' }],
  ['bouncing', bouncing, { streaming: 'in-place' }],
  ['direct', direct, { payload: 'transformed' }],
  ['bouncing', bouncing, { payload: 'transformed' }],
  ['direct', direct, { home: 'device-memory' }],
  ['bouncing', bouncing, { home: 'guest-ram' }],
  ['direct', direct, { readOnly: 'enforced' }],
  ['exact', exact, { readOnly: 'not-enforced' }],
  ['bouncing', bouncing, { streaming: 'mixed' }],
  ['direct', direct, { streaming: 'mixed' }],
  ['direct', direct, { reach: 'byte' }],
  ['direct', direct, { reach: 'granule' }],
  ['direct', direct, { reach: 'pool' }],
  ['exact', exact, { reach: 'all' }],
  ['exact', exact, { reach: 'pool' }],
  ['pages', pages, { reach: 'all' }],
  ['pages', pages, { reach: 'byte' }],
  ['pages', pages, { reach: 'pool' }],
  ['bouncing', bouncing, { reach: 'all' }],
  ['bouncing', bouncing, { reach: 'byte' }],
  ['bouncing', bouncing, { reach: 'granule' }],
  ['direct', direct, { revocation: 'strict' }],
  ['direct', direct, { revocation: 'deferred' }],
  ['exact', exact, { revocation: 'none' }],
  ['exact', exact, { revocation: 'deferred' }],
  ['deferred', deferred, { revocation: 'strict' }],
  ['deferred', deferred, { revocation: 'none' }],
  ['bouncing', bouncing, { revocation: 'none' }],
  ['bouncing', bouncing, { revocation: 'deferred' }],
  ['direct', direct, { enforcedBy: 'construction' }],
  ['bouncing', bouncing, { enforcedBy: 'nothing' }],
  ['bouncing', bouncing, { residue: 'own' }],
  ['bouncing', bouncing, { residue: 'own-writes' }],
  ['bouncing', bouncing, { residue: 'other-devices' }],
  ['dirty', dirty, { residue: 'none' }],
  ['dirty', dirty, { residue: 'own-writes' }],
  ['dirty', dirty, { residue: 'other-devices' }],
  ['shared', shared, { residue: 'none' }],
  ['shared', shared, { residue: 'own' }],
  ['cleared, shared', () => bouncingScheme({ shared: true }), { residue: 'none' }],
  ['direct', direct, { residue: 'own' }],
]

describe('describeDmaScheme fails a trait that is not true', () => {
  for (const [label, scheme, traits] of LIES) {
    const [[trait, value]] = Object.entries(traits)
    test(`${label} claims ${trait} ${value}`, async () => {
      const of = new RegExp(`traits > ${trait}`)
      const { ran, failed } = await collect(
        (functions) => describeDmaScheme(functions, () => claiming(scheme(), traits), small),
        of,
      )
      expect(ran).toBeGreaterThan(0)
      expect(failed.map(({ name }) => name).join('\n')).toMatch(of)
    })
  }
})

describe('describeDmaScheme fails a limit that is not true', () => {
  const cases = [
    ['a granule of 16 where it is 4096', pages, {}, { granule: 16 }, /reach/],
    ['a granule of 4096 where there is none', direct, { reach: 'granule' }, { granule: 4096 }, /reach/],
    ['mappings longer than a descriptor', direct, {}, { maxMappingLength: 2 ** 33 }, /limits are/],
    [
      'mappings longer than there is room for',
      bouncing,
      {},
      { maxMappingLength: 16_384 },
      /maxMappingLength can be had/,
    ],
    ['fewer live mappings than there are', bouncing, {}, { maxLiveMappings: 10 }, /until none is left, small/],
    ['lower device addresses than it hands out', bouncing, {}, { maxDeviceAddress: 0xffff_ffff }, /to the device/],
    ['fewer stale entries than there are', deferred, {}, { staleEntries: 2 }, /revocation/],
    ['stale entries of a strict backend', exact, {}, { staleEntries: 2 }, /revocation/],
  ] as const
  for (const [label, scheme, traits, limits, of] of cases) {
    test(label, async () => {
      const { failed } = await collect(
        (functions) => describeDmaScheme(functions, () => claiming(scheme(), traits, limits), small),
        of,
      )
      expect(failed.map(({ name }) => name).join('\n')).toMatch(of)
    })
  }
})
