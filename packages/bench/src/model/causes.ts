import { ModelError } from './errors.ts'
import type { ParameterName, Parameters } from './parameters.ts'

/** What the model needs of a result; every `BenchResult` has it. Counters are for one operation. */
export interface CountedRow {
  readonly driver: string
  readonly operation: string
  readonly backend: string
  readonly mode: string
  readonly bytes: number
  readonly batch: number
  readonly counters: Readonly<Record<string, number>>
}

type Counters = Readonly<Record<string, number>>

/** Something that costs time on a real machine, and that counters tell of. */
export interface Cause {
  readonly title: string
  /** Who spends the time. */
  readonly who: 'CPU' | 'device' | 'both'
  /** Counters that it is computed from. */
  readonly counters: readonly string[]
  /** Parameters that it depends on. */
  readonly parameters: readonly ParameterName[]
  /** Nanoseconds for one operation. All of `counters` are there. */
  ns(counters: Counters, parameters: Parameters): number
}

/** Widths in bytes by which accesses to the memory of a device are counted. */
export const WIDTHS = [1, 2, 4, 8] as const

/** Bytes of one combined store. */
const LINE = 64

/** The name of the counter of one side's accesses of one width, such as `driverLoads8`. */
export function accessCounter(side: 'driver' | 'device', kind: 'Loads' | 'Stores', width: number): string {
  return `${side}${kind}${width}`
}

const accessCounters = (side: 'driver' | 'device', kind: 'Loads' | 'Stores'): string[] =>
  WIDTHS.map((width) => accessCounter(side, kind, width))

/** Accesses of all widths together. */
export function accesses(counters: Counters, side: 'driver' | 'device', kind: 'Loads' | 'Stores'): number {
  return accessCounters(side, kind).reduce((sum, name) => sum + counters[name], 0)
}

/** Bytes that accesses of all widths move. */
export function accessedBytes(counters: Counters, side: 'driver' | 'device', kind: 'Loads' | 'Stores'): number {
  return WIDTHS.reduce((sum, width) => sum + width * counters[accessCounter(side, kind, width)], 0)
}

export type CauseName =
  | 'copies'
  | 'clears'
  | 'deviceMemoryReads'
  | 'deviceMemoryWrites'
  | 'deviceLocalReads'
  | 'dmaReads'
  | 'doorbells'
  | 'interrupts'
  | 'iommuRequests'
  | 'iommuWaits'
  | 'iotlbMisses'
  | 'pageConversions'
  | 'lineTransfers'

/** Each cause, by its name. No counter is in two of them, but for what one doorbell does to two threads. */
export const CAUSES: Readonly<Record<CauseName, Cause>> = {
  copies: {
    title: 'copies',
    who: 'CPU',
    counters: ['bytesCopiedToDevice', 'bytesCopiedFromDevice'],
    parameters: ['copyByte'],
    ns: (c, { copyByte }) => (c.bytesCopiedToDevice + c.bytesCopiedFromDevice) * copyByte,
  },
  clears: {
    title: 'clears',
    who: 'CPU',
    counters: ['bytesCleared'],
    parameters: ['clearByte'],
    ns: (c, { clearByte }) => c.bytesCleared * clearByte,
  },
  deviceMemoryReads: {
    title: 'dev reads',
    who: 'CPU',
    counters: accessCounters('driver', 'Loads'),
    parameters: ['uncachedRead'],
    ns: (c, { uncachedRead }) => accesses(c, 'driver', 'Loads') * uncachedRead,
  },
  deviceMemoryWrites: {
    title: 'dev writes',
    who: 'CPU',
    counters: accessCounters('driver', 'Stores'),
    parameters: ['writeSpacing', 'writeCombineFlush'],
    ns: (c, { writeSpacing, writeCombineFlush }) =>
      accesses(c, 'driver', 'Stores') * writeSpacing +
      (accessedBytes(c, 'driver', 'Stores') / LINE) * writeCombineFlush,
  },
  deviceLocalReads: {
    title: 'local reads',
    who: 'device',
    counters: accessCounters('device', 'Loads'),
    parameters: ['deviceLocalRead', 'deviceReadBytes', 'deviceReadOverlap'],
    ns: (c, p) => deviceReads(accessedBytes(c, 'device', 'Loads'), p.deviceLocalRead, p),
  },
  dmaReads: {
    title: 'DMA reads',
    who: 'device',
    counters: ['bytesReadByDma'],
    parameters: ['dmaRoundTrip', 'deviceReadBytes', 'deviceReadOverlap'],
    ns: (c, p) => deviceReads(c.bytesReadByDma, p.dmaRoundTrip, p),
  },
  doorbells: {
    title: 'doorbells',
    who: 'both',
    counters: ['notified'],
    parameters: ['vmExit', 'eventFdWakeup'],
    ns: (c, { vmExit, eventFdWakeup }) => c.notified * (vmExit + eventFdWakeup),
  },
  interrupts: {
    title: 'interrupts',
    who: 'CPU',
    counters: ['interrupts'],
    parameters: ['interrupt'],
    ns: (c, { interrupt }) => c.interrupts * interrupt,
  },
  iommuRequests: {
    title: 'requests',
    who: 'device',
    counters: ['mapRequests', 'unmapRequests'],
    parameters: ['iommuRequest'],
    ns: (c, { iommuRequest }) => (c.mapRequests + c.unmapRequests) * iommuRequest,
  },
  iommuWaits: {
    title: 'waits',
    who: 'CPU',
    counters: ['synchronousCommits'],
    parameters: ['iommuWait'],
    ns: (c, { iommuWait }) => c.synchronousCommits * iommuWait,
  },
  iotlbMisses: {
    title: 'IOTLB',
    who: 'device',
    counters: ['iotlbMisses'],
    parameters: ['iotlbMiss'],
    ns: (c, { iotlbMiss }) => c.iotlbMisses * iotlbMiss,
  },
  pageConversions: {
    title: 'pages',
    who: 'CPU',
    counters: ['pageConversions'],
    parameters: ['pageConversion'],
    ns: (c, { pageConversion }) => c.pageConversions * pageConversion,
  },
  lineTransfers: {
    title: 'lines',
    who: 'both',
    counters: ['linesTransferred'],
    parameters: ['lineTransfer'],
    ns: (c, { lineTransfer }) => c.linesTransferred * lineTransfer,
  },
}

export const CAUSE_NAMES: readonly CauseName[] = Object.keys(CAUSES) as CauseName[]

/** Nanoseconds for one operation by cause; `null` where the result has no counter for it. They are never added up here. */
export type Modelled = Readonly<Record<CauseName, number | null>>

/** What every result of a scheme counts. */
const NEEDED = ['bytesCopiedToDevice', 'bytesCopiedFromDevice', 'bytesCleared', 'notified']
/** The scheme whose requests are no messages to an IOMMU: each shares a page or takes it back, and nobody waits. */
const CONVERTING = 'shared-pages'

/** Applies parameters to the counters of one result. Pure. Throws ModelError `MODEL_COUNTER`. */
export function modelRow(row: CountedRow, parameters: Parameters): Modelled {
  const counters = countersOf(row)
  const result: Partial<Record<CauseName, number | null>> = {}
  for (const name of CAUSE_NAMES) {
    const cause = CAUSES[name]
    const counted = cause.counters.every((counter) => counters[counter] !== undefined)
    result[name] = counted ? cause.ns(counters, parameters) : null
  }
  return result as Modelled
}

/** What it costs a device to read so many bytes, at a price for one read of `deviceReadBytes`. */
export function deviceReads(bytes: number, each: number, { deviceReadBytes, deviceReadOverlap }: Parameters): number {
  return ((bytes / deviceReadBytes) * each) / deviceReadOverlap
}

// Names a row in messages.
function nameOf({ driver, operation, backend, mode, bytes, batch }: CountedRow): string {
  return `${driver} ${operation} ${backend} ${mode} ${bytes} ${batch}`
}

// The counters of a row under the names that causes know them by.
function countersOf(row: CountedRow): Counters {
  for (const counter of NEEDED) {
    if (row.counters[counter] !== undefined) continue
    const message = `the result has no counter '${counter}'; its scenario has to return it from 'counters'`
    throw new ModelError('MODEL_COUNTER', nameOf(row), message, { counter })
  }
  if (row.backend !== CONVERTING || row.counters.pageConversions !== undefined) return row.counters
  const { mapRequests = 0, unmapRequests = 0, synchronousCommits: _none, ...others } = row.counters
  return { ...others, pageConversions: mapRequests + unmapRequests }
}
