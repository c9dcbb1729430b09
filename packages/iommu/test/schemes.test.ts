import { DMA_OK, DmaMappings, type DmaScheme, type Suitability } from '@guestdma/dma'
import { VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import {
  type IommuEndpoint,
  iommuEndpointFact,
  pooledIommuScheme,
  sharedPagesScheme,
  virtioIommuScheme,
} from '../src/index.ts'
import { FakePlatform, offer, port } from './support/fake-platform.ts'
import { S, T } from './support/hand-iommu.ts'
import { BASE, BYTES, failure } from './support/iommu-rig.ts'

const why = (suitability: Suitability): string => `${suitability.fit}: ${suitability.why}`
const accepted = (suitability: Suitability): readonly number[] | null =>
  suitability.fit === 'unusable' ? null : suitability.accept.bits()

function installed(scheme: DmaScheme, platform = new FakePlatform(), endpoint = 8) {
  const builder = platform.builder(`net${endpoint}`, endpoint)
  return { platform, builder, reached: scheme.install(builder)(), scheme }
}

function row(at: number, length: number, direction = 3): DmaMappings {
  const m = new DmaMappings(1)
  m.guest[0] = BASE + at
  m.length[0] = length
  m.direction[0] = direction
  return m
}

describe('ids and reach', () => {
  test('an id says what differs from the defaults, and the provider has the same', () => {
    const ids = [
      virtioIommuScheme(),
      virtioIommuScheme({ mode: 'strict', subGranule: 'share', granule: 4096 }),
      virtioIommuScheme({ mode: 'lazy' }),
      virtioIommuScheme({ granule: 1 }),
      virtioIommuScheme({ subGranule: 'bounce' }),
      virtioIommuScheme({ mode: 'lazy', subGranule: 'bounce' }),
      virtioIommuScheme({ mode: 'lazy', granule: 1 }),
      virtioIommuScheme({ mode: 'lazy', id: 'mine' }),
      pooledIommuScheme(),
      pooledIommuScheme({ privateRam: true }),
      pooledIommuScheme({ id: 'other' }),
    ]
    expect(ids.map(({ id }) => id)).toEqual([
      'virtio-iommu',
      'virtio-iommu',
      'virtio-iommu-lazy',
      'virtio-iommu-byte',
      'virtio-iommu-bounce',
      'virtio-iommu-lazy-bounce',
      'virtio-iommu-lazy-byte',
      'mine',
      'virtio-iommu-simple',
      'virtio-iommu-pool',
      'other',
    ])
    expect(ids.map(({ provider }) => provider.id)).toEqual(ids.map(({ id }) => id))
  })

  test('reach is granule, byte or pool', () => {
    const reaches = [virtioIommuScheme(), virtioIommuScheme({ granule: 1 }), pooledIommuScheme()]
    expect(reaches.map(({ provider }) => provider.reach)).toEqual(['granule', 'byte', 'pool'])
  })
})

describe('install', () => {
  test('virtio-iommu: an IOMMU with what was asked for, RAM reachable, and the endpoint', () => {
    const downstream = port()
    const { platform, builder, reached } = installed(
      virtioIommuScheme({ granule: 65_536, bootBypass: true, maxMappings: 7, downstream: () => downstream }),
    )
    expect(platform.asked).toHaveLength(1)
    expect(platform.asked[0]).toMatchObject({ granule: 65_536, bootBypass: true, maxMappings: 7, downstream })
    expect(reached).toBe(platform.iommuPort)
    expect([builder.declared.ram, builder.declared.pool]).toEqual([true, undefined])
    expect(builder.declared.facts.get(iommuEndpointFact)).toMatchObject({ endpoint: 8 })
    const plain = installed(virtioIommuScheme()).platform.asked[0]
    expect(Object.keys(plain).sort()).toEqual(['granule', 'key'])
  })

  test('devices of one scheme share the IOMMU and its driver', () => {
    const scheme = virtioIommuScheme()
    const platform = new FakePlatform()
    const units = [8, 9].map((endpoint) => {
      const { builder } = installed(scheme, platform, endpoint)
      return builder.declared.facts.get(iommuEndpointFact) as IommuEndpoint
    })
    expect(units.map(({ endpoint }) => endpoint)).toEqual([8, 9])
    expect(units[0].unit).toBe(units[1].unit)
    expect(platform.asked[0].key).toBe(platform.asked[1].key)
    expect([platform.prepared.length, platform.pumps.length, platform.closes.length]).toEqual([1, 1, 1])
  })

  test('pools: RAM reachable for the simple one; private RAM with the pool alone below for the other', () => {
    const simple = installed(pooledIommuScheme({ size: 1 << 18 }))
    expect([simple.builder.declared.ram, simple.builder.declared.pool?.window.length]).toEqual([true, 1 << 18])
    expect(Object.keys(simple.platform.asked[0])).toEqual(['key'])
    const apart = installed(pooledIommuScheme({ size: 1 << 18, privateRam: true }))
    expect(apart.builder.declared.ram).toBe(false)
    expect(apart.platform.asked[0].downstream).toBe(apart.platform.windowPort)
    expect(apart.platform.asked[0].ownPool).toBeGreaterThanOrEqual(1 << 17)
    expect(apart.builder.declared.pool?.device).toBe(BASE + (apart.builder.declared.pool?.window.offset ?? 0))
  })

  test('the driver is up after `prepare`, hears of faults, and is closed at the end', async () => {
    const { platform } = installed(virtioIommuScheme())
    for (const start of platform.prepared) await start()
    expect([platform.rig.device.status, platform.rig.device.config.getUint8(36)]).toEqual([15, 0])
    platform.rig.device.report(Uint8Array.from({ length: 24 }, (_, i) => (i === 0 ? 1 : i === 8 ? 3 : 0)))
    expect(platform.pump()).toBe(1)
    expect(platform.faults).toEqual([{ device: 'endpoint 3', reason: 'domain', access: 'unknown', address: undefined }])
    for (const close of platform.closes) await close()
    expect([platform.rig.device.status, platform.rig.ram.available]).toEqual([0, BYTES])
  })
})

describe('assess', () => {
  const scheme = virtioIommuScheme()
  const { platform, builder } = installed(scheme)
  const { assess } = scheme.provider

  test('virtio-iommu: usable behind an IOMMU that is driven here, and ACCESS_PLATFORM goes with it', () => {
    const suitability = assess(offer(platform, builder))
    expect([suitability.fit, accepted(suitability)]).toEqual(['usable', [VIRTIO_F_ACCESS_PLATFORM]])
  })

  test.each([
    ['no IOMMU', { iommu: undefined }, /not behind an IOMMU/],
    ['no ACCESS_PLATFORM', { accessPlatform: false }, /does not offer ACCESS_PLATFORM/],
    ['nobody drives it', { fact: () => undefined }, /nobody drives/],
    ['a thread that may not block', { mayBlock: false }, /may not block/],
    ['private RAM', { ramReachable: false }, /private/],
  ])('virtio-iommu: %s is a reason against it', (_, changes, reason) => {
    expect(why(assess(offer(platform, builder, changes)))).toMatch(new RegExp(`^unusable: .*${reason.source}`))
  })

  const pooled = pooledIommuScheme({ size: 1 << 16 })
  const pool = installed(pooled)

  test.each([
    ['no IOMMU', { iommu: undefined }, /not behind an IOMMU/],
    ['no pool', { pool: undefined }, /no pool/],
    ['a pool that is not in guest RAM', { fact: () => undefined }, /no pool in guest RAM/],
    ['no ACCESS_PLATFORM', { accessPlatform: false }, /does not offer ACCESS_PLATFORM/],
    ['a thread that may not block', { mayBlock: false }, /may not block/],
    ['reachable RAM, and it is not listed', { listed: new Set(['virtio-iommu']) }, /list the pool to use it/],
  ])('pool: %s is a reason against it', (_, changes, reason) => {
    const listed = new Set([pooled.id])
    const suitability = pooled.provider.assess(offer(pool.platform, pool.builder, { listed, ...changes }))
    expect(why(suitability)).toMatch(new RegExp(`^unusable: .*${reason.source}`))
  })

  test('pool: usable where it is listed, or where RAM is private', () => {
    const listed = pooled.provider.assess(offer(pool.platform, pool.builder, { listed: new Set([pooled.id]) }))
    const apart = pooled.provider.assess(offer(pool.platform, pool.builder, { ramReachable: false }))
    expect([why(listed), why(apart)]).toEqual([
      'usable: listed by the caller',
      'usable: guest RAM is private and the pool is not',
    ])
    expect([accepted(listed), accepted(apart)]).toEqual([[VIRTIO_F_ACCESS_PLATFORM], [VIRTIO_F_ACCESS_PLATFORM]])
  })
})

describe('create', () => {
  test('attaches the device, and its backend maps through the driver until it is disposed', async () => {
    const { platform, builder, scheme } = installed(virtioIommuScheme())
    const { device } = platform.rig
    const backend = await scheme.provider.create(offer(platform, builder), device.accepted)
    expect([backend.name, device.attached.get(8)]).toEqual(['virtio-iommu', 0])
    const m = row(0x5010, 100)
    expect([backend.map(m, 0), backend.commitMaps()]).toEqual([DMA_OK, DMA_OK])
    expect(device.translate(8, m.device[0])).toBe(BASE + 0x5010)
    backend.unmap(m, 0, 0)
    expect([backend.commitUnmaps(), device.translate(8, m.device[0])]).toEqual([DMA_OK, -1])
    backend.dispose()
    expect(device.attached.size).toBe(0)
    // Again, after a reset of the device.
    const again = await scheme.provider.create(offer(platform, builder), device.accepted)
    expect([again === backend, device.attached.get(8)]).toEqual([false, 0])
  })

  test("enforcedBy is the composition's to say", async () => {
    for (const enforcedBy of ['trusted-code', 'peer', 'construction'] as const) {
      for (const made of [virtioIommuScheme(), sharedPagesScheme(), pooledIommuScheme({ size: 1 << 18 })]) {
        const { platform, builder, scheme } = installed(made)
        const offered = offer(platform, builder, { enforcedBy })
        const backend = await scheme.provider.create(offered, platform.rig.device.accepted)
        expect(backend.traits.enforcedBy).toBe(enforcedBy)
      }
    }
  })

  test('a refused DETACH of a backend with bounce slots costs no memory: they come back with the next one', async () => {
    const platform = new FakePlatform({ pageSizeMask: 1n })
    const { builder, scheme } = installed(virtioIommuScheme({ granule: 1 }), platform)
    const { device, ram } = platform.rig
    const left: number[] = []
    for (let round = 0; round < 6; round++) {
      device.misbehave = () => undefined
      const backend = await scheme.provider.create(offer(platform, builder), device.accepted)
      left.push(ram.available)
      device.misbehave = ({ type }) => (type === T.DETACH ? { status: S.DEVERR } : undefined)
      expect(await failure(() => backend.dispose())).toBe('DMA_STILL_REACHABLE')
    }
    // What an attempt took is given back once the endpoint is attached again, which is before the next one takes its own.
    expect(new Set(left).size).toBe(1)
    device.misbehave = () => undefined
    for (const close of platform.closes) await close()
    expect(ram.available).toBe(BYTES)
  })

  test('a refused DETACH of a pool gives no slot back, however often dispose is called', async () => {
    const { platform, builder, scheme } = installed(pooledIommuScheme({ size: 1 << 18 }))
    const { device } = platform.rig
    const backend = await scheme.provider.create(offer(platform, builder), device.accepted)
    backend.alloc(4096, 8, 3, 'ring')
    device.misbehave = ({ type }) => (type === T.DETACH ? { status: S.DEVERR } : undefined)
    for (let times = 0; times < 2; times++) {
      expect(await failure(() => backend.dispose())).toBe('DMA_STILL_REACHABLE')
      expect(backend.counters.allocatedBytes).toBe(4096)
    }
    device.misbehave = () => undefined
    backend.dispose()
    expect(backend.counters.allocatedBytes).toBe(0)
  })

  test('lazy: the backend has a turn with the driver, until it is disposed', async () => {
    const { platform, builder, scheme } = installed(virtioIommuScheme({ mode: 'lazy', lazy: { entries: 100, ms: 0 } }))
    const backend = await scheme.provider.create(offer(platform, builder), platform.rig.device.accepted)
    const batch = (): number => {
      const m = row(0, 100)
      backend.map(m, 0)
      backend.commitMaps()
      backend.unmap(m, 0, 0)
      return platform.pump()
    }
    expect([batch(), batch(), platform.pump()]).toEqual([1, 1, 0])
    backend.dispose()
    expect(platform.pump()).toBe(0)
  })

  test('a backend that cannot be made leaves nothing attached', async () => {
    const { platform, builder, scheme } = installed(virtioIommuScheme({ subGranule: 'bounce' }))
    const { device } = platform.rig
    // The slots take more RAM than there is.
    expect(await failure(() => scheme.provider.create(offer(platform, builder), device.accepted))).toBe('DMA_ALLOC')
    expect(device.attached.size).toBe(0)
  })

  test('a backend that cannot be made, and a DETACH that is refused: the error says that the pool is within reach', async () => {
    const { platform, builder, scheme } = installed(pooledIommuScheme({ size: 1 << 16, reserve: -1 }))
    const { device } = platform.rig
    device.misbehave = ({ type }) => (type === T.DETACH ? { status: S.DEVERR } : undefined)
    await expect(scheme.provider.create(offer(platform, builder), device.accepted)).rejects.toMatchObject({
      code: 'DMA_STILL_REACHABLE',
      message: expect.stringMatching(/DEVERR; before that: .*reserve/),
      details: { endpoint: 8, status: S.DEVERR },
    })
    expect(device.mapped.get(0)).toHaveLength(1)
  })

  test.each([true, false])(
    'pool: mapped once, and never a request after that (private RAM: %s)',
    async (privateRam) => {
      const { platform, builder, scheme } = installed(pooledIommuScheme({ size: 1 << 16, privateRam }))
      const { device, bytes } = platform.rig
      const backend = await scheme.provider.create(
        offer(platform, builder, { listed: new Set([scheme.id]) }),
        device.accepted,
      )
      const guest = BASE + (builder.declared.pool?.window.offset ?? 0)
      expect(device.mapped.get(0)).toMatchObject([{ phys: guest, flags: 3 }])
      const { start, end } = device.mapped.get(0)?.[0] ?? { start: 0, end: 0 }
      expect([end - start + 1, start % 4096]).toEqual([1 << 16, 0])
      const sent = device.requests.length
      const at = BYTES - 100
      bytes.fill(0x5e, at, at + 50)
      const m = row(at, 50)
      expect([backend.map(m, 0), backend.commitMaps()]).toEqual([DMA_OK, DMA_OK])
      expect(bytes[device.translate(8, m.device[0]) - BASE]).toBe(0x5e)
      backend.unmap(m, 0, 50)
      expect([backend.commitUnmaps(), device.requests.length]).toEqual([DMA_OK, sent])
      backend.dispose()
      expect([device.attached.size, device.requests[sent].type]).toEqual([0, T.DETACH])
    },
  )

  test.each([
    [
      'MAP is refused',
      (p: FakePlatform) => {
        p.rig.device.misbehave = ({ type }) => (type === T.MAP ? { status: S.NOMEM } : undefined)
      },
      1 << 16,
    ],
    ['the input range is too small', (p: FakePlatform) => p.rig.device.config.setBigUint64(16, 0xffffn, true), 1 << 16],
    ['the pool is shorter than a granule', () => undefined, 2048],
  ] as const)('pool: where %s, an error and nothing is left attached or mapped', async (_, spoil, size) => {
    const { platform, builder, scheme } = installed(pooledIommuScheme({ size }))
    spoil(platform)
    const { device } = platform.rig
    const code = await failure(() => scheme.provider.create(offer(platform, builder), device.accepted))
    expect(code).toMatch(size > 4096 ? /^DMA_ALLOC$/ : /^(DMA_ALLOC|BOUNCE_POOL_SIZE)$/)
    expect([device.attached.size, device.mapped.size]).toEqual([0, 0])
  })

  test('pool: shorter than a page is mapped where granules are bytes', async () => {
    const platform = new FakePlatform({ pageSizeMask: 1n })
    const { builder, scheme } = installed(pooledIommuScheme({ size: 2048 }), platform)
    const backend = await scheme.provider.create(offer(platform, builder), platform.rig.device.accepted)
    const m = row(0x9000, 8)
    expect([backend.map(m, 0), backend.commitMaps()]).toEqual([DMA_OK, DMA_OK])
    expect(platform.rig.device.translate(8, m.device[0])).toBeGreaterThan(0)
  })
})
