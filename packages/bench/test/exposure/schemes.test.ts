import type { DmaTraits } from '@guestdma/dma'
import { createMachine, directScheme, pooledIommuScheme, SCHEMES, sharedPoolScheme, virtioIommuScheme } from 'guestdma'
import { describe, expect, test } from 'vitest'
import type { ExposureClass, ExposureResult } from '../../src/contract/result.ts'
import type { AttackOptions } from '../../src/exposure/options.ts'
import { attack, exposed, MEASURED, type Schemes } from '../../src/index.ts'
import { lyingScheme, zeroScheme } from '../support/leaky-schemes.ts'

const RAM = 32 << 20
// Three batches of 64.
const SHORT = { ring: 'split', ramBytes: RAM, perSecond: 100_000, seconds: 0.0019 } as const
const SLOW = 60_000

const SCHEMES_UNDER_ATTACK: Schemes = {
  ...SCHEMES,
  'default-pool': MEASURED['default-pool'],
  'virtio-iommu-pool': (sizes) => pooledIommuScheme({ size: sizes?.poolBytes ?? 0, privateRam: true }),
}

type Work = Pick<AttackOptions, 'driver' | 'operation' | 'mode' | 'bytes'>

const attacked = (backend: string, work: Work, more: Partial<AttackOptions> = {}): Promise<ExposureResult> =>
  attack({ schemes: SCHEMES_UNDER_ATTACK, backend, ...SHORT, ...work, ...more })

const transmit = { driver: 'net', operation: 'transmit', mode: 'map', bytes: 64 } as const
const receive = { driver: 'net', operation: 'receive', mode: 'map', bytes: 1514 } as const
const read = { driver: 'blk', operation: 'read', mode: 'map', bytes: 512 } as const
const write = { driver: 'blk', operation: 'write', mode: 'map', bytes: 512 } as const

// What says nothing about a scheme: see `exposed`.
const EVERYWHERE: readonly ExposureClass[] = ['own-residue', 'metadata']

/** The classes of which anything was reached. */
function classes(amounts: ExposureResult['readable']): ExposureClass[] {
  return (Object.keys(amounts) as ExposureClass[])
    .filter((name) => amounts[name] > 0 && !EVERYWHERE.includes(name))
    .sort()
}

async function traitsOf(backend: string): Promise<DmaTraits> {
  const scheme = SCHEMES_UNDER_ATTACK[backend]({ poolBytes: 1 << 20 })
  const machine = await createMachine({
    memory: [{ base: 0x8000_0000, length: RAM, memory: new ArrayBuffer(RAM) }],
    transport: 'pci',
    schemes: [scheme],
    devices: [{ type: 'net', name: 'net0', dma: scheme.id, device: { mac: [2, 0, 0, 0, 0, 1] } }],
  })
  const { traits } = machine.device('net0').negotiated.backend
  await machine.close()
  return traits
}

/** Which classes may be reached at all, by what a backend claims and whether its memory is shared with other devices. */
function expected(
  traits: DmaTraits,
  shared: boolean,
  { driver, mode, operation }: Work,
): Record<'readable' | 'writable', ExposureClass[]> {
  const toDevice = operation === 'transmit' || operation === 'write'
  const all = traits.reach === 'all'
  const trusting = traits.readOnly === 'not-enforced'
  const lasting = traits.revocation !== 'strict'
  const inPages = traits.reach === 'granule' && traits.streaming === 'in-place'
  const when = (holds: boolean, name: ExposureClass): ExposureClass[] => (holds ? [name] : [])
  const both = [...when(all, 'foreign'), ...when(all || shared, 'other-devices')]
  if (mode !== 'map') {
    // A pool is not bounded by what is lent of it, but for an IOMMU that lets the device read it only.
    const inPool = toDevice && operation === 'transmit' && (traits.reach === 'pool' || trusting)
    return {
      readable: [...both].sort(),
      writable: [...both, ...when(inPool, 'direction'), ...when(!toDevice && mode === 'pool', 'mutable')].sort(),
    }
  }
  return {
    readable: [
      ...both,
      // Beside a frame of 64 bytes there is most of a page; beside sectors there are sectors.
      ...when(inPages && operation === 'transmit', 'slack'),
      // What a device wrote itself is no secret to it.
      ...when(lasting && (toDevice || (trusting && driver === 'blk')), 'stale'),
      ...when(trusting && driver === 'blk' && !toDevice, 'direction'),
    ].sort(),
    writable: [
      ...both,
      ...when(inPages && trusting && operation === 'transmit', 'slack'),
      ...when(lasting && (!toDevice || trusting), 'stale'),
      ...when(trusting && toDevice, 'direction'),
      ...when(lasting && !toDevice, 'mutable'),
    ].sort(),
  }
}

describe.each(Object.keys(SCHEMES_UNDER_ATTACK))('%s exposes what its traits say and nothing else', (backend) => {
  const works: Work[] = [
    transmit,
    { ...transmit, mode: 'pool' },
    receive,
    { ...receive, mode: 'pool' },
    { ...receive, mode: 'pool-header', bytes: 64 },
    read,
    write,
  ]
  test.each(works)('$driver $operation, $mode, $bytes bytes', { timeout: SLOW }, async (work) => {
    const { readable, writable } = await attacked(backend, work)
    const traits = await traitsOf(backend)
    expect({ readable: classes(readable), writable: classes(writable) }).toEqual(
      expected(traits, backend === 'default-pool', work),
    )
  })
})

describe('figures that follow from the rhythm of a batch', () => {
  const SIZE = 64

  test('an unconfined device changes what was read while its owner has it: half of the time', {
    timeout: SLOW,
  }, async () => {
    const { writable } = await attacked('direct', read)
    expect(writable.mutable).toBe((SIZE * 512) / 2)
  })

  test('and what was lent for reading, for a period and a quarter', { timeout: SLOW }, async () => {
    const { writable } = await attacked('direct', write)
    expect(writable.direction).toBe(1.25 * SIZE * 512)
  })

  test('so it is in a pool, which nothing is copied into', { timeout: SLOW }, async () => {
    const frames = await attacked('shared-pool', { ...transmit, mode: 'pool' })
    expect(frames.writable.direction).toBe(1.25 * SIZE * 76)
    // A disk's pool has 64 buffers: 32 for each of two batches.
    const requests = await attacked('shared-pool', { ...write, mode: 'pool' })
    expect(requests.writable.direction).toBe(1.25 * 32 * 512)
    expect(requests.setting.ringFill).toBe(0.25)
  })

  test('with the headers copied only what is behind them can be changed', { timeout: SLOW }, async () => {
    const pool = await attacked('shared-pool', { ...receive, mode: 'pool' })
    const header = await attacked('shared-pool', { ...receive, mode: 'pool-header' })
    expect(header.writable.mutable / pool.writable.mutable).toBeCloseTo((1514 - 64) / 1514, 2)
  })

  test('strict pages keep what lies beside a frame within reach while the frame is lent', {
    timeout: SLOW,
  }, async () => {
    const { readable } = await attacked('virtio-iommu', transmit)
    // Two buffers lie in a page, in any order, and 80 are lent on average.
    expect(readable.slack).toBeGreaterThan(40 * (4096 - 2 * 76))
    expect(readable.slack).toBeLessThan(80 * (4096 - 76))
  })
})

test('what a device wrote into its pool is its own residue, where it may read there at all', {
  timeout: SLOW,
}, async () => {
  const inPool = { ...receive, mode: 'pool' } as const
  const of = async (backend: string): Promise<number> => (await attacked(backend, inPool)).readable['own-residue']
  // All 256 buffers of the ring held a frame once.
  expect(await of('shared-pool')).toBeGreaterThan(250 * 1514)
  expect(await of('virtio-iommu')).toBe(0)
})

describe('what stays in a pool', () => {
  const schemes: Schemes = {
    'default-pool': MEASURED['default-pool'],
    'cleared-on-lend': (sizes) => sharedPoolScheme({ size: sizes?.poolBytes ?? 0, per: 'machine', clear: 'on-lend' }),
    'own-pool': MEASURED['shared-pool'],
  }
  // With its header. Both devices send the same number of frames of the same size.
  const FRAME = 76

  test('another device reads frames while they are lent, and rings always', { timeout: SLOW }, async () => {
    const { readable } = await attacked('default-pool', transmit, { schemes })
    expect(readable['other-devices'] - readable.metadata).toBe(1.25 * 64 * FRAME)
  })

  test('and frames of before, where slots are not cleared as they come back', { timeout: SLOW }, async () => {
    const { readable } = await attacked('cleared-on-lend', transmit, { schemes })
    expect(readable['other-devices'] - readable.metadata).toBeGreaterThan(1.25 * 64 * FRAME)
  })

  test('a device finds its own frames of before, unless they were cleared', { timeout: SLOW }, async () => {
    expect((await attacked('own-pool', transmit, { schemes })).readable['own-residue']).toBeGreaterThan(0)
    expect((await attacked('default-pool', transmit, { schemes })).readable['own-residue']).toBe(0)
  })
})

describe('deferred removals', () => {
  const lazy = (perSecond: number, options: { ms?: number; entries?: number } = {}): Promise<number> => {
    const schemes = { lazy: () => virtioIommuScheme({ mode: 'lazy', lazy: options }) }
    // Buffers of whole pages: no neighbour keeps them within reach.
    const work = { ...write, bytes: 4096, perSecond, seconds: 192 / perSecond }
    return attacked('lazy', work, { schemes }).then(({ readable }) => readable.stale)
  }

  test('leave more within reach at a higher rate, and less with fewer milliseconds', { timeout: SLOW }, async () => {
    const [slow, fast, fastButSoon] = [await lazy(100), await lazy(10_000), await lazy(10_000, { ms: 1 })]
    expect(slow).toBeLessThan(fast)
    expect(fastButSoon).toBeLessThan(fast)
    // From when the driver took a batch back until the next one was lent: three quarters of the time.
    expect(fast).toBe(0.75 * 64 * 4096)
  })

  test('are never more than their entries', { timeout: SLOW }, async () => {
    expect(await lazy(100_000, { entries: 256 })).toBeLessThanOrEqual(256 * 4096)
    expect(await lazy(100_000, { entries: 32 })).toBeLessThanOrEqual(32 * 4096)
  })

  test('10 ms are 10 ms of the virtual clock', { timeout: SLOW }, async () => {
    // A batch in 16 ms: it would be within reach for 12 of them.
    expect(await lazy(4000, { ms: 20 })).toBe(0.75 * 64 * 4096)
    expect(await lazy(4000, { ms: 10 })).toBeLessThan(0.75 * 64 * 4096)
  })
})

describe('before the driver takes hold of the device', () => {
  test.each([
    ['direct', RAM],
    ['shared-pool', 0],
    ['virtio-iommu', 0],
    ['shared-pages', 0],
    ['boot-bypass', RAM],
  ])('%s: %i bytes of the guest are within reach', { timeout: SLOW }, async (backend, bytes) => {
    const schemes = { ...SCHEMES_UNDER_ATTACK, 'boot-bypass': () => virtioIommuScheme({ bootBypass: true }) }
    const { beforeAttach, readable } = await attacked(backend, transmit, { schemes })
    expect(beforeAttach.readable).toBe(bytes)
    expect(beforeAttach.writable).toBe(bytes)
    if (backend === 'boot-bypass') expect(readable.foreign).toBe(0)
  })
})

describe('schemes of third parties', () => {
  test('one that claims strict revocation and never revokes is found out', { timeout: SLOW }, async () => {
    const schemes = { lying: () => lyingScheme(), honest: SCHEMES['shared-pages'] }
    const whole = { ...write, bytes: 4096 }
    const lying = await attacked('lying', whole, { schemes })
    expect(lying.readable.stale).toBeGreaterThan(64 * 4096)
    expect(lying.writable.stale).toBeGreaterThan(64 * 4096)
    // The same scheme without the lie, so that it was the lie that was found.
    const honest = await attacked('honest', whole, { schemes })
    expect([honest.readable.stale, honest.writable.stale]).toEqual([0, 0])
  })

  test('zeros instead of a refusal are no exposure, and a write that is lost is none either', {
    timeout: SLOW,
  }, async () => {
    const schemes = { zeros: () => zeroScheme(), honest: SCHEMES['shared-pages'] }
    const zeros = await attacked('zeros', { ...write, bytes: 4096 }, { schemes })
    const honest = await attacked('honest', { ...write, bytes: 4096 }, { schemes })
    expect(exposed(zeros)).toEqual(exposed(honest))
    expect(zeros.readable.foreign + zeros.writable.foreign + zeros.readable.stale).toBe(0)
    expect(zeros.beforeAttach).toEqual({ readable: 0, writable: 0 })
    // It granted what the other refused.
    expect(zeros.probes.read).toBeGreaterThan(honest.probes.read)
  })
})

describe('the same seed', () => {
  const seeded = (seed: number): Promise<ExposureResult> => attacked('virtio-iommu', transmit, { seed })

  test('gives the same result, and another seed another layout', { timeout: SLOW }, async () => {
    const [first, second, other] = [await seeded(7), await seeded(7), await seeded(8)]
    expect(second).toEqual(first)
    expect(other.readable.stale).not.toBe(first.readable.stale)
  })

  test('gives the same traffic under each scheme', { timeout: SLOW }, async () => {
    const inPool = { ...receive, mode: 'pool' } as const
    const [ours, another] = [await attacked('shared-pool', inPool), await attacked('virtio-iommu', inPool)]
    expect(another.setting).toEqual(ours.setting)
    expect(another.writable.mutable).toBe(ours.writable.mutable)
  })

  test('gives the same result while other attacks run', { timeout: SLOW }, async () => {
    const alone = await seeded(7)
    const [beside] = await Promise.all([seeded(7), attacked('direct', transmit), attacked('shared-pool', receive)])
    expect(beside).toEqual(alone)
  })
})

test('either ring exposes the same payload', { timeout: SLOW }, async () => {
  const [split, packed] = [await attacked('direct', write), await attacked('direct', write, { ring: 'packed' })]
  expect(packed.writable.direction).toBe(split.writable.direction)
  expect(packed.ring).toBe('packed')
})

test('a larger guest exposes more to an unconfined device, and nothing to one behind a pool', {
  timeout: SLOW,
}, async () => {
  const schemes = { direct: () => directScheme(), pool: SCHEMES['shared-pool'] }
  const of = async (backend: string, ramBytes: number): Promise<number> =>
    (await attacked(backend, transmit, { schemes, ramBytes })).readable.foreign
  const more = (await of('direct', 48 << 20)) - (await of('direct', 32 << 20))
  // But for a block that holds secrets in part.
  expect(Math.abs(more - (16 << 20))).toBeLessThan(4096)
  expect(await of('pool', 48 << 20)).toBe(0)
})
