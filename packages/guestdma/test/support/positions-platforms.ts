import { BlkDevice, type BusWindows } from '@guestdma/devices'
import { type DmaScheme, directScheme, platformScheme } from '@guestdma/dma'
import { deviceAddress } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { onDeviceScheme, pooledIommuScheme, sharedPagesScheme, sharedPoolScheme, virtioIommuScheme } from 'guestdma'

/** An IOMMU that nobody drives and that blocks everything, or everything but a pool. */
export function stubIommu(withPool: boolean): DmaScheme {
  return platformScheme('stub', (platform) => {
    platform.declareIommu({ bypass: false })
    platform.declareRam(!withPool)
    if (!withPool) return () => platform.nothing()
    const { guest, window } = platform.reserve(1 << 20, 4096)
    platform.declarePool({ window, device: deviceAddress(guest), home: 'guest-ram' })
    return () => platform.window(deviceAddress(guest), window)
  })
}

/** What a driver does that knows nothing of bit 27: guest addresses, wherever it runs. */
export function unawareScheme(): DmaScheme {
  const { provider, install } = directScheme()
  const accept = FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM)
  return {
    id: 'old',
    provider: { ...provider, id: 'old', assess: () => ({ fit: 'usable', accept, why: 'it knows no 27' }) },
    install,
  }
}

/** A region on the device and a pool in guest RAM beside it; the device reaches both, and which is used is open. */
export function withPool(size: number): DmaScheme {
  const pool = sharedPoolScheme({ size })
  const region = onDeviceScheme({ size, bit: 'offered' })
  return platformScheme('both', (platform) => {
    const { windows } = pool.install(platform)() as BusWindows
    const port = region.install(platform)() as BusWindows
    port.setWindows([...windows, ...port.windows])
    return () => port
  })
}

/** A pool in guest RAM, on a platform that does not follow the RFC, under devices that name a region all the same. */
export function withReservedCapability(size: number): DmaScheme {
  const pool = sharedPoolScheme({ size })
  return platformScheme('before the RFC', (platform) => {
    platform.deviceMemory(size)
    return pool.install(platform)
  })
}

/** Every scheme that ships, with a transport that it works over. */
export const EVERY: readonly (readonly [string, () => DmaScheme, 'mmio' | 'pci'])[] = [
  ['direct', () => directScheme(), 'mmio'],
  ['shared-pool', () => sharedPoolScheme({ size: 1 << 20 }), 'mmio'],
  ['default pool', () => sharedPoolScheme({ size: 2 << 20, per: 'machine' }), 'mmio'],
  ['on-device', () => onDeviceScheme({ size: 1 << 20 }), 'pci'],
  ['virtio-iommu', () => virtioIommuScheme(), 'mmio'],
  ['virtio-iommu-lazy', () => virtioIommuScheme({ mode: 'lazy' }), 'mmio'],
  ['virtio-iommu-pool', () => pooledIommuScheme({ size: 1 << 20, privateRam: true }), 'mmio'],
  ['shared-pages', () => sharedPagesScheme(), 'mmio'],
]

/** A disk that does not answer resets while it is stuck. */
export class StuckDisk extends BlkDevice {
  stuck = false

  override writeStatus(value: number): boolean {
    return this.stuck && value === 0 ? true : super.writeStatus(value)
  }
}
