import { formatTable, textColumns, wrap } from '@guestdma/bench/program'
import type { FigureProgram } from './figure-program.ts'
import type { ModelCheckFigure } from './model-check.ts'

export const MODEL_CHECK: FigureProgram<ModelCheckFigure> = {
  name: 'model-check',
  schema: 'guestdma-model-check-1',
  what: 'what schemes cost over devices of other processes, beside what\nthe model predicts from the counters there',
  needs: 'qemu-storage-daemon and dpdk-testpmd (Debian: qemu-system-common,\ndpdk-dev)',
  total: 4,
  format: formatModelCheck,
}

/** How far a prediction is off, as a fraction of what was measured: more than 0 where it is too high. */
export interface Prediction {
  readonly ratio: number
  readonly error: number
}

/** The ratio to `direct` that the model predicts from what is counted, or with what our own code takes beside that. */
export function predict(
  { direct, modelled, code, ratio: measured }: ModelCheckFigure,
  from: 'counters' | 'counters and code',
): Prediction {
  const ratio = (direct + modelled + (from === 'counters' ? 0 : code)) / direct
  return { ratio, error: ratio / measured - 1 }
}

/** In percent, with its sign. */
export function percent(fraction: number): string {
  return `${fraction < 0 ? '−' : '+'}${Math.round(Math.abs(fraction) * 100)} %`
}

/** One line for each kind of work and scheme, then the parameters. */
function formatModelCheck(figures: readonly ModelCheckFigure[]): string {
  const columns = textColumns()
  const rows = figures.map((figure) => {
    const { work, backend, direct, measured, modelled, code, ratio } = figure
    const [counted, whole] = [predict(figure, 'counters'), predict(figure, 'counters and code')]
    const ns = [direct, measured, modelled, code].map(Math.round)
    return [work, backend, ...ns, ratio, counted.ratio, percent(counted.error), whole.ratio, percent(whole.error)]
  })
  const titles = [
    ...['work', 'backend', 'direct', 'more', 'counted', 'code'].map((title) => ({ title })),
    { title: '×', decimals: 2 },
    { title: '× counted', decimals: 2 },
    { title: 'error' },
    { title: '× with code', decimals: 2 },
    { title: 'error' },
  ]
  const parameters = figures.flatMap(({ work, backend, parameters: values }) =>
    Object.entries(values).map(([name, value]) => [work, backend, name, value]),
  )
  return [
    wrap('ns of one operation with direct, and what a scheme takes more: measured, from counters, and code.', columns),
    formatTable(titles, rows),
    wrap('× is the ratio to direct: measured, predicted from counters alone, and predicted with our code.', columns),
    formatTable(
      [{ title: 'work' }, { title: 'backend' }, { title: 'parameter' }, { title: 'ns', decimals: 3 }],
      parameters,
    ),
  ].join('\n')
}
