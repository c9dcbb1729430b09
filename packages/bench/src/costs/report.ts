import type { BenchReport, Subject } from '../contract/result.ts'
import { type Answers, answer } from '../model/answers.ts'
import { CAUSE_NAMES, CAUSES, type CauseName, type Modelled, modelRow } from '../model/causes.ts'
import { type OvercommitResult, simulateOvercommit } from '../model/overcommit.ts'
import {
  PARAMETER_NAMES,
  PARAMETERS,
  type ParameterName,
  type Parameters,
  parametersOf,
  valueIn,
} from '../model/parameters.ts'

/** A result beside what the model says of it. The two are never added. */
export interface CostRow extends Subject {
  readonly measuredNs: number
  readonly modelled: Modelled
}

/** One over-commit simulation. */
export interface OvercommitRow extends OvercommitResult {
  readonly operation: string
  readonly backend: string
  readonly bytes: number
  /** Modelled ns of a virtual CPU for one packet, and the causes that they are the sum of. */
  readonly bounce: number
  readonly causes: readonly CauseName[]
  readonly device: number
  readonly deviceOn: 'own-core' | 'shared-cores'
  readonly virtualCpus: number
  readonly cores: number
}

/** The file that `model --json` writes. Plain data. */
export interface CostReport {
  readonly schema: 'guestdma-model-1'
  /** False where the report of the measurement was: results are missing then. */
  readonly complete: boolean
  readonly profile: string
  readonly parameters: Readonly<
    Record<ParameterName, { readonly value: number; readonly unit: string; readonly source: string }>
  >
  /** Where the times were measured; counters are the same everywhere. */
  readonly environment: BenchReport['environment']
  readonly rows: readonly CostRow[]
  /** Causes of which no result has the counters. */
  readonly notCounted: readonly CauseName[]
  readonly answers: Answers
  readonly overcommit: {
    readonly seed: number
    readonly perSecondAndCpu: number
    readonly rows: readonly OvercommitRow[]
  }
}

/** The loop of the harness, without driver and device: it costs nothing on a real machine. */
const HARNESS = 'none'
/** What is simulated: packets for each virtual CPU and second, on so many cores, for one second. */
const CORES = 2
const PER_SECOND = 5_000
const SHARES = [1, 2, 4, 8]
const SEED = 1
const SIMULATED = ['direct', 'shared-pool', 'on-device']

/**
 * Applies the model to a report. Pure.
 *
 * @param overrides values of parameters, in place of those of the profile
 * @throws ModelError `MODEL_PROFILE`, `MODEL_PARAMETER`, `MODEL_VALUE`, `MODEL_COUNTER`
 */
export function costReport(
  { complete, environment, results }: BenchReport,
  profile: string,
  overrides: Readonly<Record<string, unknown>> = {},
): CostReport {
  const parameters = parametersOf(profile, overrides)
  const counted = results.filter(({ backend }) => backend !== HARNESS)
  const rows = counted.map((result): CostRow => {
    const { driver, operation, backend, mode, ring, bytes, batch, buffers, nsPerOperation } = result
    const modelled = modelRow(result, parameters)
    return {
      driver,
      operation,
      backend,
      mode,
      ring,
      bytes,
      batch,
      buffers,
      measuredNs: nsPerOperation.median,
      modelled,
    }
  })
  return {
    schema: 'guestdma-model-1',
    complete,
    profile,
    parameters: described(profile, parameters),
    environment,
    rows,
    notCounted: CAUSE_NAMES.filter((cause) => rows.every(({ modelled }) => modelled[cause] === null)),
    answers: answer(counted, parameters),
    overcommit: { seed: SEED, perSecondAndCpu: PER_SECOND, rows: overcommitRows(rows, parameters) },
  }
}

function described(profile: string, parameters: Parameters): CostReport['parameters'] {
  const entries = PARAMETER_NAMES.map((name) => {
    const { value, source } = valueIn(profile, name)
    const set = parameters[name] !== value
    return [name, { value: parameters[name], unit: PARAMETERS[name].unit, source: set ? 'Set by the user.' : source }]
  })
  return Object.fromEntries(entries) as CostReport['parameters']
}

// Received frames of the largest size, which cost the most, as they are mapped one by one.
function overcommitRows(rows: readonly CostRow[], parameters: Parameters): OvercommitRow[] {
  const candidates = rows.filter(
    ({ driver, operation, backend, mode, ring, buffers }) =>
      driver === 'net' &&
      operation === 'receive' &&
      mode === 'map' &&
      ring === 'split' &&
      buffers === 'warm' &&
      SIMULATED.includes(backend),
  )
  const backends = new Set(candidates.map(({ backend }) => backend))
  // What was measured of all of them.
  const common = candidates.filter(
    (row) =>
      candidates.filter(({ bytes, batch }) => bytes === row.bytes && batch === row.batch).length === backends.size,
  )
  const bytes = Math.max(...common.map((row) => row.bytes))
  const batch = Math.max(...common.filter((row) => row.bytes === bytes).map((row) => row.batch))
  return SIMULATED.flatMap((backend): OvercommitRow[] => {
    const row = candidates.find((one) => one.backend === backend && one.bytes === bytes && one.batch === batch)
    if (row === undefined) return []
    // Where accesses to its memory were not counted, this scheme would look like any pool.
    if (backend === 'on-device' && row.modelled.deviceMemoryReads === null) return []
    const causes = CAUSE_NAMES.filter((cause) => CAUSES[cause].who !== 'device' && row.modelled[cause] !== null)
    const bounce = causes.reduce((sum, cause) => sum + (row.modelled[cause] ?? 0), 0)
    // A device that does nothing but to move the frame once.
    const device = bytes * parameters.copyByte
    return (['own-core', 'shared-cores'] as const).flatMap((deviceOn) =>
      SHARES.map((share): OvercommitRow => {
        const virtualCpus = share * CORES
        const simulated = simulateOvercommit({
          virtualCpus,
          cores: CORES,
          bounce,
          device,
          deviceOn,
          interval: 1e9 / PER_SECOND,
          seed: SEED,
        })
        const { operation } = row
        return { operation, backend, bytes, bounce, causes, device, deviceOn, virtualCpus, cores: CORES, ...simulated }
      }),
    )
  })
}
