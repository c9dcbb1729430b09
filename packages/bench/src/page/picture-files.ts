import { DOMParser } from 'linkedom'
import type { BenchReport } from '../contract/result.ts'
import { allPictures } from './all-pictures.ts'
import type { Picture } from './picture.ts'

/** Pixels: what a README shows without making it smaller. */
const WIDTH = 880
const MARGIN = 16
const SVG = 'http://www.w3.org/2000/svg'

/** Draws every picture that a report has data for, each as the text of a file, by name. */
export function drawFiles(report: BenchReport): ReadonlyMap<string, string> {
  const document = new DOMParser().parseFromString('<svg/>', 'image/svg+xml') as unknown as Document
  return new Map(allPictures(report).map((picture) => [picture.name, toFile(document, picture, report)]))
}

function toFile(document: Document, picture: Picture, { environment, complete }: BenchReport): string {
  const drawn = picture.draw({ document, width: WIDTH })
  const height = Number(drawn.getAttribute('height'))
  drawn.setAttribute('x', String(MARGIN))
  drawn.setAttribute('y', '52')
  // The file says it itself, for the whole picture.
  for (const name of ['role', 'aria-label', 'aria-description']) drawn.removeAttribute(name)
  const { node, cpu, date } = environment
  const where = `Node ${node}, ${cpu}, ${date.slice(0, 10)}${complete ? '' : '; a PARTIAL report: cases are missing'}`
  const file = make(document, 'svg', {
    xmlns: SVG,
    viewBox: `0 0 ${WIDTH + 2 * MARGIN} ${height + 84}`,
    width: String(WIDTH + 2 * MARGIN),
    height: String(height + 84),
    'font-family': 'system-ui, sans-serif',
    'font-size': '12',
    role: 'img',
  })
  file.append(
    make(document, 'title', {}, picture.title),
    make(document, 'desc', {}, picture.description),
    make(document, 'rect', { width: '100%', height: '100%', fill: '#fff' }),
    make(document, 'text', { x: String(MARGIN), y: '30', 'font-size': '16', 'font-weight': '600' }, picture.title),
    drawn,
    make(document, 'text', { x: String(MARGIN), y: String(height + 72), fill: '#595959', 'font-size': '11' }, where),
  )
  return `${file.outerHTML}\n`
}

function make(document: Document, tag: string, attributes: Readonly<Record<string, string>>, text?: string): Element {
  const made = document.createElementNS(SVG, tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  if (text !== undefined) made.textContent = text
  return made
}
