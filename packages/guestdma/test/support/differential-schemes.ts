import { BusWindows } from '@guestdma/devices'
import { type DmaScheme, directScheme, type PlatformBuilder } from '@guestdma/dma'
import { type VirtioIommuSchemeOptions, virtioIommuScheme } from '@guestdma/iommu'
import { onDeviceScheme, pooledIommuScheme, sharedPagesScheme, sharedPoolScheme } from 'guestdma'

export interface Variant {
  readonly label: string
  /** Made anew for each machine. */
  make(): DmaScheme
  /** The device brings its own bounce memory along: feature bit 27, and whether it insists. */
  readonly swiotlb?: 'required' | 'offered'
  /** Removals are deferred, up to so many. */
  readonly staleEntries?: number
  /** All devices use one pool. */
  readonly shared?: boolean
  /** Too small for the pools of all devices in `pool` mode. */
  readonly mapOnly?: boolean
}

// Fewer than a batch often has, so that some commits wait and some do not; and what it is by default.
const LAZY_ENTRIES = 4
const DEFAULT_ENTRIES = 256
// Room for a ring and a few of the longest frames.
const SMALL = 768 << 10
const lazy: VirtioIommuSchemeOptions = { mode: 'lazy', lazy: { entries: LAZY_ENTRIES } }
const iommu = (label: string, options: VirtioIommuSchemeOptions): Variant => ({
  label,
  make: () => virtioIommuScheme(options),
  ...(options.mode === 'lazy' ? { staleEntries: options.lazy?.entries ?? DEFAULT_ENTRIES } : {}),
})

// Not a multiple of what anything is aligned to but a page: buffers and rings lie across.
const STAGE_BYTES = (1 << 20) + 4096

// A second stage under the IOMMU that grants guest RAM piece by piece, and passes messages on.
function inPieces(platform: PlatformBuilder): BusWindows {
  const { device, memory } = platform
  const [{ base, length, region, offset }] = memory.ranges
  const windows = []
  for (let at = 0; at < length; at += STAGE_BYTES)
    windows.push({ base: base + at, length: Math.min(STAGE_BYTES, length - at), region, offset: offset + at })
  const all = platform.everything()
  const pieces = new BusWindows(`${device} stage 2`, windows)
  return Object.assign(pieces, {
    message: (data: number): boolean => {
      all.request[0] = pieces.request[0]
      return all.message?.(data) === true
    },
  })
}

/** Every scheme, and every way to set one up that differs in what it does. */
export const VARIANTS: readonly Variant[] = [
  { label: 'direct', make: () => directScheme() },
  { label: 'direct with a bus offset', make: () => directScheme({ busOffset: 0x12_3456_7000 }) },
  { label: 'shared-pool', make: () => sharedPoolScheme() },
  { label: 'shared-pool, cleared on return', make: () => sharedPoolScheme({ clear: 'on-return' }) },
  { label: 'shared-pool per machine', make: () => sharedPoolScheme({ per: 'machine', size: 16 << 20 }), shared: true },
  { label: 'on-device, bus addresses', make: () => onDeviceScheme(), swiotlb: 'required' },
  { label: 'on-device, offsets', make: () => onDeviceScheme({ addressing: 'offset' }), swiotlb: 'required' },
  { label: 'on-device, bit 27 offered', make: () => onDeviceScheme({ bit: 'offered' }), swiotlb: 'offered' },
  iommu('virtio-iommu strict', {}),
  iommu('virtio-iommu strict, granule 64 KiB', { granule: 65_536 }),
  iommu('virtio-iommu strict, byte-granular', { granule: 1 }),
  iommu('virtio-iommu strict, bounce', { subGranule: 'bounce' }),
  iommu('virtio-iommu strict, bounce, granule 64 KiB', { subGranule: 'bounce', granule: 65_536 }),
  iommu('virtio-iommu strict, granule 16', { granule: 16 }),
  iommu('virtio-iommu lazy', { mode: 'lazy' }),
  iommu('virtio-iommu lazy, 4 entries', lazy),
  iommu('virtio-iommu lazy, 4 entries, byte-granular', { ...lazy, granule: 1 }),
  iommu('virtio-iommu lazy, 4 entries, bounce', { ...lazy, subGranule: 'bounce' }),
  iommu('two stages', { downstream: inPieces }),
  iommu('two stages, bounce', { downstream: inPieces, subGranule: 'bounce' }),
  { label: 'virtio-iommu-simple', make: () => pooledIommuScheme() },
  { label: 'virtio-iommu-pool', make: () => pooledIommuScheme({ privateRam: true }) },
  { label: 'shared-pool, small', make: () => sharedPoolScheme({ size: SMALL }), mapOnly: true },
  {
    label: 'shared-pool per machine, small',
    make: () => sharedPoolScheme({ per: 'machine', size: 4 * SMALL }),
    shared: true,
    mapOnly: true,
  },
  {
    label: 'virtio-iommu-pool, small',
    make: () => pooledIommuScheme({ privateRam: true, size: SMALL }),
    mapOnly: true,
  },
  { label: 'shared-pages', make: () => sharedPagesScheme() },
]

/** Up to five variants whose schemes can be in one machine; `pick(n)` returns an integer below n. */
export function mixture(pick: (limit: number) => number): Variant[] {
  const chosen: Variant[] = []
  const fit = VARIANTS.filter(({ mapOnly }) => mapOnly !== true)
  for (let tries = 0; tries < 16 && chosen.length < 5; tries++) {
    const variant = fit[pick(fit.length)]
    const { id } = variant.make()
    if (chosen.every((other) => other.make().id !== id)) chosen.push(variant)
  }
  return chosen
}
