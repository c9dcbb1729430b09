import * as Plot from '@observablehq/plot'
import { inOrder, lookOf } from './looks.ts'

export type Cell = string | number | null

/** A picture and what it was drawn from. */
export interface Picture {
  /** Names it in the page and as a file. */
  readonly name: string
  readonly title: string
  /** What is seen, in sentences. */
  readonly description: string
  /** The data of the picture, as a table. */
  readonly columns: readonly string[]
  readonly rows: readonly (readonly Cell[])[]
  /** Schemes that are shown: their looks are explained where there is no room for their names in the picture. */
  readonly schemes: readonly string[]
  draw(canvas: Canvas): SVGSVGElement
}

/** What a picture is drawn on. */
export interface Canvas {
  readonly document: Document
  /** Pixels. */
  readonly width: number
}

/** Below this many pixels panels stand one below the other, and names of schemes in a legend. */
export const NARROW = 620

/** Draws with Plot: the looks of schemes, sizes of letters and labels for screen readers are the same everywhere. */
export function plot(
  { document, width }: Canvas,
  { title, description, schemes }: Pick<Picture, 'title' | 'description' | 'schemes'>,
  options: Plot.PlotOptions,
): SVGSVGElement {
  const drawn = Plot.plot({
    document,
    width,
    className: 'plot',
    style: { fontSize: '12px' },
    ariaLabel: title,
    ariaDescription: description,
    ...options,
    ...(schemes.length === 0 ? {} : { color: colours(schemes), symbol: symbols(schemes) }),
  })
  drawn.setAttribute('role', 'img')
  return drawn as unknown as SVGSVGElement
}

/** The colours of schemes, as a scale. */
export function colours(schemes: readonly string[]): Plot.ScaleOptions {
  return { type: 'ordinal', domain: [...schemes], range: schemes.map((scheme) => lookOf(scheme).colour) }
}

/** The symbols of schemes, as a scale. */
export function symbols(schemes: readonly string[]): Plot.ScaleOptions {
  return { type: 'ordinal', domain: [...schemes], range: schemes.map((scheme) => lookOf(scheme).symbol) }
}

export function schemesOf(rows: readonly { readonly backend: string }[]): string[] {
  return inOrder(rows.map(({ backend }) => backend))
}

/** Panels side by side where there is room, else one below the other. */
export function panels<T>(
  { width }: Canvas,
  rows: readonly T[],
  panelOf: (row: T) => string,
  each = 280,
): { readonly channel: object; readonly scale: Plot.PlotOptions; readonly height: number; readonly stacked: boolean } {
  const names = [...new Set(rows.map(panelOf))]
  const stacked = width < NARROW
  const label = null
  const axis = names.length < 2 && names[0] === '' ? null : undefined
  const scale = { domain: names, label, padding: 0.12, ...(axis === null ? { axis } : {}) }
  return stacked
    ? { channel: { fy: panelOf }, scale: { fy: { ...scale, axis: null } }, height: names.length * each + 60, stacked }
    : { channel: { fx: panelOf }, scale: { fx: { ...scale, axis: null } }, height: each + 100, stacked }
}

/** The name of each panel, above its upper left corner. */
export function panelNames<T>(rows: readonly T[], panelOf: (row: T) => string, stacked: boolean): Plot.Markish {
  const names = [...new Set(rows.map(panelOf))].filter((name) => name !== '')
  const here = (name: string): string => name
  return Plot.text(names, {
    text: here,
    [stacked ? 'fy' : 'fx']: here,
    frameAnchor: 'top-left',
    dy: -18,
    fontWeight: 600,
    fontSize: 13,
  })
}

/** An axis with a text at each tick. Plot by itself leaves texts of a logarithmic scale out. */
export function axisX(ticks: readonly number[], text: (tick: number) => string, label: string): Plot.Markish {
  return Plot.axisX([...ticks], { text: (tick: number) => text(tick), label })
}

/** The same at the left, with level lines. */
export function axisY(ticks: readonly number[], text: (tick: number) => string, label: string): Plot.Markish[] {
  return [
    Plot.gridY([...ticks], { strokeOpacity: 0.12 }),
    Plot.axisY([...ticks], { text: (tick: number) => text(tick), label }),
  ]
}

/** The least and the greatest value, on a logarithmic scale with some room at both ends. */
export function around(values: readonly number[]): [number, number] {
  return [Math.min(...values) / 1.12, Math.max(...values) * 1.12]
}

/** Pixels between the middles of two names. */
const LINE = 13
/** Pixels of a letter, on average. */
const LETTER = 6.6

/**
 * Names beside points. A name that another one would cover stands lower or higher.
 */
export function names<T>(
  rows: readonly T[],
  options: {
    x: (row: T) => number
    y: (row: T) => number
    text: (row: T) => string
    channel: object
  },
): Plot.Markish {
  const { x, y, text, channel } = options
  return Plot.text(
    rows,
    Plot.initializer({ x, y, text, ...channel, textAnchor: 'start', dx: 9 }, (data, facets, _, scales) => {
      const all = data as T[]
      const X = all.map((row) => scales.x?.(x(row)) as number)
      const Y = all.map((row) => scales.y?.(y(row)) as number)
      const placed = [...Y]
      for (const facet of facets as number[][]) spread(facet, X, Y, placed, (i) => text(all[i]))
      return { data, facets, channels: { y: { value: placed } } } as never
    }),
  )
}

// Gives each name the free place that is the nearest to its point.
function spread(
  facet: readonly number[],
  X: readonly number[],
  Y: readonly number[],
  placed: number[],
  textOf: (i: number) => string,
): void {
  const done: number[] = []
  const covers = (i: number, at: number): boolean =>
    done.some((other) => {
      const [left, right] = X[i] < X[other] ? [i, other] : [other, i]
      return Math.abs(placed[other] - at) < LINE && X[left] + 12 + LETTER * textOf(left).length > X[right]
    })
  for (const i of [...facet].sort((a, b) => Y[a] - Y[b])) {
    let at = Y[i]
    for (let step = 1; covers(i, at) && step < 60; step++) at = Y[i] + (step % 2 === 1 ? 1 : -1) * ((step + 1) >> 1) * 4
    placed[i] = at
    done.push(i)
  }
}
