/**
 * The benchmark harness: scenarios, one process per scheme, statistics.
 *
 * @packageDocumentation
 */

export { type CostOptions, runCosts } from './costs/program.ts'
export { type CostReport, type CostRow, costReport, type OvercommitRow } from './costs/report.ts'
export { causeTable, parameterTable, profileList } from './costs/tables.ts'
export { formatCosts } from './costs/text.ts'
export { readEnvironment } from './harness/environment.ts'
export { EFFORTS, type Effort, heapPerOperation, measure } from './harness/measure.ts'
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
} from './harness/result.ts'
export { type RunOptions, runBench } from './harness/runner.ts'
export {
  defineScenario,
  type Prepared,
  type Scenario,
  type ScenarioModule,
  type ScenarioOptions,
  type Variant,
  variantsOf,
} from './harness/scenario.ts'
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
export { type ComparedRow, type Comparison, compareReports, readReport } from './reports/compare.ts'
export { formatComparison, formatResults, workOf } from './reports/text.ts'
export { guestScenarios } from './scenarios/guest-scenarios.ts'
export { NONE, type SchemeFactory, type Schemes } from './scenarios/machines.ts'
export { MEASURED } from './scenarios/schemes.ts'
