import type { PoolFact } from '@guestdma/dma'
import type { IvshmemRegion, Qemu } from '@guestdma/qemu'
import { PciTransport } from '@guestdma/transport'
import { directScheme, onDeviceScheme, pooledIommuScheme, sharedPoolScheme, type virtioIommuScheme } from 'guestdma'
import { DISK_SLOT, found, IOMMU_SLOT, NET_SLOTS, type Scheme, type Setting } from './site.ts'

export const direct = (): Scheme => directScheme()
export const poolOf = ({ pool: fact }: Qemu): PoolFact => {
  if (fact === undefined) throw new Error('QEMU was started without a pool')
  return fact
}
export const regionOf = (qemu: Qemu, memory: IvshmemRegion | null): PoolFact => {
  if (memory === null) throw new Error('QEMU was started without memory on a device')
  return memory.place(qemu)
}
export const pool = (qemu: Qemu): Scheme => sharedPoolScheme({ memory: () => poolOf(qemu), per: 'machine' })
export const region = (qemu: Qemu, memory: IvshmemRegion | null): Scheme => {
  const fact = regionOf(qemu, memory)
  // Both stations of a network share the memory of one neighbour.
  const half = fact.window.length / 2
  return onDeviceScheme({
    bit: 'absent',
    memory: (device) => {
      const into = device === 'net1' ? half : 0
      const window = { ...fact.window, offset: fact.window.offset + into, length: half }
      return { ...fact, window, device: (fact.device + into) as typeof fact.device }
    },
  })
}

/** The requester ID by which QEMU's IOMMU knows a function of bus 0. */
function endpointOf(device: string): number {
  return (device === 'disk' ? DISK_SLOT : NET_SLOTS[device === 'net0' ? 0 : 1]) << 3
}

type Foreign = NonNullable<NonNullable<Parameters<typeof virtioIommuScheme>[0]>['iommu']>

function iommuOf(qemu: Qemu): Foreign {
  return { transport: () => found(PciTransport.probe(qemu.pci(IOMMU_SLOT), 'iommu')), endpoint: endpointOf }
}

export function behindIommu(make: (options: { readonly iommu: Foreign }) => Scheme): Setting['scheme'] {
  return (qemu) => make({ iommu: iommuOf(qemu) })
}

/** QEMU has a part of the guest's memory and no more: pools of its devices, and what its IOMMU itself reads and writes. */
export function pooledIommu(qemu: Qemu): Scheme {
  const all = poolOf(qemu)
  const share = all.window.length / 4
  const part = (index: number): PoolFact => ({
    ...all,
    window: { ...all.window, offset: all.window.offset + index * share, length: share },
    device: (all.device + index * share) as PoolFact['device'],
  })
  return pooledIommuScheme({
    privateRam: true,
    memory: (device) => part(device === 'net1' ? 2 : 1),
    iommu: { ...iommuOf(qemu), ownPool: part(0) },
  })
}
