// Here, because only private packages may import the suite and every scheme.
import { onDeviceScheme, sharedPoolScheme } from '@guestdma/bounce'
import { describeDmaScheme } from '@guestdma/conformance'
import { pooledIommuScheme, sharedPagesScheme, virtioIommuScheme } from '@guestdma/iommu'
import { describe, expect, test } from 'vitest'

const functions = { describe, test, expect }
const small = { ramBytes: 4 << 20, arenaBytes: 1 << 18 }

describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 20 }), { ...small, name: 'shared-pool' })
describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 18, reserve: 2 }), {
  ...small,
  name: 'shared-pool, small',
})
describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 20, per: 'machine' }), {
  ...small,
  name: 'shared-pool of a machine',
})
describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 20, per: 'machine', clear: 'on-lend' }), {
  ...small,
  name: 'shared-pool of a machine, cleared on lend',
})
describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 19, clear: 'on-return' }), {
  ...small,
  name: 'shared-pool, cleared on return',
})
describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 18, clear: 'never' }), {
  ...small,
  name: 'shared-pool, never cleared',
})
describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 18, clear: 'never', per: 'machine' }), {
  ...small,
  name: 'shared-pool of a machine, never cleared',
})

for (const transport of ['mmio', 'pci'] as const) {
  describeDmaScheme(functions, () => onDeviceScheme({ size: 1 << 20 }), {
    ...small,
    transport,
    name: `on-device over ${transport}`,
  })
}
describeDmaScheme(functions, () => onDeviceScheme({ size: 1 << 20, addressing: 'offset', bit: 'offered' }), {
  ...small,
  transport: 'pci',
  name: 'on-device, addressed by offset',
})

// Granules in between are tried by the tests of the iommu package.
const KINDS = [
  [1, 'share', 'strict'],
  [4096, 'share', 'strict'],
  [4096, 'share', 'lazy'],
  [4096, 'bounce', 'strict'],
  [4096, 'bounce', 'lazy'],
  [65_536, 'share', 'strict'],
  [65_536, 'bounce', 'strict'],
] as const
for (const [granule, subGranule, mode] of KINDS)
  describeDmaScheme(functions, () => virtioIommuScheme({ granule, subGranule, mode }), {
    ramBytes: 16 << 20,
    arenaBytes: 1 << 18,
    name: `virtio-iommu, ${mode}, granule ${granule}, ${subGranule}`,
  })
describeDmaScheme(functions, () => pooledIommuScheme({ size: 1 << 20 }), small)
describeDmaScheme(functions, () => pooledIommuScheme({ size: 1 << 20, privateRam: true }), {
  ramBytes: 16 << 20,
  arenaBytes: 1 << 18,
})
describeDmaScheme(functions, () => sharedPagesScheme(), small)
