import type { Variant } from '@guestdma/bench'
import { type DmaScheme, directScheme } from '@guestdma/dma'
import {
  createMachine,
  type DeviceConfig,
  type Machine,
  onDeviceScheme,
  pooledIommuScheme,
  sharedPagesScheme,
  sharedPoolScheme,
  virtioIommuScheme,
} from 'guestdma'
import { loadCrowd } from './crowd.ts'

/** The schemes that are measured, by id. */
export const SCHEMES: Readonly<Record<string, () => DmaScheme>> = {
  direct: () => directScheme(),
  'shared-pool': () => sharedPoolScheme({ size: 8 << 20 }),
  'on-device': () => onDeviceScheme({ size: 8 << 20 }),
  'virtio-iommu': () => virtioIommuScheme(),
  'virtio-iommu-lazy': () => virtioIommuScheme({ mode: 'lazy' }),
  'virtio-iommu-byte': () => virtioIommuScheme({ granule: 1 }),
  'virtio-iommu-bounce': () => virtioIommuScheme({ subGranule: 'bounce' }),
  'virtio-iommu-simple': () => pooledIommuScheme({ size: 8 << 20 }),
  'shared-pages': () => sharedPagesScheme(),
}

/** The harness's own loop, with neither driver nor device: what is in every other figure as well. */
export const NONE = 'none'

const RAM = 64 << 20

/**
 * A machine with one device over the scheme that a variant names; for cold buffers, with RAM for four times the
 * last-level cache.
 */
export async function machineFor(
  { backend, base, buffers, lastLevelCacheBytes, crowded }: Variant,
  device: DeviceConfig,
): Promise<Machine> {
  if (crowded) await loadCrowd(base)
  const length = RAM + (buffers === 'cold' ? 4 * lastLevelCacheBytes : 0)
  return createMachine({
    memory: [{ base, length, memory: new ArrayBuffer(length) }],
    // Memory on a device lies behind a BAR.
    transport: backend === 'on-device' ? 'pci' : 'mmio',
    schemes: [SCHEMES[backend]()],
    devices: [{ ...device, dma: backend }],
  })
}

/** Backend and queue counters of a device, flat, for the report. */
export function countersOf(machine: Machine, name: string): Record<string, number> {
  const { backend, queues } = machine.counters().devices[name]
  const { slots: _slots, slotsInUse: _inUse, slotsHighWater: _high, allocatedBytes: _allocated, ...totals } = backend
  const notified = Object.values(queues).reduce((sum, queue) => sum + queue.notified, 0)
  return { ...totals, notified }
}

/**
 * Guest addresses for buffers of `stride` bytes: a few that are used again and again, or four times the last-level
 * cache.
 */
export function bufferRing(
  machine: Machine,
  { buffers, batch, lastLevelCacheBytes }: Variant,
  stride: number,
): { base: number; count: number } {
  const count = buffers === 'cold' ? Math.floor((4 * lastLevelCacheBytes) / stride) : batch
  return { base: machine.ram.allocate(count * stride, 64), count }
}
