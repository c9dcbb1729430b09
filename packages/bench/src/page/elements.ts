import { figure } from './numbers.ts'
import type { Cell } from './picture.ts'

/** Makes an element. Texts become text nodes, so nothing in a report is read as HTML. */
export function element<Tag extends keyof HTMLElementTagNameMap>(
  document: Document,
  tag: Tag,
  attributes: Readonly<Record<string, string>> = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[Tag] {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children)
  return made
}

export function paragraph(document: Document, text: string): HTMLElement {
  return element(document, 'p', {}, text)
}

/** What stands in place of a picture that there is no data for. */
export function absent(document: Document, text: string): HTMLElement {
  return element(document, 'p', { class: 'absent' }, text)
}

/** A part of the page that its contents list. */
export function section(document: Document, id: string, title: string, ...children: readonly Node[]): HTMLElement {
  const heading = element(document, 'h2', { id: `${id}-title` }, title)
  return element(document, 'section', { id, 'aria-labelledby': `${id}-title` }, heading, ...children)
}

/** A choice among texts, with its label. Where there is nothing to choose only the text is there. */
export function choice(
  document: Document,
  label: string,
  names: readonly string[],
  onChange: (index: number) => void,
): HTMLElement {
  if (names.length === 1) return element(document, 'p', { class: 'choice' }, `${label}: ${names[0]}`)
  const select = element(document, 'select')
  for (const [i, name] of names.entries()) select.append(element(document, 'option', { value: String(i) }, name))
  select.addEventListener('change', () => onChange(select.selectedIndex))
  return element(document, 'label', { class: 'choice' }, `${label} `, select)
}

/** A table that can be scrolled by keyboard, and sorted by each of its columns. */
export function table(
  document: Document,
  caption: string,
  columns: readonly string[],
  rows: readonly (readonly Cell[])[],
): HTMLElement {
  const numeric = columns.map((_, i) => rows.some((row) => typeof row[i] === 'number'))
  const body = element(document, 'tbody')
  const heads = columns.map((column, i) => {
    const button = element(document, 'button', { type: 'button' }, column)
    const head = element(document, 'th', { scope: 'col', ...(numeric[i] ? { class: 'number' } : {}) }, button)
    button.addEventListener('click', () => {
      const up = head.getAttribute('aria-sort') !== 'ascending'
      for (const other of heads) other.removeAttribute('aria-sort')
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending')
      fill([...rows].sort((a, b) => (up ? 1 : -1) * compare(a[i], b[i])))
    })
    return head
  })
  const fill = (sorted: readonly (readonly Cell[])[]): void => {
    body.replaceChildren(
      ...sorted.map((row) =>
        element(
          document,
          'tr',
          {},
          ...row.map((cell, i) => element(document, 'td', numeric[i] ? { class: 'number' } : {}, textOf(cell))),
        ),
      ),
    )
  }
  fill(rows)
  const head = element(document, 'thead', {}, element(document, 'tr', {}, ...heads))
  const made = element(document, 'table', {}, element(document, 'caption', {}, caption), head, body)
  return element(document, 'div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption }, made)
}

function textOf(cell: Cell): string {
  if (cell === null) return ''
  return typeof cell === 'number' ? figure(cell) : cell
}

// Numbers before texts, and what is not there last.
function compare(a: Cell, b: Cell): number {
  if (typeof a === 'number' && typeof b === 'number') return a - b
  const rank = (cell: Cell): number => (cell === null ? 2 : typeof cell === 'number' ? 0 : 1)
  return rank(a) - rank(b) || String(a).localeCompare(String(b), 'en')
}
