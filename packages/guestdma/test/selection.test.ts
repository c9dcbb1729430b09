import { onDeviceScheme, sharedPoolScheme } from '@guestdma/bounce'
import { type DmaProvider, directScheme, type FactKey, listedIds, type PlatformOffer, select } from '@guestdma/dma'
import { iommuEndpointFact, pooledIommuScheme, virtioIommuScheme } from '@guestdma/iommu'
import { deviceAddress, GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import {
  FeatureSet,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_ORDER_PLATFORM,
  VIRTIO_F_SWIOTLB,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import { describe, expect, test } from 'vitest'

// The built-in order: on-device, virtio-iommu, the shared pool, direct. The IOMMU over a pool comes with its platform.
const PROVIDERS: readonly DmaProvider[] = [
  onDeviceScheme().provider,
  virtioIommuScheme().provider,
  pooledIommuScheme({ privateRam: true }).provider,
  sharedPoolScheme().provider,
  directScheme().provider,
]
const IDS = PROVIDERS.map(({ id }) => id)

interface Inputs {
  /** Bit 27 is offered. */
  readonly bit27: boolean
  /** The platform follows the RFC. Without it there is no region either: its capability is of a reserved type. */
  readonly rfc: boolean
  /** A valid region on the device. */
  readonly region: boolean
  readonly transport: 'mmio' | 'pci' | 'transitional pci' | 'vhost-user'
  /** ACCESS_PLATFORM is offered. */
  readonly a: boolean
  /** The endpoint is behind an IOMMU: one that its driver drives, one in bypass, or a stub. */
  readonly i: 'none' | 'driven' | 'bypass' | 'stub'
  readonly p: boolean
  readonly m: boolean
  readonly busOffset: number
}

const INPUTS: readonly Inputs[] = (() => {
  const bools = [false, true]
  const all: Inputs[] = []
  for (const bit27 of bools)
    for (const rfc of bools)
      for (const region of bools)
        for (const transport of ['mmio', 'pci', 'transitional pci', 'vhost-user'] as const)
          for (const a of bools)
            for (const i of ['none', 'driven', 'bypass', 'stub'] as const)
              for (const p of bools)
                for (const m of bools)
                  for (const busOffset of [0, 0x1_0000_0000])
                    all.push({ bit27, rfc, region, transport, a, i, p, m, busOffset })
  return all
})()

const memory = new GuestMemory([{ base: 0x8000_0000, length: 1 << 20, memory: new ArrayBuffer(1 << 20) }])
const ram = new SpanAllocator(guestAddress(0x8000_0000), 1 << 20)
const pool = {
  window: memory.window(guestAddress(0x8000_0000), 1 << 16),
  device: deviceAddress(0x8000_0000),
  home: 'guest-ram' as const,
}

function offerOf(inputs: Inputs, listed: readonly string[]): PlatformOffer {
  const { bit27, rfc, region, transport, a, i, p, m, busOffset } = inputs
  const bits = [VIRTIO_F_VERSION_1, VIRTIO_F_ORDER_PLATFORM]
  if (a) bits.push(VIRTIO_F_ACCESS_PLATFORM)
  if (bit27) bits.push(VIRTIO_F_SWIOTLB)
  return {
    device: 'dev0',
    offered: FeatureSet.of(...bits),
    transport: {
      kind: transport === 'transitional pci' ? 'pci' : transport,
      transitional: transport === 'transitional pci',
    },
    ramReachable: m,
    iommu: i === 'none' ? undefined : { bypass: i === 'bypass' },
    pool: p ? pool : undefined,
    region: rfc && region ? { ...pool, home: 'device-memory' } : undefined,
    swiotlbRfc: rfc,
    busOffset,
    memory,
    ram,
    mayBlock: true,
    enforcedBy: 'trusted-code',
    listed: new Set(listed),
    fact: <T>(key: FactKey<T>): T | undefined => {
      const driven = i === 'driven' || i === 'bypass'
      if ((key as FactKey<unknown>) === iommuEndpointFact) return (driven ? { endpoint: 1 } : undefined) as T
      return (key.name === 'guest address of the pool' && p ? 0x8000_0000 : undefined) as T
    },
  }
}

/** What the table of docs/schemes.md says, row by row, first match. Written without a look at the providers. */
function expected(inputs: Inputs): { scheme: string | 'refused'; accept: readonly number[] } {
  const { bit27, rfc, region, transport, a, i, p, m, busOffset } = inputs
  const r = rfc && region
  const e = bit27 && r && (transport === 'mmio' || transport === 'pci')
  const platform = a ? [VIRTIO_F_ACCESS_PLATFORM] : []
  const drivable = i === 'driven' || i === 'bypass'
  if (e) return { scheme: 'on-device', accept: [VIRTIO_F_SWIOTLB, ...platform] }
  if (r) return { scheme: 'on-device', accept: platform }
  if (a && i !== 'none' && m) return drivable ? { scheme: 'virtio-iommu', accept: platform } : refused
  if (a && i !== 'none' && !m && p) return drivable ? { scheme: 'virtio-iommu-pool', accept: platform } : refused
  if (a && i === 'none' && p) return { scheme: 'shared-pool', accept: platform }
  if (a && i === 'none' && !p && m) return { scheme: 'direct', accept: platform }
  if (!a && m) {
    // Rule 5: a device that withholds ACCESS_PLATFORM does not get less than it would otherwise.
    // Behind an IOMMU, driven or not, and beside a pool, that would not be direct.
    const withheld = i !== 'none' || p
    return withheld || busOffset !== 0 ? refused : { scheme: 'direct', accept: platform }
  }
  if (!a && !m && p) return { scheme: 'shared-pool', accept: platform }
  return refused
}
const refused = { scheme: 'refused', accept: [] } as const

const words = (inputs: Inputs): string =>
  Object.entries(inputs)
    .map(([name, value]) => `${name}=${value}`)
    .join(' ')

describe('the table of choices, over the full cross product of its inputs', () => {
  test(`${INPUTS.length} combinations: the first candidate and the bits that it accepts`, () => {
    const wrong: string[] = []
    for (const inputs of INPUTS) {
      const { ladder } = select(offerOf(inputs, []), PROVIDERS, 'auto')
      const { scheme, accept } = expected(inputs)
      const chosen = ladder[0]?.provider.id ?? 'refused'
      const bits = ladder[0]?.accept.bits() ?? []
      if (chosen !== scheme || bits.join() !== [...accept].join())
        wrong.push(`${words(inputs)}: ${chosen} {${bits}}, not ${scheme} {${accept}}`)
    }
    expect(wrong).toEqual([])
  })

  test('every candidate has a reason, in every combination', () => {
    for (const inputs of INPUTS) {
      const { reports } = select(offerOf(inputs, []), PROVIDERS, 'auto')
      expect(reports.map(({ id }) => id).sort()).toEqual([...IDS].sort())
      for (const { why, outcome } of reports) expect((outcome ?? why).length).toBeGreaterThan(10)
    }
  })

  test('nothing is chosen that confines less than what the platform allows, unless it is listed', () => {
    for (const inputs of INPUTS) {
      const { ladder, downgrade } = select(offerOf(inputs, []), PROVIDERS, 'auto')
      const willing = select(offerOf({ ...inputs, a: true }, []), PROVIDERS, 'auto')
      const strong = willing.ladder.some(({ provider }) => provider.reach !== 'all')
      if (strong) expect(ladder.every(({ provider }) => provider.reach !== 'all')).toBe(true)
      if (downgrade !== undefined) expect(downgrade.refused).toBe('direct')
    }
  })

  test('direct, listed by the caller: A ∧ I only with the endpoint in bypass; a bus offset only with A', {
    tags: ['6.1/access-platform', '6.1/physical'],
  }, () => {
    for (const inputs of INPUTS) {
      const { a, i, m, busOffset } = inputs
      const { ladder } = select(offerOf(inputs, ['direct']), PROVIDERS, 'direct')
      const allowed = m && (a ? i === 'none' || i === 'bypass' : busOffset === 0)
      expect(`${words(inputs)}: ${ladder.length}`).toBe(`${words(inputs)}: ${allowed ? 1 : 0}`)
    }
  })

  test('a pool, listed by the caller, is usable without A as well', () => {
    for (const inputs of INPUTS) {
      const { ladder } = select(offerOf(inputs, ['shared-pool']), PROVIDERS, 'shared-pool')
      const allowed = inputs.p && !(inputs.a && inputs.i !== 'none')
      expect(`${words(inputs)}: ${ladder.length}`).toBe(`${words(inputs)}: ${allowed ? 1 : 0}`)
    }
  })

  test('each scheme pinned by itself is tried or refused, and never another one', () => {
    for (const inputs of INPUTS)
      for (const id of IDS) {
        const { ladder } = select(offerOf(inputs, [id]), PROVIDERS, id)
        expect(ladder.every(({ provider }) => provider.id === id)).toBe(true)
      }
  })

  test('a thread that may not block gets no backend whose commits wait', () => {
    for (const inputs of INPUTS) {
      const { ladder } = select({ ...offerOf(inputs, []), mayBlock: false }, PROVIDERS, 'auto')
      expect(ladder.some(({ provider }) => provider.id.startsWith('virtio-iommu'))).toBe(false)
    }
  })

  test('selection is pure: the same answer twice', () => {
    for (const inputs of INPUTS.filter((_, i) => i % 17 === 0)) {
      const offer = offerOf(inputs, [])
      const plain = (s: ReturnType<typeof select>): unknown => [
        s.ladder.map(({ provider, why }) => [provider.id, why]),
        s.reports,
        s.downgrade,
      ]
      expect(plain(select(offer, PROVIDERS, listedIds('auto').size === 0 ? 'auto' : []))).toEqual(
        plain(select(offer, PROVIDERS, 'auto')),
      )
    }
  })
})

describe('bit 27 means SWIOTLB only where the platform says so (swiotlb/offer)', () => {
  const base: Inputs = {
    bit27: true,
    rfc: true,
    region: true,
    transport: 'pci',
    a: true,
    i: 'none',
    p: true,
    m: true,
    busOffset: 0,
  }
  const accepted = (inputs: Inputs): readonly number[] =>
    select(offerOf(inputs, []), PROVIDERS, 'auto').ladder.flatMap(({ accept }) => accept.bits())

  test.each([
    ['everything is there', {}, true],
    ['the extension is off', { rfc: false }, false],
    ['there is no region', { region: false }, false],
    ['the device is transitional', { transport: 'transitional pci' }, false],
    ['the transport is vhost-user', { transport: 'vhost-user' }, false],
    ['the transport is mmio', { transport: 'mmio' }, true],
    ['it is not offered', { bit27: false }, false],
  ] as const)('%s', (_, change, means) => {
    expect(accepted({ ...base, ...change }).includes(VIRTIO_F_SWIOTLB)).toBe(means)
  })
})
