import * as Plot from '@observablehq/plot'
import type { ThreadResult } from '../contract/result.ts'
import { figure, scaled, time } from './numbers.ts'
import { type Canvas, type Cell, type Picture, panelsOf, plot, schemesOf } from './picture.ts'

type Texts = Pick<Picture, 'title' | 'description' | 'schemes'>

/** What both pictures show of a row: on one core, and on two. */
interface Pair {
  one(row: ThreadResult): number
  two(row: ThreadResult): number
  readonly label: string
  readonly format: (value: number) => string
}

const FRAMES: Pair = {
  one: ({ oneCore }) => oneCore,
  two: ({ twoCores }) => twoCores,
  label: 'frames a second',
  format: (value) => scaled(value, '').trim(),
}
const LATENCY: Pair = {
  one: ({ latencyOneCore }) => latencyOneCore.median,
  two: ({ latencyTwoCores }) => latencyTwoCores.median,
  label: 'time from a send to its completion',
  format: time,
}

const SYMBOLS =
  'A hollow symbol is driver and device on one core, a filled one the device on a second core, and a line joins the two.'

/** Frames with the device in a thread of its own, beside both halves on one core: how many a second, and how late. */
export function threadPictures(rows: readonly ThreadResult[]): Picture[] {
  if (rows.length === 0) return []
  const schemes = schemesOf(rows)
  const sorted = schemes.flatMap((scheme) => rows.filter(({ backend }) => backend === scheme))
  const frames = {
    title: 'Two cores: frames a second with the device in a thread of its own',
    description: `${SYMBOLS} Further right is faster.`,
    schemes,
  }
  const latency = {
    title: 'Two cores: latency of a single frame',
    description: `${SYMBOLS} Medians; further right is later. A thin upright line is the handshake: a word that goes to the other thread and comes back.`,
    schemes,
  }
  return [
    {
      name: 'two-cores',
      ...frames,
      named: true,
      columns: ['scheme', 'ring', 'bytes', 'batch', 'frames/s, one core', 'frames/s, two cores', 'ratio'],
      rows: sorted.map((row) => [...cells(row), row.oneCore, row.twoCores, row.twoCores / row.oneCore]),
      draw: (canvas) => draw(canvas, frames, sorted, FRAMES),
    },
    {
      name: 'two-cores-latency',
      ...latency,
      named: true,
      columns: [
        'scheme',
        'ring',
        'bytes',
        'batch',
        'ns, one core',
        'p95',
        'ns, two cores',
        'p95',
        'handshake ns',
        'p95',
      ],
      rows: sorted.map((row) => [
        ...cells(row),
        ...[row.latencyOneCore, row.latencyTwoCores, row.handshake].flatMap(({ median, p95 }) => [median, p95]),
      ]),
      draw: (canvas) => draw(canvas, latency, sorted, LATENCY, ({ handshake }) => handshake.median),
    },
  ]
}

function cells({ backend, ring, bytes, batch }: ThreadResult): Cell[] {
  return [backend, ring, bytes, batch]
}

const kindOf = ({ ring, bytes, batch }: ThreadResult): string => `${ring}, ${bytes} bytes, batch ${batch}`

function draw(
  canvas: Canvas,
  texts: Texts,
  rows: readonly ThreadResult[],
  { one, two, label, format }: Pair,
  least?: (row: ThreadResult) => number,
): SVGSVGElement {
  const each = texts.schemes.length * 26 + 20
  const panels = panelsOf(canvas, rows, kindOf, each, { least: 380, marginLeft: 136 })
  const place = { ...panels.channel, y: 'backend' }
  return plot(canvas, texts, {
    ...panels.options,
    insetRight: 12,
    x: { zero: true, ticks: 4, tickFormat: format, label, grid: true },
    y: { type: 'band', domain: texts.schemes, label: null, tickSize: 0, padding: 0.2 },
    marks: [
      least === undefined ? null : Plot.tickX(rows, { ...place, x: least, strokeWidth: 1.5 }),
      Plot.ruleY(rows, { ...place, x1: one, x2: two, stroke: 'backend' }),
      Plot.dot(rows, { ...place, x: one, stroke: 'backend', symbol: 'backend', strokeWidth: 2, r: 4.5 }),
      Plot.dot(rows, { ...place, x: two, fill: 'backend', symbol: 'backend', r: 4.5 }),
      Plot.tip(
        rows,
        Plot.pointer({
          ...place,
          x: two,
          title: (row: ThreadResult) =>
            `${row.backend}\none core: ${format(one(row))}\ntwo cores: ${format(two(row))} (× ${figure(two(row) / one(row))})`,
        }),
      ),
      panels.names,
    ],
  })
}
