import * as Plot from '@observablehq/plot'
import type { BenchReport, BenchResult, ExposureResult } from '../contract/result.ts'
import { exposed } from '../exposure/classes.ts'
import { fillOf } from './looks.ts'
import { figure, logAxis, logTicks, scaled } from './numbers.ts'
import { axisX, axisY, type Canvas, NARROW, names, type Picture, panelsOf, plot, schemesOf } from './picture.ts'

/** One scheme in one mode: what it costs there, and what it exposes there. */
interface HeadlinePoint {
  readonly backend: string
  readonly mode: string
  readonly batch: number
  readonly ns: number
  /** `ns` divided by that of `direct` in the same mode. */
  readonly overhead: number
  /** Bytes within reach but not lent. What the device was lent before, and still has, is not among them. */
  readonly readable: number
  readonly writable: number
}

/** All points of one kind of work. */
export interface HeadlineWork {
  /** Such as `net transmit, split, 64 bytes`. */
  readonly name: string
  readonly points: readonly HeadlinePoint[]
}

/** What everything is compared with: no protection at all. */
const BASELINE = 'direct'
/** It is information that the device had already, so it is told in the table and is in no sum. */
const BATCH = 32

/** Joins what was attacked with what was measured: the same driver, operation, scheme, mode, ring and size. */
export function headlineWorks({ results, exposure = [] }: Pick<BenchReport, 'results' | 'exposure'>): HeadlineWork[] {
  const works = new Map<string, ExposureResult[]>()
  for (const row of exposure) {
    const name = `${row.driver} ${row.operation}, ${row.ring}, ${row.bytes.toLocaleString('en')} bytes`
    works.set(name, [...(works.get(name) ?? []), row])
  }
  return [...works]
    .map(([name, rows]) => ({ name, points: rows.flatMap((row) => pointOf(row, results)) }))
    .filter(({ points }) => points.length > 0)
    .sort((a, b) => b.points.length - a.points.length)
}

function pointOf(row: ExposureResult, results: readonly BenchResult[]): HeadlinePoint[] {
  const same = results.filter(
    ({ driver, operation, mode, ring, bytes, buffers }) =>
      driver === row.driver &&
      operation === row.operation &&
      mode === row.mode &&
      ring === row.ring &&
      bytes === row.bytes &&
      buffers === 'warm',
  )
  const pairs = same.flatMap((result) => {
    const direct = same.find((one) => one.backend === BASELINE && one.batch === result.batch)
    return result.backend === row.backend && direct !== undefined ? [{ result, direct }] : []
  })
  if (pairs.length === 0) return []
  // The batch that is measured always; else the largest one.
  const { result, direct } = pairs.reduce((best, pair) =>
    pair.result.batch === BATCH || (best.result.batch !== BATCH && pair.result.batch > best.result.batch) ? pair : best,
  )
  const ns = result.nsPerOperation.median
  const overhead = ns / direct.nsPerOperation.median
  // A time of zero has no place on the axis.
  if (!(overhead > 0 && overhead < Infinity)) return []
  return [
    {
      backend: row.backend,
      mode: row.mode,
      batch: result.batch,
      ns,
      overhead,
      ...exposed(row),
    },
  ]
}

interface Shown extends HeadlinePoint {
  readonly panel: string
  readonly exposed: number
}

/** Cost against exposure: a point for each scheme and mode. */
export function headlinePicture({ name, points }: HeadlineWork): Picture {
  const rows = points.flatMap((point): Shown[] => [
    { ...point, panel: 'the device can read', exposed: point.readable },
    { ...point, panel: 'the device can write', exposed: point.writable },
  ])
  const zero = points.filter(({ readable, writable }) => readable === 0 && writable === 0)
  const texts = {
    title: `Overhead over direct, against what stays exposed: ${name}`,
    description: [
      'Each point is one scheme in one mode, against direct in that mode, ring, size and batch. Further up costs more; further right exposes more. The lower left corner is best.',
      `The band at the left is for nothing exposed, where ${zero.length} of ${points.length} points lie in both panels.`,
      'A filled symbol is mode map, a hollow one mode pool, a tinted one any other mode; a thin line joins the modes of a scheme.',
    ].join(' '),
    schemes: schemesOf(points),
  }
  return {
    name: 'headline',
    ...texts,
    columns: ['scheme', 'mode', 'batch', 'ns', 'times direct', 'bytes readable', 'bytes writable'],
    rows: points.map(({ backend, mode, batch, ns, overhead, readable, writable }) => [
      backend,
      mode,
      batch,
      ns,
      overhead,
      readable,
      writable,
    ]),
    draw: (canvas) => draw(canvas, texts, rows),
  }
}

function draw(canvas: Canvas, texts: Pick<Picture, 'title' | 'description' | 'schemes'>, rows: readonly Shown[]) {
  const panelOf = ({ panel }: Shown): string => panel
  const { channel, options, names: panelNames, width } = panelsOf(canvas, rows, panelOf, 340)
  const exposed = rows.map((row) => row.exposed)
  const x = logAxis(exposed, '0', (bytes) => scaled(bytes, 'B'), width < 400 ? 4 : 5)
  const y = overheadAxis(rows.map(({ overhead }) => overhead))
  const place = { x: (row: Shown) => x.place(row.exposed), y: (row: Shown) => row.overhead }
  const look = { ...place, ...channel, symbol: 'backend', r: 5, strokeWidth: 2 }
  // A scheme's name stands once in each panel, beside its filled symbol if it has one.
  const named = [...rows]
    .sort((a, b) => fillRank(a) - fillRank(b))
    .filter((row, i, all) => i === all.findIndex((one) => one.backend === row.backend && one.panel === row.panel))
  const of = (fill: string): Shown[] => rows.filter(({ mode }) => fillOf(mode) === fill)
  return plot(canvas, texts, {
    ...options,
    insetRight: canvas.width < NARROW ? 10 : 120,
    x: { type: 'log', domain: [...x.domain] },
    y: { type: 'log', domain: y.domain },
    marks: [
      x.band === null
        ? null
        : Plot.rect(
            rows.filter((row, i) => i === rows.findIndex((one) => one.panel === row.panel)),
            { ...channel, x1: x.band.from, x2: x.band.to, fill: 'currentColor', fillOpacity: 0.07 },
          ),
      Plot.gridX([...x.ticks], { strokeOpacity: 0.12 }),
      axisX(x.ticks, x.format, 'bytes exposed, average over time'),
      axisY(y.ticks, times, 'time, as a multiple of direct'),
      Plot.ruleY([1], { strokeOpacity: 0.5 }),
      Plot.line(rows, {
        ...place,
        ...channel,
        z: ({ panel, backend }: Shown) => `${panel} ${backend}`,
        stroke: 'backend',
        strokeOpacity: 0.35,
      }),
      Plot.dot(of('hollow'), { ...look, stroke: 'backend' }),
      Plot.dot(of('tinted'), { ...look, stroke: 'backend', fill: 'backend', fillOpacity: 0.35 }),
      Plot.dot(of('filled'), { ...look, fill: 'backend' }),
      panelNames,
      canvas.width < NARROW ? null : names(named, { ...place, text: ({ backend }) => backend, channel }),
      Plot.tip(rows, Plot.pointer({ ...place, ...channel, title: tipOf })),
    ],
  })
}

const fillRank = ({ mode }: Shown): number => (fillOf(mode) === 'filled' ? 0 : 1)

function tipOf({ backend, mode, ns, overhead, readable, writable }: Shown): string {
  return `${backend}, ${mode}\n${figure(ns)} ns, × ${figure(overhead)}\nreadable: ${scaled(readable, 'B')}\nwritable: ${scaled(writable, 'B')}`
}

const times = (value: number): string => `×${figure(value)}`

function overheadAxis(values: readonly number[]): { readonly domain: [number, number]; readonly ticks: number[] } {
  const [low, high] = [Math.min(0.85, ...values) / 1.05, Math.max(2, ...values) * 1.15]
  return { domain: [low, high], ticks: logTicks(low, high) }
}
