import { type BenchReport, type BenchResult, type Subject, subjectKey } from '../contract/result.ts'
import { readChecked, WORK } from './read.ts'
import {
  type Check,
  type Fields,
  isAmount,
  isListOf,
  isObjectOf,
  isOneOf,
  isOptional,
  isPositive,
  isRecordOf,
  isText,
} from './shape.ts'

const GATE_SCHEMA = 'guestdma-gate-1'

/** What may be measured for one kind of work, by backend. */
export interface GateEntry extends Omit<Subject, 'backend'> {
  /** The backend that ratios are taken to. */
  readonly against: string
  /**
   * The 5th percentile of a backend's times, divided by that of `against`, is at most this. What else runs on a machine
   * makes samples slower and never faster, so that it moves the median and hardly this.
   */
  readonly ratioAtMost: Readonly<Record<string, number>>
  /** Bytes of JavaScript heap that an operation allocates are at most this. */
  readonly heapBytesAtMost?: Readonly<Record<string, number>>
}

/** The file that `gate` reads: what a report must keep. Ratios are within one run, so that the machine cancels out. */
export interface Gate {
  readonly schema: typeof GATE_SCHEMA
  readonly gates: readonly GateEntry[]
}

/** One value of a gate, and what the report has. */
export interface GateCheck extends Subject {
  /** What is bounded: the ratio to this backend, or heap bytes for an operation. */
  readonly what: 'ratio' | 'heap bytes'
  readonly against: string
  readonly atMost: number
  /** `null` where the report has no such result, which does not pass. */
  readonly found: number | null
  readonly passed: boolean
}

/** What became of all checks of a gate. Plain data. */
export interface GateResult {
  readonly schema: 'guestdma-gate-result-1'
  readonly passed: boolean
  readonly checks: readonly GateCheck[]
}

const ENTRY: Fields<GateEntry> = {
  ...WORK,
  against: isText,
  ratioAtMost: isRecordOf(isPositive, 1),
  heapBytesAtMost: isOptional(isRecordOf(isAmount)),
}

// A field whose name is misspelt would check nothing, so that here no other field is allowed.
const isGate: Check = isObjectOf<Gate>(
  { schema: isOneOf(GATE_SCHEMA), gates: isListOf(isObjectOf(ENTRY, true), 1) },
  true,
)

/**
 * Reads a gate.
 *
 * @throws ReportError `REPORT_FILE`, `REPORT_SCHEMA`, `REPORT_FIELD`
 */
export function readGate(path: string): Gate {
  return readChecked<Gate>(path, GATE_SCHEMA, isGate)
}

/** Checks a report against a gate. A case that the report does not have fails. */
export function checkGate({ results }: BenchReport, { gates }: Gate): GateResult {
  const byKey = new Map(results.map((result) => [subjectKey(result), result]))
  const checks = gates.flatMap((entry): GateCheck[] => {
    const { against, ratioAtMost, heapBytesAtMost = {}, ...work } = entry
    const find = (backend: string): BenchResult | undefined => byKey.get(subjectKey({ ...work, backend }))
    const base = find(against)?.nsPerOperation.p05 ?? Number.NaN
    const checksOf = (
      what: GateCheck['what'],
      bounds: Readonly<Record<string, number>>,
      read: (result: BenchResult) => number,
    ): GateCheck[] =>
      Object.entries(bounds).map(([backend, atMost]) => {
        const result = find(backend)
        const value = result === undefined ? Number.NaN : read(result)
        const found = Number.isNaN(value) ? null : value
        return { ...work, backend, what, against, atMost, found, passed: found !== null && found <= atMost }
      })
    return [
      ...checksOf('ratio', ratioAtMost, ({ nsPerOperation }) => nsPerOperation.p05 / base),
      ...checksOf('heap bytes', heapBytesAtMost, (result) => result.bytesAllocatedPerOperation),
    ]
  })
  return { schema: 'guestdma-gate-result-1', passed: checks.every(({ passed }) => passed), checks }
}
