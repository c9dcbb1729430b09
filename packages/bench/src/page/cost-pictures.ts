import * as Plot from '@observablehq/plot'
import type { BenchResult } from '../contract/result.ts'
import { CAUSE_NAMES, CAUSES, type CauseName, type Modelled } from '../model/causes.ts'
import { figure, logAxis, logTicks, time } from './numbers.ts'
import {
  around,
  axisX,
  axisY,
  type Canvas,
  NARROW,
  names,
  type Picture,
  panelsOf,
  plot,
  schemesOf,
  spaced,
} from './picture.ts'
import type { Slice } from './slices.ts'

/** What an operation costs as `along` grows: a line for each scheme, a panel for each operation. */
export function linePicture({ name, results }: Slice, along: 'bytes' | 'batch'): Picture {
  const what = along === 'bytes' ? 'size' : 'batch'
  const rows = [...results].sort((a, b) => a[along] - b[along])
  const texts = {
    title: `Cost by ${what}: ${name}`,
    description: `Median time of one operation by scheme, as ${along === 'bytes' ? 'its bytes grow' : 'more of them are published together'}. A thin upright line goes from the 5th to the 95th percentile, as far as the panel reaches. Both axes are logarithmic.`,
    schemes: schemesOf(rows),
  }
  return {
    name: `cost-by-${what}`,
    ...texts,
    columns: ['operation', 'scheme', along, 'ns', 'p05', 'p95'],
    rows: rows.map(({ operation, backend, nsPerOperation: { median, p05, p95 }, ...row }) => [
      operation,
      backend,
      row[along],
      median,
      p05,
      p95,
    ]),
    draw: (canvas) => drawLines(canvas, texts, rows, along),
  }
}

function drawLines(
  canvas: Canvas,
  texts: Pick<Picture, 'title' | 'description' | 'schemes'>,
  rows: readonly BenchResult[],
  along: 'bytes' | 'batch',
): SVGSVGElement {
  const panelOf = ({ driver, operation }: BenchResult): string => `${driver} ${operation}`
  const schemes = texts.schemes.length
  const panels = panelsOf(canvas, rows, panelOf, Math.max(280, schemes * 14 + 60))
  const { channel } = panels
  const values = [...new Set(rows.map((row) => row[along]))].sort((a, b) => a - b)
  const place = { x: along, y: (row: BenchResult) => row.nsPerOperation.median, ...channel }
  const lineOf = (row: BenchResult): string => `${panelOf(row)} ${row.backend}`
  const last = [...new Map(rows.map((row) => [lineOf(row), row])).values()]
  const domain = around(rows.flatMap(({ nsPerOperation: { p05, median } }) => [p05, median, median * 1.3]))
  return plot(canvas, texts, {
    ...panels.options,
    insetRight: canvas.width < NARROW ? 10 : 132,
    insetLeft: 12,
    x: { type: 'log', base: 2 },
    y: { type: 'log', domain },
    marks: [
      axisX(
        spaced(values, panels.width - (canvas.width < NARROW ? 40 : 160)),
        (value) => value.toLocaleString('en'),
        along === 'bytes' ? 'bytes' : 'operations published together',
      ),
      axisY(logTicks(...domain), time, 'time of one operation'),
      Plot.ruleX(rows, {
        ...place,
        y1: (row: BenchResult) => row.nsPerOperation.p05,
        y2: (row: BenchResult) => Math.min(row.nsPerOperation.p95, domain[1]),
        stroke: 'backend',
        strokeOpacity: 0.5,
      }),
      Plot.lineY(rows, { ...place, z: lineOf, stroke: 'backend', strokeWidth: 1.5 }),
      Plot.dot(rows, { ...place, fill: 'backend', symbol: 'backend', r: 4 }),
      panels.names,
      canvas.width < NARROW
        ? null
        : names(last, {
            x: (row) => row[along],
            y: (row) => row.nsPerOperation.median,
            text: ({ backend }) => backend,
            channel,
          }),
      Plot.tip(
        rows,
        Plot.pointer({
          ...place,
          title: ({ backend, nsPerOperation, ...row }: BenchResult) =>
            `${backend}, ${row[along]} ${along === 'bytes' ? 'bytes' : 'together'}\n${figure(nsPerOperation.median)} ns`,
        }),
      ),
    ],
  })
}

/** A result beside what the model says of it. */
export interface ModelledResult {
  readonly result: BenchResult
  readonly modelled: Modelled
}

const MEASURED_COLUMN = 'measured'

interface Value {
  readonly backend: string
  readonly panel: string
  readonly ns: number
}

/** The measured time and each modelled cause in a panel of its own. Nothing is added up. */
export function modelledPicture(name: string, rows: readonly ModelledResult[]): Picture {
  const causes = causesOf(rows)
  // A cause that costs nobody anything, at these prices, is told in the description and in the table.
  const [some, none] = [true, false].map((costs) =>
    causes.filter((cause) => rows.some(({ modelled }) => (modelled[cause] ?? 0) > 0) === costs),
  )
  const schemes = schemesOf(rows.map(({ result }) => result))
  const sorted = schemes.flatMap((scheme) => rows.filter(({ result }) => result.backend === scheme))
  const values = sorted.flatMap(({ result, modelled }): Value[] => [
    { backend: result.backend, panel: MEASURED_COLUMN, ns: result.nsPerOperation.median },
    ...some.flatMap((cause) => {
      const ns = modelled[cause]
      return ns === null ? [] : [{ backend: result.backend, panel: titleOf(cause), ns }]
    }),
  ])
  const texts = {
    title: `Measured beside modelled: ${name}`,
    description: `The first panel, in a frame, is the measured time of one operation. Every other panel is what one cause would cost at the prices that are set. All panels have the same logarithmic axis; the band at the left is for zero. Panels are not added up: causes of the CPU and of the device overlap in time.${none.length === 0 ? '' : ` Zero for every scheme: ${none.map(titleOf).join(', ')}.`}`,
    schemes,
  }
  return {
    name: 'modelled',
    ...texts,
    named: true,
    columns: ['scheme', MEASURED_COLUMN, ...causes.map(titleOf)],
    rows: sorted.map(({ result, modelled }) => [
      result.backend,
      result.nsPerOperation.median,
      ...causes.map((cause) => modelled[cause]),
    ]),
    draw: (canvas) => drawValues(canvas, texts, values),
  }
}

/** Causes that some result has the counters of. */
function causesOf(rows: readonly ModelledResult[]): CauseName[] {
  return CAUSE_NAMES.filter((cause) => rows.some(({ modelled }) => modelled[cause] !== null))
}

function titleOf(cause: CauseName): string {
  return `${CAUSES[cause].title} (${CAUSES[cause].who})`
}

function drawValues(
  canvas: Canvas,
  texts: Pick<Picture, 'title' | 'description' | 'schemes'>,
  values: readonly Value[],
): SVGSVGElement {
  const each = texts.schemes.length * 17
  const panels = panelsOf(canvas, values, ({ panel }) => panel, each, { least: 245, marginLeft: 136 })
  const { channel } = panels
  const x = logAxis(
    values.map(({ ns }) => ns),
    '0',
    time,
    3,
  )
  const firsts = values.filter((value, i) => i === values.findIndex((one) => one.panel === value.panel))
  return plot(canvas, texts, {
    ...panels.options,
    insetRight: 44,
    x: { type: 'log', domain: [...x.domain] },
    y: { type: 'point', domain: [...texts.schemes], label: null, tickSize: 0 },
    marks: [
      x.band === null
        ? null
        : Plot.rect(firsts, {
            ...channel,
            x1: x.band.from,
            x2: x.band.to,
            fill: 'currentColor',
            fillOpacity: 0.07,
          }),
      Plot.gridX([...x.ticks], { strokeOpacity: 0.12 }),
      // The band and the first decade are too close for two texts.
      axisX(
        x.ticks.filter((_, i) => x.band === null || i !== 1),
        x.format,
        'time of one operation',
      ),
      Plot.frame({ fx: 0, fy: 0, strokeOpacity: 0.6, inset: -3 }),
      Plot.dot(values, {
        ...channel,
        x: ({ ns }: Value) => x.place(ns),
        y: 'backend',
        fill: 'backend',
        symbol: 'backend',
        r: 4,
      }),
      Plot.text(values, {
        ...channel,
        x: ({ ns }: Value) => x.place(ns),
        y: 'backend',
        text: ({ ns }: Value) => figure(ns),
        textAnchor: 'start',
        dx: 8,
        fontSize: 11,
      }),
      panels.names,
    ],
  })
}
