import { DMA_FAILED, DMA_OK, type DmaBackend, DmaMappings } from '@guestdma/dma'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import { sharedPagesFact, sharedPagesScheme } from '../src/index.ts'
import { FakePlatform, offer } from './support/fake-platform.ts'
import { BASE, BYTES } from './support/iommu-rig.ts'

async function installed(pageBytes = 4096) {
  const platform = new FakePlatform({ pageBytes })
  const scheme = sharedPagesScheme()
  const builder = platform.builder('net0', 8)
  const reached = scheme.install(builder)()
  const what = offer(platform, builder, { iommu: undefined })
  const backend: DmaBackend = await scheme.provider.create(what, FeatureSet.empty)
  const shared = (): number[] => [...platform.pages.shared].map((at) => (at - BASE) / pageBytes).sort((a, b) => a - b)
  return { platform, scheme, builder, reached, backend, what, shared }
}

function lend(backend: DmaBackend, m: DmaMappings, row: number, at: number, length: number, direction = 3): number {
  m.guest[row] = BASE + at
  m.length[row] = length
  m.direction[row] = direction
  return backend.map(m, row)
}

describe('the shared-pages scheme', () => {
  test('declares private RAM and its pages, and the device reaches what is shared', async () => {
    const { platform, scheme, builder, reached } = await installed()
    expect([scheme.id, scheme.provider.id, scheme.provider.reach]).toEqual(['shared-pages', 'shared-pages', 'granule'])
    expect(sharedPagesScheme({ id: 'mine' }).provider.id).toBe('mine')
    expect(reached).toBe(platform.pages)
    expect(builder.declared.ram).toBe(false)
    expect(builder.declared.facts.get(sharedPagesFact)).toBe(platform.pages)
    expect(platform.asked).toEqual([])
  })

  test('is usable where pages are shared, and takes ACCESS_PLATFORM where it is offered', async () => {
    const { platform, scheme, builder, what } = await installed()
    const { assess } = scheme.provider
    const usable = assess(what)
    expect(usable).toMatchObject({ fit: 'usable', accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM) })
    const without = assess(offer(platform, builder, { offered: FeatureSet.of(VIRTIO_F_VERSION_1) }))
    expect(without).toMatchObject({ fit: 'usable', accept: FeatureSet.empty })
    const elsewhere = assess(offer(platform, builder, { fact: () => undefined }))
    expect(elsewhere).toMatchObject({ fit: 'unusable', why: 'this platform does not share single pages' })
  })

  test('says that it lends whole pages in place, at guest addresses', async () => {
    const { backend } = await installed()
    expect(backend.name).toBe('shared-pages')
    expect(backend.traits).toMatchObject({ streaming: 'in-place', reach: 'granule', revocation: 'deferred' })
    expect(backend.limits).toMatchObject({ granule: 4096, staleEntries: Infinity, maxLiveMappings: Infinity })
  })
})

describe('shared pages', () => {
  test('are those of the buffers that are lent, and no others', async () => {
    const { backend, shared } = await installed()
    const m = new DmaMappings(4)
    expect(lend(backend, m, 0, 100, 200)).toBe(DMA_OK)
    expect(lend(backend, m, 1, 4096 * 3 - 1, 2)).toBe(DMA_OK)
    expect(lend(backend, m, 2, 4096 * 8, 4096 * 2)).toBe(DMA_OK)
    expect([backend.commitMaps(), shared()]).toEqual([DMA_OK, [0, 2, 3, 8, 9]])
    expect([...m.device.subarray(0, 3)]).toEqual([...m.guest.subarray(0, 3)])
    for (let row = 0; row < 3; row++) backend.unmap(m, row, 0)
    expect([backend.commitUnmaps(), shared()]).toEqual([DMA_OK, []])
  })

  test('a page of several buffers is shared once and taken back with the last', async () => {
    const { platform, backend, shared } = await installed()
    const m = new DmaMappings(3)
    for (const row of [0, 1, 2]) lend(backend, m, row, 100 * row, 100)
    backend.commitMaps()
    expect(platform.pages.calls).toEqual([`share ${BASE} 4096`])
    for (const [row, left] of [
      [1, 1],
      [0, 1],
      [2, 0],
    ]) {
      backend.unmap(m, row, 0)
      expect([backend.commitUnmaps(), shared().length]).toEqual([DMA_OK, left])
    }
    expect(platform.pages.calls).toEqual([`share ${BASE} 4096`, `unshare ${BASE} 4096`])
  })

  test('of another size are shared in that size', async () => {
    const { backend, shared } = await installed(65_536)
    const m = new DmaMappings(1)
    lend(backend, m, 0, 65_535, 2)
    backend.commitMaps()
    expect(shared()).toEqual([0, 1])
  })

  test('allocations are shared as long as they live', async () => {
    const { platform, backend, shared } = await installed()
    const region = backend.alloc(5000, 8, 1, 'ring')
    expect([region.device, shared()]).toEqual([BASE, [0, 1]])
    expect(region.device - BASE).toBe(region.offset)
    backend.free(region)
    expect([shared(), platform.rig.ram.available]).toEqual([[], BYTES])
  })

  test('none is left when the backend is disposed', async () => {
    const { platform, backend, shared } = await installed()
    const m = new DmaMappings(2)
    backend.alloc(100, 8, 3, 'ring')
    lend(backend, m, 0, 40_960, 9000)
    lend(backend, m, 1, 41_000, 10)
    backend.commitMaps()
    backend.dispose()
    expect([shared(), platform.rig.ram.available]).toEqual([[], BYTES])
  })
})

describe('pages of a device in another thread', () => {
  test('what it does not let go of is not given back: removals fail, and maps from then on', async () => {
    const { platform, backend } = await installed()
    const m = new DmaMappings(2)
    lend(backend, m, 0, 0, 100)
    expect(backend.commitMaps()).toBe(DMA_OK)
    platform.pages.settles = false
    backend.unmap(m, 0, 0)
    expect(backend.commitUnmaps()).toBe(DMA_FAILED)
    expect(() => backend.dispose()).toThrow(expect.objectContaining({ code: 'DMA_STILL_REACHABLE' }))
    // Its thread has ended by now.
    platform.pages.settles = true
    expect(backend.commitUnmaps()).toBe(DMA_OK)
    lend(backend, m, 1, 4096, 100)
    expect(backend.commitMaps()).toBe(DMA_FAILED)
    backend.dispose()
    expect(platform.pages.shared.size).toBe(0)
  })
})
