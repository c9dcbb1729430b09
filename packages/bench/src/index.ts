/**
 * The benchmark harness: scenarios, one process per scheme, statistics.
 *
 * @packageDocumentation
 */
export { type ComparedRow, type Comparison, compareReports, readReport } from './compare.ts'
export { readEnvironment } from './environment.ts'
export { type Effort, heapPerOperation, measure } from './measure.ts'
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
