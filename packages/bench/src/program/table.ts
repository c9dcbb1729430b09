import { styleText } from 'node:util'
import stringWidth from 'string-width'
import wrapAnsi from 'wrap-ansi'

/** A column: its title, and the decimals that its numbers are shown with (default 0). */
export interface Column {
  readonly title: string
  readonly decimals?: number
}

/** Numbers are grouped by thousands and set to the right, together with everything else in their column. */
export type Cell = string | number

/** A stream that a program prints to; `process.stdout` is one. */
export type TextStream = NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number }

const GAP = '  '
const LEAST_COLUMNS = 40
const PIPE_COLUMNS = 80

/** Columns for running text: those of a terminal, and 80 in a pipe. */
export function textColumns(stream: TextStream = process.stdout): number {
  return stream.isTTY ? Math.max(LEAST_COLUMNS, stream.columns ?? PIPE_COLUMNS) : PIPE_COLUMNS
}

/**
 * Lays out a plain-text table: a line of titles, a line for each row, no trailing blanks, a newline at the end.
 * On a terminal that is too narrow the columns are spread over several tables below each other, each of which repeats
 * the first column. In a pipe a table is as wide as its cells need. Titles are bold where the stream shows colours.
 * Control characters are replaced, since a label that was read from a disk may hold any.
 *
 * @param rows cells in the order of the columns; missing ones are blank
 */
export function formatTable(
  columns: readonly Column[],
  rows: readonly (readonly Cell[])[],
  stream: TextStream = process.stdout,
): string {
  const laidOut = columns.map(({ title, decimals = 0 }, index) => {
    const format = new Intl.NumberFormat('en', { minimumFractionDigits: decimals, maximumFractionDigits: decimals })
    const cells = rows.map((row) => row[index] ?? '')
    const texts = [title, ...cells.map((cell) => (typeof cell === 'number' ? format.format(cell) : printable(cell)))]
    return align(texts, cells.some((cell) => typeof cell === 'number') ? 'right' : 'left')
  })
  const room = stream.isTTY ? textColumns(stream) : Infinity
  return spread(laidOut, room)
    .map((part) => {
      const [titles, ...lines] = Array.from({ length: rows.length + 1 }, (_, line) =>
        part
          .map((texts) => texts[line])
          .join(GAP)
          .trimEnd(),
      )
      return [styleText('bold', titles, { stream }), ...lines, ''].join('\n')
    })
    .join('\n')
}

/**
 * Breaks a text into lines, between words and never within one.
 *
 * @param first stands before the first line
 * @param indent stands before the others
 */
export function wrap(text: string, columns: number, first = '', indent: string = first): string {
  const room = Math.max(1, columns - Math.max(stringWidth(first), stringWidth(indent)))
  const lines = wrapAnsi(text, room, { hard: false }).split('\n')
  return `${lines.map((line, i) => `${i === 0 ? first : indent}${line}`.trimEnd()).join('\n')}\n`
}

/** A text without characters that would control the terminal. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, '\ufffd')
}

// Groups of columns that fit, each with the first column.
function spread(laidOut: readonly string[][], room: number): string[][][] {
  const [key, ...others] = laidOut
  if (key === undefined) return []
  const width = (texts: readonly string[]): number => GAP.length + stringWidth(texts[0])
  const parts: string[][][] = [[key]]
  let used = stringWidth(key[0])
  for (const texts of others) {
    const part = parts[parts.length - 1]
    if (used + width(texts) > room && part.length > 1) {
      parts.push([key, texts])
      used = stringWidth(key[0]) + width(texts)
    } else {
      part.push(texts)
      used += width(texts)
    }
  }
  return parts
}

function align(texts: readonly string[], side: 'left' | 'right'): string[] {
  const width = Math.max(...texts.map((text) => stringWidth(text)))
  return texts.map((text) => {
    const padding = ' '.repeat(width - stringWidth(text))
    return side === 'right' ? padding + text : text + padding
  })
}
