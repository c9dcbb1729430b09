/**
 * The benchmark harness: scenarios, one process per scheme, statistics.
 *
 * @packageDocumentation
 */

export { type Command, readArguments, runCommand } from './commands/command.ts'
export { guestdmaBench } from './commands/guestdma-bench.ts'
export { REPORT_COMMANDS } from './commands/report-commands.ts'
export { type Extra, type Host, runCases } from './commands/run.ts'
export {
  type BenchFailure,
  type BenchReport,
  type BenchResult,
  type Environment,
  type ExposureClass,
  type ExposureResult,
  type Quantiles,
  type ScaleResult,
  type Shard,
  type Subject,
  subjectKey,
  type ThreadResult,
} from './contract/result.ts'
export {
  defineScenario,
  type Prepared,
  type Scenario,
  type ScenarioModule,
  type ScenarioOptions,
  type Variant,
  variantsOf,
} from './contract/scenario.ts'
export { type CostReport, type CostRow, costReport, type OvercommitRow } from './costs/report.ts'
export { causeTable, parameterTable, profileList } from './costs/tables.ts'
export { formatCosts } from './costs/text.ts'
export { attack } from './exposure/attack.ts'
export { EXPOSURE_CLASSES, exposed } from './exposure/classes.ts'
export { EXPOSURE_CODES, ExposureError } from './exposure/errors.ts'
export { type AttackOptions, exposureCases } from './exposure/options.ts'
export { exposureTable } from './exposure/table.ts'
export { casesFor, type Extent, isHeadline } from './harness/cases.ts'
export { readEnvironment } from './harness/environment.ts'
export { EFFORTS, type Effort, heapPerOperation, measure } from './harness/measure.ts'
export { loadWork, type Modules, type Work } from './harness/modules.ts'
export { type RunOptions, runBench } from './harness/runner.ts'
export { selectPairwise, shardOf } from './harness/select.ts'
export { type Answer, type Job, runWorker } from './harness/worker.ts'
export {
  type Answers,
  answer,
  type DeviceMemoryCase,
  type LazyCase,
  type MeasuredRow,
  type TimesCase,
} from './model/answers.ts'
export {
  accessCounter,
  CAUSE_NAMES,
  CAUSES,
  type Cause,
  type CauseName,
  type CountedRow,
  type Modelled,
  modelRow,
  WIDTHS,
} from './model/causes.ts'
export { MODEL_CODES, ModelError } from './model/errors.ts'
export { type OvercommitOptions, type OvercommitResult, simulateOvercommit } from './model/overcommit.ts'
export {
  PARAMETER_NAMES,
  PARAMETERS,
  type Parameter,
  type ParameterName,
  type Parameters,
  PROFILE_NAMES,
  PROFILES,
  type Profile,
  type ProfileName,
  parametersOf,
  type Setting,
} from './model/parameters.ts'
export { renderCsv } from './page/csv.ts'
export { renderPage } from './page/page.ts'
export { renderPictures } from './page/pictures.ts'
export {
  type Change,
  type ComparedRow,
  type ComparedScheme,
  type Comparison,
  compareReports,
  type Timed,
} from './reports/compare.ts'
export { REPORT_CODES, ReportError } from './reports/errors.ts'
export {
  checkGate,
  type Gate,
  type GateCheck,
  type GateEntry,
  type GateResult,
  readGate,
} from './reports/gate.ts'
export { markdownTable } from './reports/markdown.ts'
export { mergeReports, type NamedReport } from './reports/merge.ts'
export { readReport } from './reports/read.ts'
export type { Interval } from './reports/statistics.ts'
export {
  type ExtraColumns,
  formatComparison,
  formatGate,
  formatResults,
  ratioColumns,
  workOf,
} from './reports/text.ts'
export { guestScenarios } from './scenarios/guest-scenarios.ts'
export { bufferModeOf, countersOf, machineFor, NONE, type SchemeFactory, type Schemes } from './scenarios/machines.ts'
export { MEASURED } from './scenarios/schemes.ts'
