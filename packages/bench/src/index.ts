/**
 * The benchmark harness: scenarios, one process per scheme, statistics.
 *
 * @packageDocumentation
 */
export { type ComparedRow, type Comparison, compareReports, readReport } from './compare.ts'
export { type CostOptions, runCosts } from './cost-program.ts'
export { type CostReport, type CostRow, costReport, type OvercommitRow } from './cost-report.ts'
export { causeTable, parameterTable, profileList } from './cost-tables.ts'
export { formatCosts } from './cost-text.ts'
export { readEnvironment } from './environment.ts'
export { type Effort, heapPerOperation, measure } from './measure.ts'
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
export { formatComparison, formatResults, workOf } from './report.ts'
export {
  type BenchFailure,
  type BenchReport,
  type BenchResult,
  type Environment,
  type Subject,
  subjectKey,
} from './result.ts'
export { type RunOptions, runBench } from './runner.ts'
export {
  defineScenario,
  type Prepared,
  type Scenario,
  type ScenarioModule,
  type Variant,
  variantsOf,
} from './scenario.ts'
export { type Answer, type Job, runWorker } from './worker.ts'
