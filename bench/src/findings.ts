import {
  answer,
  type BenchReport,
  type BenchResult,
  costReport,
  exposed,
  isHeadline,
  markdownTable,
  NONE,
  PROFILE_NAMES,
  parametersOf,
} from '@guestdma/bench'
import { whole } from './numbers.ts'

/** Schemes of which whole curves are measured. */
const CURVES = ['direct', 'shared-pool', 'on-device', 'virtio-iommu', 'virtio-iommu-lazy']
const SHARES = [1, 2, 4, 8]

/** What docs/benchmarks.md quotes of costs, measured and modelled. Throws where a result is missing. */
export function findingFigures(report: BenchReport): Readonly<Record<string, string>> {
  const { results } = report
  const find = findIn(results)
  const one = (operation: string, backend: string, mode = 'map', ring: BenchResult['ring'] = 'split'): BenchResult =>
    find({ operation, backend, mode, ring, bytes: 64, batch: 32 })
  const times = (a: BenchResult, b: BenchResult): string =>
    (a.nsPerOperation.median / b.nsPerOperation.median).toFixed(2)
  const transmitted = (backend: string, counter: string): string => {
    const { counters, batch } = one('transmit', backend)
    return whole((counters[counter] ?? 0) * batch)
  }
  return {
    'small-packets': smallPacketTable(results, one),
    'maps-per-batch': transmitted('virtio-iommu', 'mapRequests'),
    'unmaps-per-batch': transmitted('virtio-iommu', 'unmapRequests'),
    'byte-maps-per-batch': transmitted('virtio-iommu-byte', 'mapRequests'),
    'receive-copied': whole(one('receive', 'shared-pool').counters.bytesCopiedFromDevice),
    'receive-cleared': whole(one('receive', 'shared-pool').counters.bytesCleared),
    'receive-cleared-on-lend': whole(one('receive', 'shared-pool-on-lend').counters.bytesCleared),
    exposure: exposureSummary(report),
    'bench-cases': String(results.length),
    'harness-share': percent(one('transmit', NONE), one('transmit', 'direct')),
    'null-share': percent(one('transmit', 'null'), one('transmit', 'direct')),
    'by-size-transmit': curves(results, 'transmit', 'bytes'),
    'by-size-receive': curves(results, 'receive', 'bytes'),
    'by-batch-transmit': curves(results, 'transmit', 'batch'),
    'by-batch-receive': curves(results, 'receive', 'batch'),
    'counters-transmit': counterTable(results, 'transmit'),
    'counters-receive': counterTable(results, 'receive'),
    'modes-receive': modeTable(one, times),
    sides: sidesTable(find),
    rings: ringTable(one, times),
    disk: diskTable(find),
    'model-times': timesTable(report),
    'model-lazy': lazyTable(report),
    'model-overcommit': overcommitTable(report),
    'on-device-measured': times(one('transmit', 'on-device'), one('transmit', 'shared-pool')),
    'on-device-measured-receive': times(one('receive', 'on-device'), one('receive', 'shared-pool')),
    'simple-measured': times(one('transmit', 'virtio-iommu-simple'), one('transmit', 'shared-pool')),
    'simple-measured-receive': times(one('receive', 'virtio-iommu-simple'), one('receive', 'shared-pool')),
    'lazy-measured': times(one('transmit', 'virtio-iommu-lazy'), one('transmit', 'virtio-iommu')),
    'lazy-measured-receive': times(one('receive', 'virtio-iommu-lazy'), one('receive', 'virtio-iommu')),
    'default-pool-measured': times(one('transmit', 'default-pool'), one('transmit', 'shared-pool')),
    'default-pool-measured-receive': times(one('receive', 'default-pool'), one('receive', 'shared-pool')),
    'default-pool-cleared': whole(one('receive', 'default-pool').counters.bytesCleared),
    'pool-transmit': times(one('transmit', 'shared-pool'), one('transmit', 'direct')),
    'pool-receive': times(one('receive', 'shared-pool'), one('receive', 'direct')),
    'iommu-transmit': times(one('transmit', 'virtio-iommu'), one('transmit', 'direct')),
    'iommu-receive': times(one('receive', 'virtio-iommu'), one('receive', 'direct')),
  }
}

const KINDS = [
  ['transmit', 'map'],
  ['transmit', 'pool'],
  ['receive', 'map'],
  ['receive', 'pool'],
] as const

function smallPacketTable(results: readonly BenchResult[], one: One): string {
  const backends = [...new Set(results.map(({ backend }) => backend))].filter(
    (backend) => backend !== NONE && backend !== 'null',
  )
  return markdownTable(
    ['ns per 64-byte frame, batches of 32', ...KINDS.map((kind) => kind.join(', '))],
    backends.map((backend) => [
      `\`${backend}\`${backend === 'on-device' ? ' (over PCI, metered)' : ''}`,
      ...KINDS.map(([operation, mode]) => whole(one(operation, backend, mode).nsPerOperation.median)),
    ]),
  )
}

const ATTACKED = [
  ['send 64', 'transmit', 64],
  ['receive 64', 'receive', 64],
  ['receive 1514', 'receive', 1514],
  ['disk read 4096', 'read', 4096],
  ['disk write 4096', 'write', 4096],
] as const

function exposureSummary({ exposure = [] }: BenchReport): string {
  const rows = new Map(exposure.map(({ backend, mode }) => [`${backend} ${mode}`, { backend, mode }]))
  return markdownTable(
    ['scheme and mode', ...ATTACKED.map(([title]) => title)],
    [...rows.values()].map(({ backend, mode }) => [
      `\`${backend}\`, ${mode}`,
      ...ATTACKED.map(([, operation, bytes]) => {
        const found = exposure.find(
          (row) => row.backend === backend && row.mode === mode && row.operation === operation && row.bytes === bytes,
        )
        if (found === undefined) return ''
        const { readable, writable } = exposed(found)
        return readable === 0 && writable === 0 ? '0' : `${amount(readable)} / ${amount(writable)}`
      }),
    ]),
  )
}

function amount(bytes: number): string {
  if (bytes < 1000) return whole(bytes)
  return bytes < 1e6 ? `${short(bytes / 1000)} K` : `${short(bytes / 1e6)} M`
}

type Wanted = Partial<BenchResult>

function findIn(results: readonly BenchResult[]): (wanted: Wanted) => BenchResult {
  return (wanted) => {
    const all: Wanted = { ring: 'split', buffers: 'warm', ...wanted }
    const entries = Object.entries(all) as [keyof BenchResult, unknown][]
    const found = results.find((result) => entries.every(([name, value]) => result[name] === value))
    if (found !== undefined) return found
    throw new Error(`there is no result for ${Object.values(all).join(' ')}; measure anew: pnpm figures --measure`)
  }
}

// Of direct the nanoseconds, and of the others how many times that.
function curves(results: readonly BenchResult[], operation: string, along: 'bytes' | 'batch'): string {
  const rows = results.filter(
    (one) =>
      one.driver === 'net' &&
      one.operation === operation &&
      one.mode === 'map' &&
      one.ring === 'split' &&
      one.buffers === 'warm' &&
      (along === 'bytes' ? one.batch === 32 : one.bytes === 64),
  )
  const values = [...new Set(rows.filter(({ backend }) => backend === 'direct').map((one) => one[along]))]
  const find = findIn(rows)
  const ns = (backend: string, value: number): number => find({ backend, [along]: value }).nsPerOperation.median
  return markdownTable(
    [along === 'bytes' ? 'bytes of a frame' : 'frames of a batch', ...values.map(String)],
    CURVES.map((backend) => [
      backend === 'direct' ? '`direct`, ns' : `\`${backend}\`, × direct`,
      ...values.map((value) =>
        backend === 'direct' ? whole(ns(backend, value)) : (ns(backend, value) / ns('direct', value)).toFixed(2),
      ),
    ]),
  )
}

const COUNTERS = [
  ['doorbells', ['notified']],
  ['barriers', ['barriers']],
  ['copied, bytes', ['bytesCopiedToDevice', 'bytesCopiedFromDevice']],
  ['cleared, bytes', ['bytesCleared']],
  ['read by DMA, bytes', ['bytesReadByDma']],
  ['written by DMA, bytes', ['bytesWrittenByDma']],
  ['IOMMU or page requests', ['mapRequests', 'unmapRequests']],
  ['waits', ['synchronousCommits']],
  ['IOTLB misses', ['iotlbMisses']],
] as const

function counterTable(results: readonly BenchResult[], operation: string): string {
  const rows = results.filter(
    (one) => isHeadline(one) && one.operation === operation && one.mode === 'map' && one.ring === 'split',
  )
  return markdownTable(
    ['for one frame', ...COUNTERS.map(([title]) => title)],
    rows
      .filter(({ backend }) => backend !== NONE && backend !== 'null')
      .map(({ backend, counters }) => [
        `\`${backend}\``,
        ...COUNTERS.map(([, names]) => {
          const counted = names.filter((name) => counters[name] !== undefined)
          if (counted.length === 0) return ''
          return short(counted.reduce((sum, name) => sum + counters[name], 0))
        }),
      ]),
  )
}

type One = (operation: string, backend: string, mode?: string, ring?: BenchResult['ring']) => BenchResult
type Times = (a: BenchResult, b: BenchResult) => string

function modeTable(one: One, times: Times): string {
  const base = one('receive', 'direct', 'map')
  return markdownTable(
    ['receive, × direct in map mode', 'map', 'pool', 'pool, headers copied'],
    CURVES.map((backend) => [
      `\`${backend}\``,
      ...['map', 'pool', 'pool-header'].map((mode) => times(one('receive', backend, mode), base)),
    ]),
  )
}

function ringTable(one: One, times: Times): string {
  return markdownTable(
    ['packed, × split', 'transmit', 'receive'],
    CURVES.map((backend) => [
      `\`${backend}\``,
      ...['transmit', 'receive'].map((operation) =>
        times(one(operation, backend, 'map', 'packed'), one(operation, backend)),
      ),
    ]),
  )
}

function sidesTable(find: (wanted: Wanted) => BenchResult): string {
  const works = [
    ['send', { driver: 'net', operation: 'transmit', bytes: 64 }],
    ['receive', { driver: 'net', operation: 'receive', bytes: 64 }],
    ['disk write', { driver: 'blk', operation: 'write', bytes: 512 }],
  ] as const
  return markdownTable(
    ['ns', ...works.flatMap(([title]) => [`${title}: driver`, 'device'])],
    CURVES.map((backend) => [
      `\`${backend}\``,
      ...works.flatMap(([, work]) => {
        const { driverShare, nsPerOperation } = find({ ...work, backend, mode: 'map', batch: 32 })
        if (driverShare === undefined)
          throw new Error('there is no share of the driver; measure anew: pnpm figures --measure')
        return [driverShare, 1 - driverShare].map((share) => whole(share * nsPerOperation.median))
      }),
    ]),
  )
}

function diskTable(find: (wanted: Wanted) => BenchResult): string {
  const ns = (operation: string, backend: string): number =>
    find({ driver: 'blk', operation, backend, mode: 'map', bytes: 512, batch: 32 }).nsPerOperation.median
  return markdownTable(
    ['512 bytes, 32 requests at a time', 'read', 'write'],
    CURVES.map((backend) => [
      backend === 'direct' ? '`direct`, ns' : `\`${backend}\`, × direct`,
      ...['read', 'write'].map((operation) =>
        backend === 'direct'
          ? whole(ns(operation, backend))
          : (ns(operation, backend) / ns(operation, 'direct')).toFixed(2),
      ),
    ]),
  )
}

function timesTable({ results }: BenchReport): string {
  const split = results.filter(({ ring }) => ring === 'split')
  const byProfile = PROFILE_NAMES.map((profile) => answer(split, parametersOf(profile)).times)
  return markdownTable(
    ['memory on the device, × host memory', ...PROFILE_NAMES.map((profile) => `\`${profile}\``)],
    byProfile[0].map(({ what }, i) => [what, ...byProfile.map((times) => short(times[i].times))]),
  )
}

function lazyTable({ results }: BenchReport): string {
  const { cases } = answer(results, parametersOf('memslot')).lazy
  const shown = cases.filter(
    ({ ring, operation, bytes, batch }) =>
      ring === 'split' && bytes === 64 && [1, 32].includes(batch) && ['transmit', 'receive'].includes(operation),
  )
  return markdownTable(
    [
      '64-byte frames',
      'waits saved',
      'requests added',
      'modelled: pays from a wait of',
      'measured dearer by',
      'paid for by a wait of',
    ],
    shown.map((one) => [
      `${one.operation}, batches of ${one.batch}`,
      short(one.waitsSaved),
      short(one.requestsAdded),
      ns(one.leastWait),
      ns(one.measuredDearer),
      ns(one.leastWaitMeasured),
    ]),
  )
}

// Where the device shares the cores with the virtual CPUs.
function overcommitTable(report: BenchReport): string {
  const rows = (['memslot', 'pcie-wc', 'pcie-uc'] as const).flatMap((profile) => {
    const { overcommit } = costReport(report, profile)
    const of = overcommit.rows.filter(({ deviceOn }) => deviceOn === 'own-core')
    return ['direct', 'shared-pool', 'on-device'].map((backend) => {
      const mine = of.filter((row) => row.backend === backend)
      return [
        `\`${backend}\`, \`${profile}\``,
        mine.length === 0 ? '' : whole(mine[0].bounce),
        ...SHARES.map((share) => {
          const row = mine.find(({ virtualCpus, cores }) => virtualCpus === share * cores)
          return row === undefined ? '' : `${percentOf(row.completed / row.offered)}, ${whole(row.latency.p99 / 1000)}`
        }),
      ]
    })
  })
  return markdownTable(
    ['scheme and profile', 'CPU ns for a frame', ...SHARES.map((share) => `V/P ${share}: done, p99 in µs`)],
    rows,
  )
}

function ns(value: number | null): string {
  return value === null ? 'never' : `${whole(value)} ns`
}

function percent(a: BenchResult, b: BenchResult): string {
  return percentOf(a.nsPerOperation.median / b.nsPerOperation.median)
}

function percentOf(ratio: number): string {
  return `${(ratio * 100).toFixed(ratio < 0.1 ? 1 : 0)} %`
}

function short(value: number): string {
  if (value === 0) return '0'
  return value < 10 ? String(Number(value.toPrecision(2))) : whole(value)
}
