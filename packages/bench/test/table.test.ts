import { PassThrough } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { formatTable, textColumns, wrap } from '../src/program/table.ts'

const terminal = (columns: number): PassThrough & { isTTY: boolean; columns: number } =>
  Object.assign(new PassThrough(), { isTTY: true, columns, getColorDepth: () => 1 })
const pipe = Object.assign(new PassThrough(), { isTTY: false })

describe('a table on a terminal that is too narrow', () => {
  const columns = ['scheme', 'first column', 'second column', 'third column'].map((title) => ({ title }))
  const rows = [['direct', 1, 2, 3]]

  test('is spread over several, each with the first column', () => {
    expect(formatTable(columns, rows, terminal(40))).toBe(
      [
        'scheme  first column  second column',
        'direct             1              2',
        '',
        'scheme  third column',
        'direct             3',
        '',
      ].join('\n'),
    )
  })

  test('is whole where there is room, and in a pipe', () => {
    for (const stream of [terminal(60), pipe]) expect(formatTable(columns, rows, stream).split('\n').length).toBe(3)
  })
})

describe('running text', () => {
  test('has the columns of the terminal, and 80 in a pipe', () => {
    expect([textColumns(terminal(60)), textColumns(terminal(120)), textColumns(pipe)]).toEqual([60, 120, 80])
  })

  test('is broken between words and never within one', () => {
    expect(wrap('one two three', 9, '- ', '  ')).toBe('- one two\n  three\n')
    expect(wrap('unbreakable', 4)).toBe('unbreakable\n')
  })
})
