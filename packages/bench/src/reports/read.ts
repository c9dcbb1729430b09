import { readFileSync } from 'node:fs'
import {
  type BenchFailure,
  type BenchReport,
  type BenchResult,
  type Environment,
  type ExposureClass,
  type ExposureResult,
  type Quantiles,
  REPORT_SCHEMA,
  type ScaleResult,
  type Shard,
  type Subject,
  subjectKey,
  type ThreadResult,
} from '../contract/result.ts'
import { printable } from '../program/table.ts'
import { ReportError } from './errors.ts'
import {
  type Check,
  type Fields,
  type Flaw,
  isAmount,
  isCount,
  isFlag,
  isListOf,
  isNullOr,
  isNumber,
  isObjectOf,
  isOneOf,
  isOptional,
  isOrdinal,
  isPositive,
  isRecordOf,
  isShare,
  isText,
} from './shape.ts'

const isRing = isOneOf('split', 'packed')
const isTimes = isObjectOf<Quantiles>({ median: isPositive, p05: isPositive, p95: isPositive })

/** The fields of a kind of work: a subject without its backend. */
export const WORK: Fields<Omit<Subject, 'backend'>> = {
  driver: isText,
  operation: isText,
  mode: isText,
  ring: isRing,
  bytes: isCount,
  batch: isOrdinal,
  buffers: isOneOf('warm', 'cold'),
}
const SUBJECT: Fields<Subject> = { ...WORK, backend: isText }

const RESULT: Fields<BenchResult> = {
  ...SUBJECT,
  nsPerOperation: isTimes,
  samples: isOrdinal,
  processMedians: isOptional(isListOf(isPositive, 1)),
  driverShare: isOptional(isShare),
  // A Node that does not tell what is allocated has no number.
  bytesAllocatedPerOperation: isNullOr(isAmount),
  counters: isRecordOf(isNumber),
}

const ENVIRONMENT: Fields<Environment> = {
  date: isText,
  node: isText,
  v8: isText,
  platform: isText,
  cpu: isText,
  cores: isCount,
  lastLevelCacheBytes: isAmount,
}

const isReach = isObjectOf<ExposureResult['beforeAttach']>({ readable: isAmount, writable: isAmount })
const isExposed = isObjectOf<Record<ExposureClass, number>>({
  foreign: isAmount,
  slack: isAmount,
  stale: isAmount,
  mutable: isAmount,
  direction: isAmount,
  'other-devices': isAmount,
  'own-residue': isAmount,
  metadata: isAmount,
})
const isExposure = isObjectOf<ExposureResult>({
  driver: isText,
  operation: isText,
  backend: isText,
  mode: isText,
  ring: isRing,
  bytes: isCount,
  setting: isObjectOf<ExposureResult['setting']>({
    ramBytes: isAmount,
    perSecond: isAmount,
    ringFill: isAmount,
    seconds: isAmount,
  }),
  readable: isExposed,
  writable: isExposed,
  beforeAttach: isReach,
  probes: isObjectOf<ExposureResult['probes']>({ tried: isCount, read: isCount, written: isCount, refused: isCount }),
})

const isThreads = isObjectOf<ThreadResult>({
  backend: isText,
  ring: isRing,
  bytes: isCount,
  batch: isOrdinal,
  oneCore: isPositive,
  twoCores: isPositive,
  latencyOneCore: isTimes,
  latencyTwoCores: isTimes,
  handshake: isTimes,
  handshakeAsleep: isTimes,
})

const isScale = isObjectOf<ScaleResult>({
  what: isOneOf('live-mappings', 'queue-size', 'devices', 'domains', 'memory'),
  backend: isText,
  detail: isText,
  size: isAmount,
  value: isAmount,
  unit: isOneOf('ns', 'bytes'),
  ratio: isAmount,
})

const isReport = isObjectOf<BenchReport>({
  schema: isOneOf(REPORT_SCHEMA),
  complete: isFlag,
  environment: isObjectOf(ENVIRONMENT),
  shard: isOptional(isObjectOf<Shard>({ index: isOrdinal, of: isOrdinal, total: isCount })),
  results: isListOf(isObjectOf(RESULT)),
  failures: isListOf(isObjectOf<BenchFailure>({ subject: isObjectOf(SUBJECT), message: isText })),
  exposure: isOptional(isListOf(isExposure)),
  threads: isOptional(isListOf(isThreads)),
  scale: isOptional(isListOf(isScale)),
})

/**
 * Reads a report that `--json` wrote, and checks each of its fields.
 *
 * @throws ReportError `REPORT_FILE` if it cannot be read, `REPORT_SCHEMA` if it is something else, `REPORT_FIELD` if a
 * field is missing or wrong, or a case is there twice
 */
export function readReport(path: string): BenchReport {
  const report = readChecked<BenchReport>(path, REPORT_SCHEMA, isReport)
  const rows = new Map<string, number>()
  for (const [i, result] of report.results.entries()) {
    const key = subjectKey(result)
    const before = rows.get(key)
    if (before !== undefined)
      throw flawError(path, { field: `results[${i}]`, found: key, needed: `a case that results[${before}] is not` })
    rows.set(key, i)
  }
  // JSON has no NaN, which is what such a Node gives.
  const results = report.results.map((result) =>
    result.bytesAllocatedPerOperation === null ? { ...result, bytesAllocatedPerOperation: Number.NaN } : result,
  )
  return { ...report, results }
}

/**
 * Reads a JSON file of one schema.
 *
 * @param check of the whole file; it has to check all that `T` says
 * @throws ReportError `REPORT_FILE`, `REPORT_SCHEMA`, `REPORT_FIELD`
 */
export function readChecked<T>(path: string, schema: string, check: Check): T {
  const found = parse(path, schema)
  const { schema: other } = Object(found) as { schema?: unknown }
  if (other !== schema) {
    const message = `${described(other)} was found as its schema, and '${schema}' is needed`
    throw new ReportError('REPORT_SCHEMA', path, message, { path, schema: other })
  }
  const flaw = check(found, '')
  if (flaw !== undefined) throw flawError(path, flaw)
  return found as T
}

function parse(path: string, schema: string): unknown {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const message = code === 'ENOENT' ? 'there is no such file' : `the file cannot be read (${code})`
    throw new ReportError('REPORT_FILE', path, message, { path }, { cause: error })
  }
  try {
    return JSON.parse(text)
  } catch (error) {
    const message = `the file is not JSON, and one of the schema '${schema}' is needed`
    throw new ReportError('REPORT_SCHEMA', path, message, { path }, { cause: error })
  }
}

function flawError(path: string, { field, found, needed }: Flaw): ReportError {
  const message = `${field}: ${described(found)} was found, and ${needed} is needed`
  return new ReportError('REPORT_FIELD', path, message, { path, field, found })
}

// A file may hold anything, of any length.
function described(value: unknown): string {
  const text = printable(JSON.stringify(value) ?? 'nothing')
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}
