import { styleText } from 'node:util'

/** A column: its title, and the decimals that its numbers are shown with (default 0). */
export interface Column {
  readonly title: string
  readonly decimals?: number
}

/** Numbers are grouped by thousands and set to the right, together with everything else in their column. */
export type Cell = string | number

/** What tells whether colour is wanted; `process.stdout` is one. */
export type TableStream = NodeJS.WritableStream & { readonly isTTY?: boolean }

const GAP = '  '

/**
 * Lays out a plain-text table: one line of titles, one line per row, no trailing blanks, a newline at the end.
 * Titles are bold where `stream` is a terminal and NO_COLOR is not set. Lines are as long as their cells need, whatever
 * the terminal's width; control characters (a label read from a disk may hold any) are replaced.
 *
 * @param rows cells in the order of the columns; missing ones are blank
 */
export function formatTable(
  columns: readonly Column[],
  rows: readonly (readonly Cell[])[],
  stream: TableStream = process.stdout,
): string {
  const laidOut = columns.map(({ title, decimals = 0 }, index) => {
    const format = new Intl.NumberFormat('en', { minimumFractionDigits: decimals, maximumFractionDigits: decimals })
    const cells = rows.map((row) => row[index] ?? '')
    const texts = [title, ...cells.map((cell) => (typeof cell === 'number' ? format.format(cell) : printable(cell)))]
    return align(texts, cells.some((cell) => typeof cell === 'number') ? 'right' : 'left')
  })
  const [titles, ...lines] = Array.from({ length: rows.length + 1 }, (_, line) =>
    laidOut
      .map((texts) => texts[line])
      .join(GAP)
      .trimEnd(),
  )
  return [styleText('bold', titles, { stream }), ...lines, ''].join('\n')
}

function align(texts: readonly string[], side: 'left' | 'right'): string[] {
  const width = Math.max(...texts.map(displayWidth))
  return texts.map((text) => {
    const padding = ' '.repeat(width - displayWidth(text))
    return side === 'right' ? padding + text : text + padding
  })
}

/** Terminal cells that a text takes: an accent shares the cell of its letter, an ideograph or emoji takes two. */
function displayWidth(text: string): number {
  let width = 0
  for (const { segment } of graphemes.segment(text)) width += WIDE.test(segment) ? 2 : 1
  return width
}

function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, '\ufffd')
}

const graphemes = new Intl.Segmenter()
const WIDE =
  /[\p{Emoji_Presentation}\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\uff01-\uff60]/u
