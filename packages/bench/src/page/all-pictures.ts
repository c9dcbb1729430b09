import type { BenchReport, BenchResult } from '../contract/result.ts'
import { costReport } from '../costs/report.ts'
import { type Answers, answer } from '../model/answers.ts'
import { CAUSES, modelRow } from '../model/causes.ts'
import { type Parameters, parametersOf } from '../model/parameters.ts'
import { crossoverPicture, lazyPicture, limitPicture } from './answer-pictures.ts'
import { linePicture, modelledPicture } from './cost-pictures.ts'
import { headlinePicture, headlineWorks } from './headline.ts'
import { overcommitPictures, scalePictures } from './other-pictures.ts'
import type { Picture } from './picture.ts'
import { HARNESS, linesOf, type Slice, slicesOf } from './slices.ts'
import { threadPictures } from './thread-pictures.ts'

/** The profile that the page begins with. */
export const FIRST_PROFILE = 'pcie-wc'

/** Every picture that a report has data for, of the fullest slices and at the prices of the first profile. */
export function allPictures(report: BenchReport): Picture[] {
  const { results, threads = [], scale = [] } = report
  const parameters = parametersOf(FIRST_PROFILE)
  const [headline] = headlineWorks(report)
  const [bySize] = linesOf(results, 'bytes')
  const [byBatch] = linesOf(results, 'batch')
  const counted = countedIn(results)
  const [one] = slicesOf(counted, [])
  return [
    ...(headline === undefined ? [] : [headlinePicture(headline)]),
    ...(bySize === undefined ? [] : [linePicture(bySize, 'bytes')]),
    ...(byBatch === undefined ? [] : [linePicture(byBatch, 'batch')]),
    ...(one === undefined ? [] : [modelledSlice(one, parameters)]),
    ...answerPictures(answered(results), parameters),
    ...overcommitPictures(costReport({ ...report, results: simulatedIn(results) }, FIRST_PROFILE).overcommit.rows),
    ...threadPictures(threads),
    ...scalePictures(scale),
  ]
}

/** The results that the model's answers are for: warm buffers that are mapped, of the three schemes that are asked about. */
export function answered(results: readonly BenchResult[]): BenchResult[] {
  return countedIn(results).filter(
    ({ mode, buffers, backend }) => mode === 'map' && buffers === 'warm' && ASKED.includes(backend),
  )
}

const ASKED = ['on-device', 'virtio-iommu', 'virtio-iommu-lazy']

/** The pictures of the questions that the model answers, for results that are {@link answered}. */
export function answerPictures(results: readonly BenchResult[], parameters: Parameters): Picture[] {
  const answers: Answers = answer(results, parameters)
  return [
    ...(answers.deviceMemory.cases.length === 0
      ? []
      : [crossoverPicture(results, parameters), limitPicture(answers, parameters)]),
    ...(answers.lazy.cases.length === 0 ? [] : [lazyPicture(answers, parameters)]),
  ]
}

/** The results that over-commit is simulated for. */
export function simulatedIn(results: readonly BenchResult[]): BenchResult[] {
  return countedIn(results).filter(
    ({ driver, operation, mode, buffers }) =>
      driver === 'net' && operation === 'receive' && mode === 'map' && buffers === 'warm',
  )
}

/** A slice beside the model. Throws ModelError `MODEL_COUNTER`. */
export function modelledSlice({ name, results }: Slice, parameters: Parameters): Picture {
  return modelledPicture(
    name,
    results.map((result) => ({ result, modelled: modelRow(result, parameters) })),
  )
}

/** What the model needs of each result of a scheme. */
const NEEDED = [CAUSES.copies, CAUSES.clears, CAUSES.doorbells].flatMap(({ counters }) => counters)

/** The results that the model can be applied to: neither the loop of the harness, nor what lacks counters. */
export function countedIn(results: readonly BenchResult[]): BenchResult[] {
  return results.filter(
    ({ backend, counters }) => backend !== HARNESS && NEEDED.every((name) => counters[name] !== undefined),
  )
}
