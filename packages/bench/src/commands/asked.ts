import type { Shard, Subject } from '../contract/result.ts'
import { type Scenario, type ScenarioModule, variantsOf } from '../contract/scenario.ts'
import { casesFor, type Extent } from '../harness/cases.ts'
import { EFFORTS, type Effort } from '../harness/measure.ts'
import type { Modules } from '../harness/modules.ts'
import { isFile, loadModule, loadSchemes } from '../harness/own-schemes.ts'
import { shardOf } from '../harness/select.ts'
import { UsageError } from '../program/errors.ts'
import { guestScenarios } from '../scenarios/guest-scenarios.ts'
import { NONE, type Schemes } from '../scenarios/machines.ts'
import { MEASURED } from '../scenarios/schemes.ts'
import { readArguments } from './command.ts'
import { checkReportOutputs, OUTPUT_OPTIONS, type Outputs } from './outputs.ts'

/** What a command line asks to be measured, and how. */
export interface Asked extends Cases {
  readonly effort: Effort
  readonly repeat: number
  /** Which part of the cases `subjects` are, where they are not all. */
  readonly shard?: Shard
  /** Whether attacks are asked for. */
  readonly attack: boolean
  readonly outputs: Outputs
}

/** The cases that a command line picks. */
interface Cases {
  readonly subjects: readonly Subject[]
  readonly modules: Modules
  /** The scheme that ratios are shown to. */
  readonly against: string
  /** Nothing was left out by `--only`, `--scheme` or `--quick`. */
  readonly everything: boolean
  /** Names of schemes that can be attacked. */
  readonly schemes: readonly string[]
}

const OPTIONS = {
  scheme: { type: 'string', multiple: true },
  against: { type: 'string', multiple: true },
  only: { type: 'string' },
  quick: { type: 'boolean' },
  full: { type: 'boolean' },
  repeat: { type: 'string' },
  shard: { type: 'string' },
  attack: { type: 'boolean' },
  ...OUTPUT_OPTIONS,
} as const

/**
 * Reads the command line of a run and loads the modules that it names. All of it is checked.
 *
 * @param program the name of program and command, as messages begin
 * @throws UsageError
 */
export async function readAsked(args: readonly string[], program: string): Promise<Asked> {
  const { values, positionals } = readArguments(program, args, OPTIONS, {
    least: 0,
    most: 1,
    what: 'at most one module with scenarios is needed',
  })
  const usage = (message: string): UsageError => new UsageError('BENCH_USAGE', program, message)
  if (values.quick && values.full) throw usage('--quick and --full exclude each other')
  const [file] = positionals
  checkReportOutputs(values, [
    ...(file === undefined ? [] : [{ option: 'run', path: file }]),
    ...[...(values.scheme ?? []), ...(values.against ?? [])]
      .filter(isFile)
      .map((path) => ({ option: '--scheme', path })),
  ])
  const repeat = wholeNumber(program, '--repeat', values.repeat ?? '1')
  const cases = await (file === undefined ? guestCases(values, program) : moduleCases(file, values, program))
  const asked: Asked = {
    ...cases,
    effort: values.quick ? EFFORTS.quick : cases.everything ? EFFORTS.default : EFFORTS.full,
    repeat,
    attack: values.attack === true,
    outputs: values,
  }
  if (values.shard === undefined) return asked
  const shard = readShard(program, values.shard, cases.subjects.length)
  const subjects = shardOf(cases.subjects, shard.index, shard.of)
  if (subjects.length === 0) throw usage(`--shard ${values.shard} leaves this part without a case`)
  return { ...asked, subjects, shard }
}

interface Values {
  readonly scheme?: readonly string[] | undefined
  readonly against?: readonly string[] | undefined
  readonly only?: string | undefined
  readonly quick?: boolean | undefined
  readonly full?: boolean | undefined
}

/** Cases of what guests do with nets and disks. */
async function guestCases({ scheme, against, only, quick, full }: Values, program: string): Promise<Cases> {
  const listed = scheme?.flatMap((list) => list.split(','))
  const beside = against?.flatMap((list) => list.split(',')) ?? []
  const own = new Map<string, Awaited<ReturnType<typeof loadSchemes>>>()
  for (const file of [...(listed ?? []), ...beside].filter(isFile))
    if (!own.has(file)) own.set(file, await loadSchemes(file))
  const loaded: Schemes = Object.assign({}, ...[...own.values()].map(({ schemes }) => schemes))
  const known = { ...MEASURED, ...loaded }
  const named = (name: string): string[] => {
    const schemes = own.get(name)?.schemes
    return schemes === undefined ? [knownName(name, known)] : Object.keys(schemes)
  }
  const backends = [...new Set([...(listed ?? [NONE, ...Object.keys(MEASURED)]), ...beside].flatMap(named))]
  const all = guestScenarios(known).flatMap((scenario) => backends.flatMap((id) => variantsOf(scenario, id)))
  const extent: Extent = full || only !== undefined ? 'full' : quick ? 'quick' : 'default'
  // Of schemes that were picked, only what a reader looks at first.
  const picked = listed !== undefined && extent === 'default'
  return {
    subjects: matching(casesFor(extent, all, Object.keys(loaded)), only, program),
    modules: { schemes: [...own.values()].map(({ address }) => address) },
    against: beside.flatMap(named)[0] ?? 'direct',
    everything: only === undefined && !picked && !quick,
    schemes: backends,
  }
}

/** Cases of a module's own scenarios. */
async function moduleCases(file: string, { scheme, against, only }: Values, program: string): Promise<Cases> {
  const { address, exports } = await loadModule(file)
  const { scenarios, backends } = exports as Partial<ScenarioModule>
  if (!Array.isArray(scenarios) || !Array.isArray(backends))
    throw new UsageError('BENCH_SCENARIOS', file, `the module has to export the lists 'scenarios' and 'backends'`)
  const names = scheme === undefined ? (backends as string[]) : [...scheme, ...(against ?? [])]
  const all = (scenarios as Scenario[]).flatMap((scenario) => names.flatMap((name) => variantsOf(scenario, name)))
  return {
    subjects: matching(all, only, program),
    modules: { scenarios: address, schemes: [] },
    against: against?.[0] ?? 'direct',
    everything: false,
    schemes: [],
  }
}

function knownName(name: string, known: Schemes): string {
  if (name === NONE || Object.hasOwn(known, name)) return name
  const all = [NONE, ...Object.keys(MEASURED)].join(', ')
  throw new UsageError('BENCH_SCHEME', '--scheme', `unknown scheme '${name}'; known: ${all}; or name a file`, { name })
}

function matching(subjects: readonly Subject[], only: string | undefined, program: string): Subject[] {
  const words = (only ?? '').split(/\s+/).filter((word) => word !== '')
  const left = subjects.filter((subject) =>
    words.every((word) => Object.values(subject).some((value) => String(value) === word)),
  )
  if (left.length > 0) return left
  throw new UsageError('BENCH_USAGE', program, `no case matches --only "${only}"`, { only })
}

function wholeNumber(program: string, option: string, text: string): number {
  const number = Number(text)
  if (Number.isInteger(number) && number >= 1) return number
  throw new UsageError('BENCH_USAGE', program, `${option} ${text}: a whole number from 1 on is needed`, { value: text })
}

function readShard(program: string, text: string, total: number): Shard {
  const match = /^(\d+)\/(\d+)$/.exec(text)
  const [index, of] = match === null ? [0, 0] : [Number(match[1]), Number(match[2])]
  if (index >= 1 && index <= of) return { index, of, total }
  throw new UsageError('BENCH_USAGE', program, `--shard ${text}: it is written I/N with I from 1 to N, such as 1/4`)
}
