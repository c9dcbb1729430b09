import * as Plot from '@observablehq/plot'
import type { ScaleResult } from '../contract/result.ts'
import type { OvercommitRow } from '../costs/report.ts'
import { figure, logTicks, scaled, time } from './numbers.ts'
import { around, axisX, axisY, type Canvas, NARROW, names, type Picture, panelsOf, plot, schemesOf } from './picture.ts'

const deviceName = ({ deviceOn }: OvercommitRow): string =>
  deviceOn === 'own-core' ? 'device on a core of its own' : 'device on the same cores'

interface OvercommitFigure {
  readonly name: string
  readonly title: string
  readonly label: string
  readonly description: string
  value(row: OvercommitRow): number
  readonly format: (value: number) => string
  readonly log: boolean
}

const OVERCOMMIT: readonly OvercommitFigure[] = [
  {
    name: 'throughput',
    title: 'Packets for each virtual CPU and second',
    label: 'packets for each CPU and second',
    description: 'Completed packets for each virtual CPU and second. Each virtual CPU is offered the same number.',
    value: ({ perSecond, virtualCpus }) => perSecond / virtualCpus,
    format: figure,
    log: false,
  },
  {
    name: 'latency-p50',
    title: 'Latency, median',
    label: 'time from arrival to completion',
    description: 'Time from the arrival of a packet until the device is done with it, of completed packets: median.',
    value: ({ latency }) => latency.p50,
    format: time,
    log: true,
  },
  {
    name: 'latency-p99',
    title: 'Latency, 99th percentile',
    label: 'time from arrival to completion',
    description: 'Time from the arrival of a packet until the device is done with it: 99th percentile.',
    value: ({ latency }) => latency.p99,
    format: time,
    log: true,
  },
  {
    name: 'latency-p999',
    title: 'Latency, 99.9th percentile',
    label: 'time from arrival to completion',
    description: 'Time from the arrival of a packet until the device is done with it: 99.9th percentile.',
    value: ({ latency }) => latency.p999,
    format: time,
    log: true,
  },
  {
    name: 'starvation',
    title: 'Starvation',
    label: 'longest time without a core',
    description: 'The longest time for which a virtual CPU did not run.',
    value: ({ starved }) => starved,
    format: time,
    log: false,
  },
]

/** What becomes of packets as there are more virtual CPUs for each core: a picture for each figure. */
export function overcommitPictures(rows: readonly OvercommitRow[]): Picture[] {
  if (rows.length === 0) return []
  return OVERCOMMIT.map((one): Picture => {
    const shown = rows.filter((row) => Number.isFinite(one.value(row)))
    const texts = {
      title: `Over-commit: ${one.title}`,
      description: `${one.description} Simulated, by virtual CPUs for each core (V/P).`,
      schemes: schemesOf(rows),
    }
    return {
      name: `overcommit-${one.name}`,
      ...texts,
      columns: ['scheme', 'device', 'V/P', 'CPU ns for a packet', one.title],
      rows: rows.map((row) => [row.backend, deviceName(row), row.virtualCpus / row.cores, row.bounce, one.value(row)]),
      draw: (canvas) =>
        drawGrowth(canvas, texts, shown, {
          x: ({ virtualCpus, cores }) => virtualCpus / cores,
          y: one.value,
          lineOf: ({ backend }) => backend,
          panelOf: deviceName,
          xLabel: 'virtual CPUs for each core',
          yLabel: one.label,
          format: one.format,
          log: one.log,
        }),
    }
  })
}

const SCALES: Readonly<Record<ScaleResult['what'], { readonly title: string; readonly axis: string }>> = {
  'live-mappings': { title: 'map and unmap, by live mappings', axis: 'live mappings' },
  'queue-size': { title: 'one operation, by queue size', axis: 'descriptors of a queue' },
  devices: { title: 'one operation, by devices on one pool', axis: 'devices' },
  domains: { title: 'one operation, by domains', axis: 'domains' },
  memory: { title: 'memory of one mapping, by live mappings', axis: 'live mappings' },
}

/** What one operation costs as something grows: a picture for each thing that does. */
export function scalePictures(rows: readonly ScaleResult[]): Picture[] {
  return [...new Set(rows.map(({ what }) => what))].map((what): Picture => {
    const shown = rows.filter((row) => row.what === what).sort((a, b) => a.size - b.size)
    const { title, axis } = Object.hasOwn(SCALES, what) ? SCALES[what] : { title: what, axis: what }
    const texts = {
      title: `Scale: ${title}`,
      description: 'Each value is divided by that at the smallest size. A level line at 1 does not grow.',
      schemes: schemesOf(shown),
    }
    const kind = ({ backend, detail }: ScaleResult): string => (detail === '' ? backend : `${backend}, ${detail}`)
    return {
      name: `scale-${what}`,
      ...texts,
      named: true,
      columns: ['scheme', 'kind', axis, 'value', 'unit', 'ratio'],
      rows: shown.map(({ backend, detail, size, value, unit, ratio }) => [backend, detail, size, value, unit, ratio]),
      draw: (canvas) =>
        drawGrowth(canvas, texts, shown, {
          x: ({ size }) => size,
          y: ({ ratio }) => ratio,
          lineOf: kind,
          panelOf: () => '',
          named: true,
          xLabel: axis,
          yLabel: 'ratio to the smallest',
          format: (value) => `×${figure(value)}`,
          log: true,
          atLeast: 2,
        }),
    }
  })
}

/** A count, in full where it is short. */
function count(value: number): string {
  return value < 1e5 ? value.toLocaleString('en') : scaled(value, '').trim()
}

interface Growth<T> {
  readonly x: (row: T) => number
  readonly y: (row: T) => number
  readonly lineOf: (row: T) => string
  readonly panelOf: (row: T) => string
  readonly xLabel: string
  readonly yLabel: string
  readonly format: (value: number) => string
  readonly log: boolean
  /** Names stand beside lines at any width. */
  readonly named?: boolean
  /** A value that the scale has to have. */
  readonly atLeast?: number
}

function drawGrowth<T extends { readonly backend: string }>(
  canvas: Canvas,
  texts: Pick<Picture, 'title' | 'description' | 'schemes'>,
  rows: readonly T[],
  { x, y, lineOf, panelOf, xLabel, yLabel, format, log, atLeast, named = false }: Growth<T>,
): SVGSVGElement {
  const panels = panelsOf(canvas, rows, panelOf, 220)
  const { channel } = panels
  const lineInPanel = (row: T): string => `${panelOf(row)} ${lineOf(row)}`
  const last = [...new Map(rows.map((row) => [lineInPanel(row), row])).values()]
  const place = { x, y, ...channel }
  const xs = [...new Set(rows.map(x))].sort((a, b) => a - b)
  const ys = rows.map(y)
  const domain: [number, number] = log ? around([...ys, atLeast ?? ys[0]]) : [0, Math.max(...ys) * 1.15]
  const wide = named || canvas.width >= NARROW
  const longest = Math.max(...last.map((row) => lineOf(row).length))
  return plot(canvas, texts, {
    ...panels.options,
    insetRight: wide ? 20 + 6.4 * longest : 10,
    x: { type: 'log' },
    y: log ? { type: 'log', domain } : { domain, ticks: 4, tickFormat: format, label: yLabel, grid: true },
    marks: [
      axisX(xs.length > 6 ? logTicks(xs[0], xs[xs.length - 1], 5) : xs, count, xLabel),
      log ? axisY(logTicks(...domain), format, yLabel) : null,
      Plot.line(rows, { ...place, z: lineInPanel, stroke: 'backend', strokeWidth: 1.5 }),
      Plot.dot(rows, { ...place, fill: 'backend', symbol: 'backend', r: 4 }),
      panels.names,
      wide ? names(last, { x, y, text: lineOf, channel }) : null,
      Plot.tip(
        rows,
        Plot.pointer({
          ...place,
          title: (row: T) => `${lineOf(row)}, ${count(x(row))}\n${format(y(row))}`,
        }),
      ),
    ],
  })
}
