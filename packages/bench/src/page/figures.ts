import * as Plot from '@observablehq/plot'
import { element, table } from './elements.ts'
import { colours, NARROW, type Picture, symbols } from './picture.ts'

/** A picture in the page, with its title, its description and its data. */
export interface Figure {
  readonly node: HTMLElement
  /** Shows a picture in place of the one before. */
  show(picture: Picture): void
  /** Draws it anew, for another width. */
  redraw(): void
}

/** The least number of pixels that a picture is drawn for. */
const LEAST = 280

export function figureOf(document: Document): Figure {
  const title = element(document, 'h3')
  const drawing = element(document, 'div', { class: 'drawing' })
  const description = element(document, 'figcaption')
  const data = element(document, 'details', { class: 'data' }, element(document, 'summary', {}, 'The data as a table'))
  const node = element(document, 'figure', {}, title, drawing, description, data)
  let shown: Picture | undefined
  let drawnFor = 0
  // Most tables are never opened, and some are long.
  const fillTable = (): void => {
    data.querySelector('.scroll')?.remove()
    if (data.open && shown !== undefined) data.append(table(document, shown.title, shown.columns, shown.rows))
  }
  const draw = (): void => {
    if (shown === undefined) return
    drawnFor = drawing.clientWidth
    const width = Math.max(LEAST, drawnFor)
    const { schemes, named = false } = shown
    const legend = width < NARROW && schemes.length > 0 && !named ? [legendOf(document, schemes)] : []
    drawing.replaceChildren(...legend, shown.draw({ document, width }))
  }
  data.addEventListener('toggle', fillTable)
  return {
    node,
    show(picture) {
      shown = picture
      node.id = `picture-${picture.name}`
      title.textContent = picture.title
      description.textContent = picture.description
      draw()
      fillTable()
    },
    redraw() {
      if (drawing.clientWidth !== drawnFor) draw()
    },
  }
}

/** Names of schemes beside their symbols. */
function legendOf(document: Document, schemes: readonly string[]): Element {
  const legend = Plot.legend({
    document,
    className: 'legend',
    color: colours(schemes),
    symbol: symbols(schemes),
    fill: 'color',
  } as unknown as Plot.LegendOptions)
  legend.setAttribute('aria-hidden', 'true')
  return legend
}
