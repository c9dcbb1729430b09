import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { IvshmemRegion, launchQemu, type Qemu } from '@guestdma/qemu'
import { MmioTransport, PciTransport, type VirtioTransport } from '@guestdma/transport'
import {
  createMachine,
  directScheme,
  type Machine,
  type MachineConfig,
  MachineEvents,
  onDeviceScheme,
  pooledIommuScheme,
  type RemoteConfig,
  sharedPoolScheme,
  virtioIommuScheme,
} from 'guestdma'
import type { CaseProgress, PeerCase } from '../matrix/case.ts'
import { programPeer } from '../matrix/program-peer.ts'
import { diskWork, expectIs, expectSame, netWork, pattern, Station, wholeDisk } from './workloads.ts'

export const qemuX86 = programPeer('qemu', 'QEMU', 'qemu-system-x86_64', [
  'qemu-system-x86',
  'qemu-system-common',
  'seabios',
])
export const qemuArm = programPeer('qemu-arm', 'QEMU', 'qemu-system-aarch64', ['qemu-system-arm', 'qemu-system-common'])

const DISK = 2 << 20
const POOL = 8 << 20
const IOMMU_SLOT = 2
const DISK_SLOT = 3
const NET_SLOTS = [4, 5] as const
const REGION_SLOT = 6

type MachineName = 'q35' | 'microvm' | 'virt'
type Scheme = NonNullable<MachineConfig['schemes']>[number]

/** How a case differs from a plain one. */
interface Setting {
  readonly machine: MachineName
  /** Options of the device on QEMU's command line, such as `queue-size=4`. */
  readonly device?: string
  /** The scheme, given what QEMU has. */
  readonly scheme: (qemu: Qemu, region: IvshmemRegion | null) => Scheme
  /** Bytes of a pool that is all that QEMU has of the guest's memory. */
  readonly pool?: number
  readonly iommu?: boolean
  readonly region?: boolean
  readonly more?: Partial<RemoteConfig>
}

const direct = (): Scheme => directScheme()
const pool = (qemu: Qemu): Scheme => {
  const { pool: fact } = qemu
  if (fact === undefined) throw new Error('QEMU was started without a pool')
  return sharedPoolScheme({ memory: () => fact, per: 'machine' })
}
const region = (qemu: Qemu, memory: IvshmemRegion | null): Scheme => {
  if (memory === null) throw new Error('QEMU was started without memory on a device')
  const fact = memory.place(qemu)
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

function behindIommu(make: (iommu: Parameters<typeof virtioIommuScheme>[0] & object) => Scheme): Setting['scheme'] {
  return (qemu) =>
    make({
      iommu: {
        transport: () => found(PciTransport.probe(qemu.pci(IOMMU_SLOT), 'iommu')),
        endpoint: endpointOf,
      },
    })
}

function found(transport: VirtioTransport | null): VirtioTransport {
  if (transport === null) throw new Error('there is no virtio device in this place')
  return transport
}

/** A QEMU with what a setting asks for, and the folder of its disk. */
interface Site {
  readonly qemu: Qemu
  readonly region: IvshmemRegion | null
  readonly disk: string
}

async function withQemu(
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
    await body({ qemu, region: memory, disk })
  } finally {
    await qemu?.close()
    memory?.close()
    rmSync(dir, { recursive: true, force: true })
  }
}

function blkArgs({ machine, device = '', iommu = false }: Setting): string[] {
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

function netArgs({ machine, device = '', iommu = false }: Setting): string[] {
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
]

function compareFeatures(machine: Machine, qemu: Qemu, name: string, type: string): void {
  const { features } = machine.device(name).negotiated
  const theirs = featuresInQemu(qemu, type)
  for (const [bit, label] of NAMED) expectIs(`${label} in QEMU`, theirs.has(label), features.has(bit))
}

async function machineOf(
  { qemu, region }: Site,
  setting: Setting,
  devices: readonly { readonly name: string; readonly more?: Partial<RemoteConfig> }[],
  events: MachineEvents,
): Promise<Machine> {
  const scheme = setting.scheme(qemu, region)
  return createMachine({
    memory: qemu.memory,
    schemes: [scheme],
    events,
    deadlineMs: 10_000,
    devices: devices.map(({ name, more }) => ({
      type: name === 'disk' ? ('blk' as const) : ('net' as const),
      name,
      transport: transportTo(qemu, setting, name),
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
function watch(events: MachineEvents): string[] {
  const told: string[] = []
  events.on('iommuFault', ({ device, reason }) => told.push(`${device}: IOMMU fault ${reason}`))
  events.on('needsReset', ({ device, error }) => told.push(`${device}: ${error.message}`))
  return told
}

/** Disk work, resets in the middle of it, and the file in the end. */
function blkRun(setting: Setting): PeerCase['run'] {
  return (progress) =>
    withQemu(setting, blkArgs(setting), progress, async (site) => {
      const events = new MachineEvents()
      const told = watch(events)
      const machine = await machineOf(site, setting, [{ name: 'disk' }], events)
      compareFeatures(machine, site.qemu, 'disk', 'virtio-blk')
      let model = await diskWork(machine, 'disk', pattern(DISK, 5), progress)
      // A reset while requests are under way: they end, and the disk goes on.
      progress.saw('a reset in the middle of requests')
      const cut = Array.from({ length: 4 }, (_, i) => machine.blk('disk').readBytes(i * 8, 4096))
      const ended = Promise.allSettled(cut)
      await machine.reset('disk')
      await ended
      model = await diskWork(machine, 'disk', model, progress, { rounds: 6, seed: 2 })
      expectIs('faults and broken devices', told, [])
      await machine.close()
      progress.saw('the machine is closed')
      expectSame('the file', readFileSync(site.disk), model)
    })
}

function netRun(setting: Setting): PeerCase['run'] {
  return (progress) =>
    withQemu(setting, netArgs(setting), progress, async (site) => {
      const events = new MachineEvents()
      const told = watch(events)
      const stations = [new Station(), new Station()] as const
      const devices = stations.map(({ observer }, i) => ({ name: `net${i}`, more: { observer } }))
      const machine = await machineOf(site, setting, devices, events)
      compareFeatures(machine, site.qemu, 'net0', 'virtio-net')
      await netWork(machine, ['net0', 'net1'], stations, progress)
      progress.saw('a reset')
      for (const { frames } of stations) frames.length = 0
      for (const name of ['net0', 'net1']) await machine.reset(name)
      machine.pump()
      await netWork(machine, ['net0', 'net1'], stations, progress, { rounds: 4 })
      expectIs('faults and broken devices', told, [])
      await machine.close()
    })
}

/** The machine is reset under the driver: it notices, and a reset of the device makes it go on. */
const systemReset: PeerCase['run'] = (progress) => {
  const setting: Setting = { machine: 'q35', scheme: direct }
  return withQemu(setting, blkArgs(setting), progress, async (site) => {
    const events = new MachineEvents()
    const told = watch(events)
    const machine = await machineOf(site, setting, [{ name: 'disk' }], events)
    const model = await diskWork(machine, 'disk', pattern(DISK, 5), progress, { rounds: 4 })
    site.qemu.qmp('system_reset')
    progress.saw('the system was reset')
    const read = machine.blk('disk').readBytes(0, 512)
    const outcome = await machine.run(read).then(
      () => 'it was answered',
      (error: { code?: string }) => error.code,
    )
    expectIs('what became of a request to a device that somebody reset', outcome, 'DRIVER_DEVICE_BROKEN')
    expectIs('devices that are told to need a reset', told.length, 1)
    await machine.close().catch(() => {})
    // The firmware's part was undone as well: BARs are assigned anew with a new machine.
    await wholeFile(site, model)
  })
}

async function wholeFile({ disk }: Site, model: Uint8Array): Promise<void> {
  expectSame('the file', readFileSync(disk), model)
}

/** QEMU is killed while requests are under way: each ends with a typed error, and memory is cut off with it. */
const killed: PeerCase['run'] = (progress) => {
  const setting: Setting = { machine: 'q35', scheme: direct, more: { detach: () => true } }
  return withQemu(setting, blkArgs(setting), progress, async (site) => {
    const events = new MachineEvents()
    const machine = await machineOf(site, setting, [{ name: 'disk' }], events)
    await wholeDisk(machine, 'disk', pattern(DISK, 5))
    const requests = Array.from({ length: 8 }, (_, i) => machine.blk('disk').readBytes(i * 8, 4096))
    const outcomes = Promise.allSettled(requests)
    process.kill(site.qemu.pid, 'SIGKILL')
    progress.saw('QEMU was killed')
    await machine.run(outcomes)
    const codes = new Set(
      (await outcomes).map((one) => (one.status === 'rejected' ? (one.reason as { code?: string }).code : 'answered')),
    )
    codes.delete('answered')
    expectIs('how requests end', [...codes], ['DRIVER_DEVICE_BROKEN'])
    await machine.close().then(
      () => Promise.reject(new Error('the end of a machine without its device passed in silence')),
      () => {},
    )
    expectIs('guest RAM in use', machine.ram.allocated, 0)
  })
}

interface Row {
  readonly driver: 'blk' | 'net'
  readonly backend: string
  readonly transport: string
  readonly what: string
  readonly setting: Setting
}

const schemes: readonly (readonly [backend: string, setting: Omit<Setting, 'machine'>])[] = [
  ['direct', { scheme: direct }],
  ['shared-pool', { scheme: pool, pool: POOL }],
  ['on-device', { scheme: region, region: true, pool: 1 << 20 }],
  ['virtio-iommu', { iommu: true, scheme: behindIommu((at) => virtioIommuScheme(at)) }],
  ['virtio-iommu-lazy', { iommu: true, scheme: behindIommu((at) => virtioIommuScheme({ ...at, mode: 'lazy' })) }],
  [
    'virtio-iommu-bounce',
    { iommu: true, scheme: behindIommu((at) => virtioIommuScheme({ ...at, subGranule: 'bounce' })) },
  ],
  ['virtio-iommu-simple', { iommu: true, scheme: behindIommu((at) => pooledIommuScheme(at)) }],
]

const rows: readonly Row[] = [
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
      setting: { machine: 'microvm', scheme: pool, pool: POOL },
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
    ({ driver, backend, transport, what, setting }): PeerCase => ({
      ...PLAIN,
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
]
