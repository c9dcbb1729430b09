import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { AuditedTransport } from '@guestdma/conformance'
import type { PoolFact } from '@guestdma/dma'
import { IvshmemRegion, launchQemu, type Qemu } from '@guestdma/qemu'
import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { MmioTransport, PciTransport, type VirtioTransport } from '@guestdma/transport'
import { createMachine, type Machine, type MachineConfig, type MachineEvents, type RemoteConfig } from 'guestdma'
import type { CaseProgress } from '../matrix/case.ts'
import { auditedWindow } from '../work/audit.ts'
import { expectIs, pattern } from '../work/workloads.ts'

export const DISK: number = 2 << 20
export const IOMMU_SLOT = 2
export const DISK_SLOT = 3
export const NET_SLOTS = [4, 5] as const
const REGION_SLOT = 6

type MachineName = 'q35' | 'microvm' | 'virt'
export type Scheme = NonNullable<MachineConfig['schemes']>[number]

/** How a case differs from a plain one. */
export interface Setting {
  readonly machine: MachineName
  /** Options of the device on QEMU's command line, such as `queue-size=4`. */
  readonly device?: string
  /** The scheme, given what QEMU has. */
  readonly scheme: (qemu: Qemu, region: IvshmemRegion | null) => Scheme
  /** All that the device may be told of; checked at each doorbell. */
  readonly reach?: (qemu: Qemu, region: IvshmemRegion | null) => PoolFact
  /** Bytes of a pool that is all that QEMU has of the guest's memory. */
  readonly pool?: number
  readonly iommu?: boolean
  readonly region?: boolean
  readonly more?: Partial<RemoteConfig>
}

export function found(transport: VirtioTransport | null): VirtioTransport {
  if (transport === null) throw new Error('there is no virtio device in this place')
  return transport
}

/** A QEMU with what a setting asks for, and the folder of its disk. */
export interface Site {
  readonly qemu: Qemu
  readonly region: IvshmemRegion | null
  readonly disk: string
  readonly audits: AuditedTransport[]
}

export async function withQemu(
  setting: Setting,
  devices: readonly string[],
  progress: CaseProgress,
  body: (site: Site) => Promise<void>,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-peers-'))
  const disk = join(dir, 'disk.raw')
  writeFileSync(disk, pattern(DISK, 5))
  const memory = setting.region ? IvshmemRegion.create({ device: REGION_SLOT, bytes: 16 << 20 }) : null
  let qemu: Qemu | null = null
  try {
    progress.saw('QEMU is starting')
    qemu = await launchQemu({
      machine: setting.machine,
      ...(setting.pool === undefined ? {} : { pool: setting.pool }),
      args: [
        ...(setting.iommu ? ['-device', `virtio-iommu-pci,addr=${IOMMU_SLOT}`] : []),
        ...(memory?.args ?? []),
        ...devices.map((arg) => arg.replaceAll('DISK', disk)),
      ],
    })
    progress.saw(`QEMU ${qemu.version} is up`)
    await body({ qemu, region: memory, disk, audits: [] })
  } finally {
    await qemu?.close()
    memory?.close()
    rmSync(dir, { recursive: true, force: true })
  }
}

export function blkArgs({ machine, device = '', iommu = false }: Setting): string[] {
  const mmio = machine === 'microvm' || device.includes('mmio')
  const name = mmio ? 'virtio-blk-device' : 'virtio-blk-pci'
  const place = mmio ? '' : `,addr=${DISK_SLOT}`
  const options = device.replace('mmio', '').replace(/^,/, '')
  const modern = mmio || options.includes('disable-legacy') ? '' : ',disable-legacy=on'
  return [
    ...['-drive', 'if=none,id=d0,format=raw,file=DISK'],
    '-device',
    `${name},drive=d0${place}${modern}${iommu ? ',iommu_platform=on' : ''}${options === '' ? '' : `,${options}`}`,
  ]
}

export function netArgs({ machine, device = '', iommu = false }: Setting): string[] {
  const mmio = machine === 'microvm' || device.includes('mmio')
  return NET_SLOTS.flatMap((slot, i) => [
    ...['-netdev', `hubport,id=n${i},hubid=0`],
    '-device',
    [
      mmio ? 'virtio-net-device' : 'virtio-net-pci',
      `netdev=n${i}`,
      `mac=52:54:00:00:00:0${i + 1}`,
      ...(mmio ? [] : [`addr=${slot}`, 'disable-legacy=on']),
      ...(iommu ? ['iommu_platform=on'] : []),
      ...device.split(',').filter((part) => part !== '' && part !== 'mmio'),
    ].join(','),
  ])
}

/** The transport to a device: by slot on PCI, by order on mmio. */
function transportTo(qemu: Qemu, { machine, device = '' }: Setting, name: string): VirtioTransport {
  const mmio = machine === 'microvm' || device.includes('mmio')
  const order = name === 'net1' ? 1 : 0
  if (mmio) return found(MmioTransport.probe(qemu.mmio(qemu.mmioSlots - 1 - order), name))
  return found(PciTransport.probe(qemu.pci(name === 'disk' ? DISK_SLOT : NET_SLOTS[order]), name))
}

/** What QEMU says that was negotiated, as bits. */
function featuresInQemu(qemu: Qemu, type: string): Set<string> {
  const devices = qemu.qmp('x-query-virtio') as readonly { readonly path: string; readonly name: string }[]
  const path = devices.find(({ name }) => name === type)?.path
  const status = qemu.qmp('x-query-virtio-status', { path }) as {
    readonly 'guest-features': { readonly transports: readonly string[]; readonly 'dev-features'?: readonly string[] }
  }
  const { transports, 'dev-features': own = [] } = status['guest-features']
  return new Set([...transports, ...own].map((text) => text.split(':')[0]))
}

/** Bits by which QEMU's names are compared with ours. */
const NAMED: readonly (readonly [bit: number, name: string])[] = [
  [28, 'VIRTIO_RING_F_INDIRECT_DESC'],
  [29, 'VIRTIO_RING_F_EVENT_IDX'],
  [32, 'VIRTIO_F_VERSION_1'],
  [33, 'VIRTIO_F_IOMMU_PLATFORM'],
  [VIRTIO_F_RING_PACKED, 'VIRTIO_F_RING_PACKED'],
]

export function compareFeatures(
  machine: Machine,
  qemu: Qemu,
  name: string,
  type: string,
  { device = '' }: Setting,
): void {
  const { features } = machine.device(name).negotiated
  const theirs = featuresInQemu(qemu, type)
  for (const [bit, label] of NAMED) expectIs(`${label} in QEMU`, theirs.has(label), features.has(bit))
  expectIs('a packed ring was agreed on', features.has(VIRTIO_F_RING_PACKED), device.includes('packed=on'))
}

export async function machineOf(
  { qemu, region, audits }: Site,
  setting: Setting,
  devices: readonly { readonly name: string; readonly more?: Partial<RemoteConfig> }[],
  events: MachineEvents,
): Promise<Machine> {
  const scheme = setting.scheme(qemu, region)
  const reach = setting.reach?.(qemu, region)
  const to = (name: string): VirtioTransport => {
    const transport = transportTo(qemu, setting, name)
    if (reach === undefined) return transport
    const audited = auditedWindow(transport, reach)
    audits.push(audited)
    return audited
  }
  return createMachine({
    memory: qemu.memory,
    schemes: [scheme],
    events,
    deadlineMs: 10_000,
    devices: devices.map(({ name, more }) => ({
      type: name === 'disk' ? ('blk' as const) : ('net' as const),
      name,
      transport: to(name),
      // What a device of QEMU offers as it is does not always make a scheme the first choice.
      dma: scheme.id,
      requestDeadlineMs: 10_000,
      ...(setting.pool === undefined ? {} : { enforcedBy: 'construction' as const }),
      ...setting.more,
      ...more,
    })),
  })
}

/** Faults that the IOMMU told of, and devices that broke, while a case ran. */
export function watch(events: MachineEvents): string[] {
  const told: string[] = []
  events.on('iommuFault', ({ device, reason }) => told.push(`${device}: IOMMU fault ${reason}`))
  events.on('needsReset', ({ device, error }) => told.push(`${device}: ${error.message}`))
  return told
}
