import * as Plot from '@observablehq/plot'
import {
  type Answers,
  answer,
  type DeviceMemoryCase,
  type LazyCase,
  type MeasuredRow,
  timesOf,
} from '../model/answers.ts'
import type { Parameters } from '../model/parameters.ts'
import { STEPS } from './looks.ts'
import { figure, logAxis, logTicks, time } from './numbers.ts'
import { around, axisX, axisY, type Canvas, names, type Picture, panelsOf, plot } from './picture.ts'

/** Frame sizes that get a line. */
const SHOWN = [64, 256, 1514]
/** Prices of an access or a wait that are tried, in ns. */
const PRICES: readonly number[] = Array.from({ length: 41 }, (_, i) => 10 ** (i / 10))
/** Ticks of what is saved. */
const SAVINGS: readonly number[] = [-1e4, -1e3, -100, -10, 0, 10, 100, 1e3, 1e4, 1e5]
const LONGER: readonly number[] = PRICES.map((price) => price * 10)

type Texts = Pick<Picture, 'title' | 'description' | 'schemes'>

const panelOf = ({ operation, ring }: { readonly operation: string; readonly ring: string }): string =>
  ring === 'split' ? operation : `${operation} (${ring})`

interface Tried extends DeviceMemoryCase {
  readonly price: number
}

/** Memory on the device against a pool in host memory, as the price of a load grows. */
export function crossoverPicture(rows: readonly MeasuredRow[], parameters: Parameters): Picture {
  const onDevice = rows.filter(({ backend }) => backend === 'on-device')
  const tried = PRICES.flatMap((price) =>
    answer(onDevice, { ...parameters, uncachedRead: price })
      .deviceMemory.cases.filter(({ bytes }) => SHOWN.includes(bytes))
      .map((one): Tried => ({ ...one, price })),
  ).filter((one) => Number.isFinite(timesOf(one)) && timesOf(one) > 0)
  const texts = {
    title: 'Memory on the device against a pool in host memory, by the price of a load',
    description: `Modelled time of one frame in memory on the device, CPU and device together, divided by that in a pool in host memory. Below the line at 1 memory on the device wins; the line at 10 is the claim. The upright line is the price of a load that is set: ${figure(parameters.uncachedRead)} ns.`,
    schemes: [],
  }
  return {
    name: 'crossover',
    ...texts,
    columns: ['frame', 'bytes', 'price of a load, ns', 'times as dear'],
    rows: tried.map((one) => [panelOf(one), one.bytes, one.price, timesOf(one)]),
    draw: (canvas) => drawCurves(canvas, texts, tried, parameters.uncachedRead),
  }
}

function drawCurves(canvas: Canvas, texts: Texts, tried: readonly Tried[], now: number): SVGSVGElement {
  const panels = panelsOf(canvas, tried, panelOf, 280)
  const { channel } = panels
  const place = { x: 'price', y: timesOf, ...channel }
  const domain = around(tried.map(timesOf))
  const last = tried.filter(({ price }) => price === PRICES[PRICES.length - 1])
  return plot(canvas, texts, {
    ...panels.options,
    insetRight: 64,
    x: { type: 'log' },
    y: { type: 'log', domain },
    color: sizes(tried.map(({ bytes }) => bytes)),
    marks: [
      axisX(logTicks(1, 1e4), time, 'price of one load from the memory of the device'),
      axisY(logTicks(...domain), (value) => `×${figure(value)}`, 'times as dear'),
      Plot.ruleY([1], { strokeOpacity: 0.8 }),
      Plot.ruleY([10], { strokeDasharray: '4 3', strokeOpacity: 0.8 }),
      now >= PRICES[0] && now <= PRICES[PRICES.length - 1] ? Plot.ruleX([now], { strokeDasharray: '1 3' }) : null,
      Plot.line(tried, {
        ...place,
        z: ({ bytes, ...one }: Tried) => `${panelOf(one)} ${bytes}`,
        stroke: 'bytes',
        strokeWidth: 2,
      }),
      panels.names,
      names(last, { x: ({ price }) => price, y: timesOf, text: ({ bytes }) => `${bytes} B`, channel }),
      Plot.tip(
        tried,
        Plot.pointer({
          ...place,
          title: (one: Tried) => `${one.bytes} bytes, ${time(one.price)} a load\n× ${figure(timesOf(one))}`,
        }),
      ),
    ],
  })
}

/** The price of a load, and of a store, above which memory on the device loses, by size. */
export function limitPicture({ deviceMemory: { cases } }: Answers, parameters: Parameters): Picture {
  const rows = cases.flatMap((one) => [
    { ...one, what: 'load', limit: one.mostPerLoad },
    { ...one, what: 'store', limit: one.mostPerStore },
  ])
  type Row = (typeof rows)[number]
  const texts = {
    title: 'From which price of an access on memory on the device loses, by size',
    description: `For one frame, CPU and device together: above the line memory on the device loses to a pool in host memory, with all other prices as they are. The band at the bottom is for frames that lose at any price. A hollow symbol was not counted at its size. Set are ${figure(parameters.uncachedRead)} ns for a load, ${figure(parameters.writeSpacing)} ns for a store.`,
    schemes: [],
  }
  const draw = (canvas: Canvas): SVGSVGElement => {
    const panels = panelsOf(canvas, rows, panelOf, 280, { marginLeft: 68 })
    const { channel } = panels
    const y = logAxis(
      rows.map(({ limit }) => limit),
      'any price',
      time,
    )
    const [low, high] = [Math.min(...rows.map(({ bytes }) => bytes)), Math.max(...rows.map(({ bytes }) => bytes))]
    const place = { x: 'bytes', y: ({ limit }: Row) => y.place(limit), ...channel }
    const lineOf = (row: Row): string => `${panelOf(row)} ${row.what}`
    const last = [...new Map(rows.map((row) => [lineOf(row), row])).values()]
    return plot(canvas, texts, {
      ...panels.options,
      insetRight: 56,
      x: { type: 'log', base: 2 },
      y: { type: 'log', domain: [...y.domain] },
      color: { domain: ['load', 'store'], range: [STEPS[1], STEPS[3]] },
      marks: [
        y.band === null
          ? null
          : Plot.rect([rows[0]], {
              x1: low,
              x2: high,
              y1: y.band.from,
              y2: y.band.to,
              fill: 'currentColor',
              fillOpacity: 0.07,
            }),
        axisX([64, 256, 1024], (bytes) => bytes.toLocaleString('en'), 'bytes of a frame'),
        axisY(y.ticks, y.format, 'price of one access'),
        Plot.line(rows, { ...place, z: lineOf, stroke: 'what', strokeWidth: 2 }),
        Plot.dot(rows, {
          ...place,
          stroke: 'what',
          fill: ({ bytes, countedBytes, what }: Row) =>
            bytes === countedBytes ? (what === 'load' ? STEPS[1] : STEPS[3]) : 'none',
          r: 3.5,
        }),
        panels.names,
        names(last, { x: ({ bytes }) => bytes, y: ({ limit }) => y.place(limit), text: ({ what }) => what, channel }),
      ],
    })
  }
  return {
    name: 'price-limits',
    ...texts,
    columns: [
      'frame',
      'bytes',
      'counted at',
      'loads',
      'stores',
      'CPU, on-device',
      'CPU, pool',
      'device, on-device',
      'device, pool',
      'loses over ns/load',
      'over ns/store',
      'wins over ns/DMA round trip',
    ],
    rows: cases.map((one) => [
      panelOf(one),
      one.bytes,
      one.countedBytes,
      one.loads,
      one.stores,
      one.cpuOnDevice,
      one.cpuInHost,
      one.deviceOnDevice,
      one.deviceInHost,
      one.mostPerLoad ?? 'any price',
      one.mostPerStore ?? 'any price',
      one.leastRoundTrip ?? 'never',
    ]),
    draw,
  }
}

/** What a lazy domain saves against a strict one as a wait for the IOMMU grows dearer. */
export function lazyPicture({ lazy: { cases } }: Answers, parameters: Parameters): Picture {
  const [smallest] = [...new Set(cases.map(({ bytes }) => bytes))].sort((a, b) => a - b)
  const shown = cases.filter(({ bytes }) => bytes === smallest)
  const rows = LONGER.flatMap((wait) =>
    shown.map((one) => ({
      ...one,
      wait,
      saves: one.waitsSaved * wait - one.requestsAdded * parameters.iommuRequest,
    })),
  )
  type Row = (typeof rows)[number]
  const texts = {
    title: 'What lazy saves against strict, by the price of a wait for the IOMMU',
    description: `Modelled ns that a frame of ${smallest} bytes costs less with virtio-iommu-lazy than with virtio-iommu, by batch. Below zero lazy is dearer. The upright line is the wait that is set: ${figure(parameters.iommuWait)} ns. What was measured, where a wait costs nothing, is in the table only.`,
    schemes: [],
  }
  const draw = (canvas: Canvas): SVGSVGElement => {
    const panels = panelsOf(canvas, rows, panelOf, 280)
    const { channel } = panels
    const place = { x: 'wait', y: 'saves', ...channel }
    const [low, high] = [
      Math.min(-10, ...rows.map(({ saves }) => saves)),
      Math.max(10, ...rows.map(({ saves }) => saves)),
    ]
    const now = parameters.iommuWait
    return plot(canvas, texts, {
      ...panels.options,
      insetRight: 74,
      x: { type: 'log' },
      y: { type: 'symlog', constant: 10, domain: [low, high] },
      color: sizes(shown.map(({ batch }) => batch)),
      marks: [
        axisX(logTicks(10, 1e5), time, 'price of one wait'),
        axisY(
          SAVINGS.filter((tick) => tick >= low && tick <= high),
          figure,
          'ns saved for one frame',
        ),
        Plot.ruleY([0]),
        now >= LONGER[0] && now <= LONGER[LONGER.length - 1] ? Plot.ruleX([now], { strokeDasharray: '1 3' }) : null,
        Plot.line(rows, { ...place, z: (row: Row) => `${panelOf(row)} ${row.batch}`, stroke: 'batch', strokeWidth: 2 }),
        panels.names,
        names(
          rows.filter(({ wait }) => wait === LONGER[LONGER.length - 1]),
          { x: ({ wait }) => wait, y: ({ saves }) => saves, text: ({ batch }) => `batch ${batch}`, channel },
        ),
      ],
    })
  }
  const orNone = (value: LazyCase['leastWait']): number | string => value ?? 'at none'
  return {
    name: 'lazy-and-strict',
    ...texts,
    columns: [
      'frame',
      'bytes',
      'batch',
      'waits saved',
      'requests added',
      'saves, modelled ns',
      'wins over a wait of, modelled ns',
      'dearer, measured ns',
      'a wait that pays for that, ns',
    ],
    rows: cases.map((one) => [
      panelOf(one),
      one.bytes,
      one.batch,
      one.waitsSaved,
      one.requestsAdded,
      one.saved,
      orNone(one.leastWait),
      one.measuredDearer,
      orNone(one.leastWaitMeasured),
    ]),
    draw,
  }
}

function sizes(values: readonly number[]): Plot.ScaleOptions {
  const domain = [...new Set(values)].sort((a, b) => a - b)
  return { type: 'ordinal', domain, range: domain.map((_, i) => STEPS[(i + 1) % STEPS.length]) }
}
