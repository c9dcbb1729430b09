import {
  answer,
  type BenchReport,
  causeTable,
  type DeviceMemoryCase,
  markdownTable,
  PROFILE_NAMES,
  parametersOf,
  parameterTable,
  profileList,
} from '@guestdma/bench'
import type { FigureReport } from './files.ts'
import type { ModelCheckFigure } from './model-check.ts'
import { percent, predict } from './model-check-report.ts'

const BYTES = [64, 1514]

/** What docs/cost-model.md quotes: the tables of the model, and its answers for the counts of a report. */
export function modelFigures({ results }: BenchReport): Readonly<Record<string, string>> {
  return {
    'model-causes': causeTable(),
    'model-parameters': parameterTable(),
    'model-profiles': profileList(),
    'model-answers': answersTable(results),
  }
}

/** What docs/cost-model.md quotes of the check against devices of other processes. */
export function modelCheckFigures({ figures }: FigureReport<ModelCheckFigure>): Readonly<Record<string, string>> {
  const rows = figures.map((figure) => {
    const { peer, work, backend, direct, measured, modelled, code, ratio } = figure
    const [counted, whole] = [predict(figure, 'counters'), predict(figure, 'counters and code')]
    const ns = [direct, measured, modelled, code].map(shown)
    const off = [percent(counted.error), percent(whole.error)]
    return [peer, work, `\`${backend}\``, ...ns, `× ${ratio.toFixed(2)}`, `× ${counted.ratio.toFixed(2)}`, ...off]
  })
  const titles = [
    'peer',
    'work',
    'scheme',
    'direct',
    'measured',
    'counted',
    'code',
    'ratio',
    'predicted',
    'error',
    'with code',
  ]
  const parameters = figures.map(({ work, backend, parameters: values }) => {
    return [
      work,
      `\`${backend}\``,
      Object.entries(values)
        .map(([name, value]) => `\`${name}\` ${price(value)}`)
        .join(', '),
    ]
  })
  const errorsOf = (from: 'counters' | 'counters and code'): number[] =>
    figures.map((figure) => Math.abs(predict(figure, from).error))
  return {
    'model-check-rows': markdownTable(titles, rows),
    'model-check-parameters': markdownTable(['work', 'scheme', 'measured prices in ns'], parameters),
    'model-check-most': `${Math.round(Math.max(...errorsOf('counters')) * 100)} %`,
    'model-check-most-code': `${Math.round(Math.max(...errorsOf('counters and code')) * 100)} %`,
  }
}

function price(ns: number): string {
  return ns < 10 ? ns.toFixed(3) : Math.round(ns).toLocaleString('en')
}

function answersTable(results: BenchReport['results']): string {
  const rows = PROFILE_NAMES.flatMap((profile) =>
    answer(results, parametersOf(profile))
      .deviceMemory.cases.filter(({ ring, bytes }) => ring === 'split' && BYTES.includes(bytes))
      .map((one) => {
        const { operation, bytes, cpuOnDevice, cpuInHost, deviceOnDevice, deviceInHost } = one
        const both = (cpuOnDevice + deviceOnDevice) / (cpuInHost + deviceInHost)
        const cells = [`\`${profile}\``, operation, bytes, cpuOnDevice, cpuInHost, deviceOnDevice, deviceInHost]
        return [...cells.map(shown), times(cpuOnDevice / cpuInHost), times(both), limit(one)]
      }),
  )
  // A report from before these accesses were counted has no answers.
  if (rows.length === 0) return 'The results that are checked in do not count these accesses.'
  const titles = ['profile', 'frame', 'bytes', 'CPU', 'CPU, pool', 'device', 'device, pool', 'CPU', 'both', 'loses']
  return markdownTable(titles, rows)
}

function limit({ mostPerLoad }: DeviceMemoryCase): string {
  return mostPerLoad === null ? 'at any price' : `over ${shown(mostPerLoad)} ns`
}

function times(ratio: number): string {
  return `× ${ratio < 10 ? ratio.toFixed(1) : Math.round(ratio)}`
}

function shown(cell: number | string): string {
  if (typeof cell === 'string') return cell
  return Math.abs(cell) < 100 && !Number.isInteger(cell) ? cell.toFixed(1) : Math.round(cell).toLocaleString('en')
}
