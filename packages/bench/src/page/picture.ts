// Pictures are elements of a document: that of a page, or one under Node.
/// <reference lib="dom" />
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
  /** Names stand in the picture at any width, so that it needs no legend. */
  readonly named?: boolean
  draw(canvas: Canvas): SVGSVGElement
}

/** What a picture is drawn on. */
export interface Canvas {
  readonly document: Document
  /** Pixels. */
  readonly width: number
}

/** Below this many pixels names of schemes stand in a legend, and not beside points. */
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

/** Pixels that a panel takes at least where another one stands beside it. */
const PANEL = 420

/** Where the panels of a picture are. */
export interface Panels<T> {
  /** The channels that put a mark into the panel of its row. */
  readonly channel: { readonly fx: (row: T) => number; readonly fy: (row: T) => number }
  readonly options: Plot.PlotOptions
  /** The name of each panel, above its upper left corner. */
  readonly names: Plot.Markish
  /** Pixels of one panel. */
  readonly width: number
}

/**
 * Puts rows into panels, as many side by side as there is room for.
 *
 * @param each pixels that a panel is high
 * @param least pixels that it is wide at least where another one stands beside it
 */
export function panelsOf<T>(
  canvas: Canvas,
  rows: readonly T[],
  nameOf: (row: T) => string,
  each: number,
  { least = PANEL, marginLeft = 58 }: { readonly least?: number; readonly marginLeft?: number } = {},
): Panels<T> {
  const names = [...new Set(rows.map(nameOf))]
  const across = Math.max(1, Math.min(names.length, Math.floor(canvas.width / least)))
  const down = Math.ceil(names.length / across)
  const gap = names.some((name) => name !== '') ? 44 : 0
  const [marginTop, marginBottom] = [34, 42]
  const all = names.map((name, i) => ({ name, fx: i % across, fy: Math.floor(i / across) }))
  const place = (row: T): (typeof all)[number] => all[names.indexOf(nameOf(row))]
  return {
    channel: { fx: (row) => place(row).fx, fy: (row) => place(row).fy },
    options: {
      fx: { axis: null, padding: 0.06 },
      fy: { axis: null, paddingInner: gap / (each + gap), paddingOuter: 0 },
      height: down * (each + gap) - gap + marginTop + marginBottom,
      marginTop,
      marginBottom,
      marginLeft,
      marginRight: 12,
    },
    names: Plot.text(all, {
      text: 'name',
      fx: 'fx',
      fy: 'fy',
      frameAnchor: 'top-left',
      dy: -18,
      fontWeight: 600,
      fontSize: 13,
    }),
    width: (canvas.width - marginLeft) / across,
  }
}

/** Ticks at values, but for those whose texts would meet on a logarithmic scale of so many pixels. */
export function spaced(values: readonly number[], pixels: number): number[] {
  const [low, high] = [Math.min(...values), Math.max(...values)]
  const each = pixels / Math.log(high / low)
  const ticks: number[] = []
  for (const value of [...new Set(values)].sort((a, b) => b - a))
    if (ticks.length === 0 || Math.log(ticks[ticks.length - 1] / value) * each > 36) ticks.push(value)
  return ticks.reverse()
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
  const above = values.filter((value) => Number.isFinite(value) && value > 0)
  return above.length === 0 ? [1, 10] : [Math.min(...above) / 1.12, Math.max(...above) * 1.12]
}

/** Pixels between the middles of two names. */
const LINE = 13
/** Pixels of a letter, on average. */
const LETTER = 6.6

/** Names beside points. A name that would cover another one, or a point, stands higher or lower. */
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
    Plot.initializer(
      {
        x,
        y,
        text,
        ...channel,
        textAnchor: 'start',
        dx: 9,
        stroke: 'var(--plot-background)',
        strokeWidth: 3,
        fill: 'currentColor',
      },
      (data, facets, _, scales, { height, marginTop, marginBottom }) => {
        const all = data as T[]
        const X = all.map((row) => scales.x?.(x(row)) as number)
        const Y = all.map((row) => scales.y?.(y(row)) as number)
        const placed = [...Y]
        for (const facet of facets as number[][])
          spread(facet, X, Y, placed, (i) => text(all[i]), [marginTop, height - marginBottom])
        return { data, facets, channels: { y: { value: placed } } } as never
      },
    ),
  )
}

/** Rounds of pushing names apart; a picture with many of them takes some tens. */
const ROUNDS = 200

// Pushes names apart that cover each other, and away from points, but keeps their order from top to bottom.
function spread(
  facet: readonly number[],
  X: readonly number[],
  Y: readonly number[],
  placed: number[],
  textOf: (i: number) => string,
  [top, bottom]: readonly [number, number],
): void {
  const order = [...facet].sort((a, b) => Y[a] - Y[b] || a - b)
  const end = (i: number): number => X[i] + 12 + LETTER * textOf(i).length
  const beside = (a: number, b: number): boolean => (X[a] < X[b] ? end(a) > X[b] : end(b) > X[a])
  for (let round = 0, moved = true; moved && round < ROUNDS; round++) {
    moved = false
    for (const [i, upper] of order.entries()) {
      for (const lower of order.slice(i + 1)) {
        const missing = LINE - (placed[lower] - placed[upper])
        if (missing < 0.5 || !beside(upper, lower)) continue
        placed[upper] -= missing / 2
        placed[lower] += missing / 2
        moved = true
      }
      for (const point of order) {
        const away = placed[upper] - Y[point]
        if (X[point] <= X[upper] + 4 || X[point] >= end(upper) || Math.abs(away) >= LINE - 3) continue
        placed[upper] = Y[point] + (away > 0 || (away === 0 && Y[upper] > Y[point]) ? 1 : -1) * (LINE - 3)
        moved = true
      }
      placed[upper] = Math.min(bottom - 5, Math.max(top, placed[upper]))
    }
  }
}
