import { accessCounter, accessedBytes, accesses, CAUSES, type CountedRow, deviceReads, WIDTHS } from './causes.ts'
import type { ParameterName, Parameters } from './parameters.ts'

/** A result with its measured time. */
export interface MeasuredRow extends CountedRow {
  readonly ring: string
  readonly buffers: string
  readonly nsPerOperation: { readonly median: number }
}

/** Memory of the device against a pool in host memory, for one packet. All times are modelled ns. */
export interface DeviceMemoryCase {
  readonly ring: string
  readonly operation: string
  readonly bytes: number
  /** The size that was counted, where `bytes` was not: its payload is shorter or longer by whole words. */
  readonly countedBytes: number
  /** The driver's loads and stores of rings and payload. */
  readonly loads: number
  readonly stores: number
  /** The driver's time for them: in the device's memory, and in a pool of host memory that is in its cache. */
  readonly cpuOnDevice: number
  readonly cpuInHost: number
  /** The device's time to read rings and payload: from its own memory, and by DMA from the pool. */
  readonly deviceOnDevice: number
  readonly deviceInHost: number
  /** Memory on the device loses where a load costs more than this, with the rest as it is; `null` where it loses anyway. */
  readonly mostPerLoad: number | null
  /** The same for a store. */
  readonly mostPerStore: number | null
  /** Memory on the device wins where a DMA round trip costs more than this, with the rest as it is. */
  readonly leastRoundTrip: number | null
}

/** A lazy IOMMU domain against a strict one, for one packet. */
export interface LazyCase {
  readonly ring: string
  readonly operation: string
  readonly bytes: number
  readonly batch: number
  /** Waits that lazy saves, and requests that it adds. */
  readonly waitsSaved: number
  readonly requestsAdded: number
  /** Modelled ns that lazy saves; negative where it costs. */
  readonly saved: number
  /** Lazy wins where a wait costs more than this: modelled ns; `null` where it saves no wait. */
  readonly leastWait: number | null
  /** Measured ns that lazy is dearer, where a wait costs nothing; and the wait that pays for them. */
  readonly measuredDearer: number
  readonly leastWaitMeasured: number | null
}

/** One reading of "10 times slower". */
export interface TimesCase {
  readonly what: string
  readonly times: number
  readonly parameters: readonly ParameterName[]
}

export interface Answers {
  /** Empty where no result of `on-device` counts the accesses of driver and device. */
  readonly deviceMemory: { readonly cases: readonly DeviceMemoryCase[]; readonly parameters: readonly ParameterName[] }
  readonly lazy: { readonly cases: readonly LazyCase[]; readonly parameters: readonly ParameterName[] }
  readonly times: readonly TimesCase[]
}

const ON_DEVICE = 'on-device'
const STRICT = 'virtio-iommu'
const LAZY = 'virtio-iommu-lazy'
/** Frame sizes that are answered for beside those that were counted. */
const SIZES = [64, 128, 256, 512, 1024, 1514]
/** The payload moves in words of this many bytes. */
const WORD = 8

/** Answers the questions of the debate for the results of one report. Pure; nothing measured goes into a modelled figure. */
export function answer(rows: readonly MeasuredRow[], parameters: Parameters): Answers {
  const cases = deviceMemoryCases(rows, parameters)
  return {
    deviceMemory: {
      cases,
      parameters: [
        ...CAUSES.deviceMemoryReads.parameters,
        ...CAUSES.deviceMemoryWrites.parameters,
        'deviceLocalRead',
        ...CAUSES.dmaReads.parameters,
        'cachedAccess',
      ],
    },
    lazy: {
      cases: lazyCases(rows, parameters),
      parameters: [...CAUSES.iommuWaits.parameters, ...CAUSES.iommuRequests.parameters],
    },
    times: timesCases(cases, parameters),
  }
}

function deviceMemoryCases(rows: readonly MeasuredRow[], parameters: Parameters): DeviceMemoryCase[] {
  const counted = rows.filter(
    ({ backend, mode, buffers, counters }) =>
      backend === ON_DEVICE && mode === 'map' && buffers === 'warm' && counters.driverLoads8 !== undefined,
  )
  const rings = [...new Set(counted.map(({ ring }) => ring))]
  const kinds = rings.flatMap((ring) => ['transmit', 'receive'].map((operation) => ({ ring, operation })))
  return kinds.flatMap(({ ring, operation }) => {
    const all = counted.filter((row) => row.ring === ring && row.operation === operation)
    const batch = mostMeasured(all)
    const found = all.filter((row) => row.batch === batch)
    if (found.length === 0) return []
    const sizes = [...new Set([...SIZES, ...found.map(({ bytes }) => bytes)])].sort((a, b) => a - b)
    return sizes.map((bytes) => deviceMemoryCase(nearest(found, bytes), bytes, parameters))
  })
}

// The batch of which the most sizes were counted; of several, the largest.
function mostMeasured(rows: readonly MeasuredRow[]): number {
  const sizes = new Map<number, number>()
  for (const { batch } of rows) sizes.set(batch, (sizes.get(batch) ?? 0) + 1)
  return Math.max(...[...sizes].filter(([, count]) => count === Math.max(...sizes.values())).map(([batch]) => batch))
}

function deviceMemoryCase(row: MeasuredRow, bytes: number, parameters: Parameters): DeviceMemoryCase {
  const counters = withPayload(row, bytes)
  const loads = accesses(counters, 'driver', 'Loads')
  const stores = accesses(counters, 'driver', 'Stores')
  const reading = CAUSES.deviceMemoryReads.ns(counters, parameters)
  const writing = CAUSES.deviceMemoryWrites.ns(counters, parameters)
  const spaced = stores * parameters.writeSpacing
  const read = accessedBytes(counters, 'device', 'Loads')
  const deviceOnDevice = CAUSES.deviceLocalReads.ns(counters, parameters)
  const deviceInHost = deviceReads(read, parameters.dmaRoundTrip, parameters)
  const perRoundTrip = deviceReads(read, 1, parameters)
  const cpuInHost = (loads + stores) * parameters.cachedAccess
  const room = cpuInHost + deviceInHost - deviceOnDevice
  return {
    ring: row.ring,
    operation: row.operation,
    bytes,
    countedBytes: row.bytes,
    loads,
    stores,
    cpuOnDevice: reading + writing,
    cpuInHost,
    deviceOnDevice,
    deviceInHost,
    mostPerLoad: most(room - writing, loads),
    mostPerStore: most(room - reading - (writing - spaced), stores),
    leastRoundTrip:
      perRoundTrip > 0 ? Math.max(0, reading + writing + deviceOnDevice - cpuInHost) / perRoundTrip : null,
  }
}

// The counters of a row for a payload of another length: what is copied, and what the device moves, changes by words.
function withPayload({ operation, bytes: counted, counters }: MeasuredRow, bytes: number): Record<string, number> {
  const words = (bytes - counted) / WORD
  const [driver, device] = operation === 'receive' ? (['Loads', 'Stores'] as const) : (['Stores', 'Loads'] as const)
  const moved = [accessCounter('driver', driver, WORD), accessCounter('device', device, WORD)]
  const result: Record<string, number> = {}
  for (const side of ['driver', 'device'] as const)
    for (const kind of ['Loads', 'Stores'] as const)
      for (const width of WIDTHS) {
        const name = accessCounter(side, kind, width)
        result[name] = Math.max(0, (counters[name] ?? 0) + (moved.includes(name) ? words : 0))
      }
  return result
}

function nearest(rows: readonly MeasuredRow[], bytes: number): MeasuredRow {
  return rows.reduce((best, row) => (Math.abs(row.bytes - bytes) < Math.abs(best.bytes - bytes) ? row : best))
}

function most(room: number, count: number): number | null {
  return room < 0 || count === 0 ? null : room / count
}

/** How many times as dear memory on the device is, for CPU and device together. */
export function timesOf({ cpuOnDevice, deviceOnDevice, cpuInHost, deviceInHost }: DeviceMemoryCase): number {
  return (cpuOnDevice + deviceOnDevice) / (cpuInHost + deviceInHost)
}

/** Names what is moved in a case, and by which ring where that is not the split one. */
export function kindOf(one: { readonly ring: string; readonly operation: string } | undefined): string | undefined {
  if (one === undefined) return undefined
  return one.ring === 'split' ? one.operation : `${one.operation} (${one.ring})`
}

function lazyCases(rows: readonly MeasuredRow[], { iommuWait, iommuRequest }: Parameters): LazyCase[] {
  const requests = ({ counters }: MeasuredRow): number => counters.mapRequests + counters.unmapRequests
  return rows.flatMap((strict): LazyCase[] => {
    if (strict.backend !== STRICT || strict.counters.synchronousCommits === undefined) return []
    const lazy = rows.find((row) => row.backend === LAZY && sameWork(row, strict))
    if (lazy === undefined || requests(strict) === 0) return []
    const waitsSaved = strict.counters.synchronousCommits - lazy.counters.synchronousCommits
    const requestsAdded = requests(lazy) - requests(strict)
    const measuredDearer = lazy.nsPerOperation.median - strict.nsPerOperation.median
    return [
      {
        ring: strict.ring,
        operation: strict.operation,
        bytes: strict.bytes,
        batch: strict.batch,
        waitsSaved,
        requestsAdded,
        saved: waitsSaved * iommuWait - requestsAdded * iommuRequest,
        leastWait: least(requestsAdded * iommuRequest, waitsSaved),
        measuredDearer,
        leastWaitMeasured: least(measuredDearer, waitsSaved),
      },
    ]
  })
}

function least(cost: number, waitsSaved: number): number | null {
  return waitsSaved > 0 ? Math.max(0, cost) / waitsSaved : null
}

function sameWork(a: MeasuredRow, b: MeasuredRow): boolean {
  const names = ['driver', 'operation', 'mode', 'ring', 'buffers', 'bytes', 'batch'] as const
  return names.every((name) => a[name] === b[name])
}

function timesCases(cases: readonly DeviceMemoryCase[], parameters: Parameters): TimesCase[] {
  const { uncachedRead, writeSpacing, writeCombineFlush, cachedAccess, lineTransfer } = parameters
  const word = writeSpacing + (WORD / 64) * writeCombineFlush
  const single: TimesCase[] = [
    {
      what: 'one load, against a cached one',
      times: uncachedRead / cachedAccess,
      parameters: ['uncachedRead', 'cachedAccess'],
    },
    {
      what: 'one load, against one of a line that another core wrote',
      times: uncachedRead / lineTransfer,
      parameters: ['uncachedRead', 'lineTransfer'],
    },
    {
      what: 'one store of 8 bytes, against a cached one',
      times: word / cachedAccess,
      parameters: ['writeSpacing', 'writeCombineFlush', 'cachedAccess'],
    },
  ]
  const cpu: readonly ParameterName[] = ['uncachedRead', 'writeSpacing', 'writeCombineFlush', 'cachedAccess']
  const both: readonly ParameterName[] = [
    ...cpu,
    'deviceLocalRead',
    'dmaRoundTrip',
    'deviceReadBytes',
    'deviceReadOverlap',
  ]
  // Of each direction the smallest frame and the largest one.
  const ends = cases.filter((one, i) => kindOf(one) !== kindOf(cases[i - 1]) || kindOf(one) !== kindOf(cases[i + 1]))
  return [
    ...single,
    ...ends.flatMap(({ cpuOnDevice, cpuInHost, deviceOnDevice, deviceInHost, ...one }): TimesCase[] => [
      {
        what: `${kindOf(one)} of ${one.bytes} bytes, accesses of the CPU`,
        times: cpuOnDevice / cpuInHost,
        parameters: cpu,
      },
      {
        what: `${kindOf(one)} of ${one.bytes} bytes, CPU and device together`,
        times: (cpuOnDevice + deviceOnDevice) / (cpuInHost + deviceInHost),
        parameters: both,
      },
    ]),
  ].filter(({ times }) => Number.isFinite(times))
}
