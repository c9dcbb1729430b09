import { pooledIommuScheme, virtioIommuScheme } from 'guestdma'
import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { programPeer } from '../matrix/program-peer.ts'
import { revocationRun } from './revocation.ts'
import { rngRun } from './rng.ts'
import { blkRun, killed, netRun, queueReset, systemReset } from './runs.ts'
import { behindIommu, direct, pool, pooledIommu, poolOf, region, regionOf } from './schemes.ts'
import { DISK_SLOT, type Setting } from './site.ts'

export const qemuX86: PeerProgram = programPeer('qemu', 'QEMU', 'qemu-system-x86_64', [
  'qemu-system-x86',
  'qemu-system-common',
  'seabios',
])
export const qemuArm: PeerProgram = programPeer('qemu-arm', 'QEMU', 'qemu-system-aarch64', [
  'qemu-system-arm',
  'qemu-system-common',
])

const POOL = 8 << 20

interface Row {
  readonly driver: 'blk' | 'net'
  readonly backend: string
  readonly transport: string
  readonly what: string
  readonly ring?: 'packed'
  readonly setting: Setting
}

const schemes: readonly (readonly [backend: string, setting: Omit<Setting, 'machine'>])[] = [
  ['direct', { scheme: direct }],
  ['shared-pool', { scheme: pool, pool: POOL, reach: poolOf }],
  ['on-device', { scheme: region, region: true, pool: 1 << 20, reach: regionOf }],
  ['virtio-iommu', { iommu: true, scheme: behindIommu((at) => virtioIommuScheme(at)) }],
  ['virtio-iommu-lazy', { iommu: true, scheme: behindIommu((at) => virtioIommuScheme({ ...at, mode: 'lazy' })) }],
  [
    'virtio-iommu-bounce',
    { iommu: true, scheme: behindIommu((at) => virtioIommuScheme({ ...at, subGranule: 'bounce' })) },
  ],
  ['virtio-iommu-simple', { iommu: true, scheme: behindIommu((at) => pooledIommuScheme(at)) }],
  ['virtio-iommu-pool', { iommu: true, pool: POOL, scheme: pooledIommu }],
]

const rows: readonly Row[] = [
  ...(['blk', 'net'] as const).flatMap((driver) =>
    schemes.map(([backend, setting]): Row => {
      const packed: Setting = { machine: 'q35', ...setting, device: 'packed=on' }
      return { driver, backend, transport: 'pci', what: '', ring: 'packed', setting: packed }
    }),
  ),
  ...(['blk', 'net'] as const).flatMap((driver) =>
    schemes.map(([backend, setting]): Row => {
      return { driver, backend, transport: 'pci', what: '', setting: { machine: 'q35', ...setting } }
    }),
  ),
  ...(['blk', 'net'] as const).flatMap((driver): Row[] => [
    { driver, backend: 'direct', transport: 'mmio', what: '', setting: { machine: 'microvm', scheme: direct } },
    {
      driver,
      backend: 'shared-pool',
      transport: 'mmio',
      what: '',
      setting: { machine: 'microvm', scheme: pool, pool: POOL, reach: poolOf },
    },
    {
      driver,
      backend: 'direct',
      transport: 'pci',
      what: 'messages in memory',
      setting: { machine: 'q35', scheme: direct, more: { messages: 'memory' } },
    },
    {
      driver,
      backend: 'virtio-iommu',
      transport: 'pci',
      what: 'messages in memory',
      setting: {
        machine: 'q35',
        iommu: true,
        scheme: behindIommu((at) => virtioIommuScheme(at)),
        more: { messages: 'memory' },
      },
    },
    {
      driver,
      backend: 'direct',
      transport: 'pci',
      what: 'without event index and indirect tables',
      setting: { machine: 'q35', scheme: direct, device: 'event_idx=off,indirect_desc=off' },
    },
    {
      driver,
      backend: 'direct',
      transport: 'pci',
      what: 'pool buffers',
      setting: { machine: 'q35', scheme: direct, more: { mode: 'pool' } },
    },
  ]),
  ...[4, 1024].map((size): Row => {
    const setting: Setting = { machine: 'q35', scheme: direct, device: `queue-size=${size}`, more: { queueSize: size } }
    return { driver: 'blk', backend: 'direct', transport: 'pci', what: `queue of ${size}`, setting }
  }),
  {
    driver: 'blk',
    backend: 'direct',
    transport: 'pci',
    what: 'transitional',
    setting: { machine: 'q35', scheme: direct, device: 'disable-legacy=off' },
  },
]

const PLAIN = { role: 'device', ring: 'split' } as const

export const qemuCases: readonly PeerCase[] = [
  ...rows.map(
    ({ driver, backend, transport, what, setting, ring }): PeerCase => ({
      ...PLAIN,
      ...(ring === undefined ? {} : { ring }),
      peer: 'qemu',
      driver,
      backend,
      transport,
      what,
      run: driver === 'blk' ? blkRun(setting) : netRun(setting),
    }),
  ),
  ...(['blk', 'net'] as const).map((driver): PeerCase => {
    const setting: Setting = { machine: 'virt', scheme: direct, device: 'mmio' }
    const run = driver === 'blk' ? blkRun(setting) : netRun(setting)
    return { ...PLAIN, peer: 'qemu-arm', driver, backend: 'direct', transport: 'mmio', what: '', run }
  }),
  {
    ...PLAIN,
    peer: 'qemu',
    driver: 'blk',
    backend: 'direct',
    transport: 'pci',
    what: 'system_reset',
    run: systemReset,
  },
  { ...PLAIN, peer: 'qemu', driver: 'blk', backend: 'direct', transport: 'pci', what: 'killed', run: killed },
  ...schemes
    .filter(([backend]) => ['direct', 'shared-pool', 'on-device', 'virtio-iommu'].includes(backend))
    .flatMap(([backend, scheme]) =>
      (['split', 'packed'] as const).map((ring): PeerCase => {
        const setting: Setting = { machine: 'q35', ...scheme, ...(ring === 'packed' ? { device: 'packed=on' } : {}) }
        const labels = { ...PLAIN, ring, peer: 'qemu', driver: 'net', backend, transport: 'pci' } as const
        return { ...labels, what: 'each queue reset alone', run: queueReset(setting) }
      }),
    ),
  ...schemes.map(([backend, setting]): PeerCase => {
    const run = rngRun({ machine: 'q35', ...setting }, DISK_SLOT)
    return { ...PLAIN, peer: 'qemu', driver: 'rng', backend, transport: 'pci', what: 'a driver kind of its own', run }
  }),
  ...(['strict', 'lazy'] as const).map((mode): PeerCase => {
    const backend = mode === 'strict' ? 'virtio-iommu' : 'virtio-iommu-lazy'
    const labels = { ...PLAIN, peer: 'qemu', driver: 'blk', backend, transport: 'pci' }
    return { ...labels, what: 'an address that was taken back', run: revocationRun(mode) }
  }),
]
