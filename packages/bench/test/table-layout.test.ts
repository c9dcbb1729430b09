import { PassThrough } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { formatTable } from '../src/program/table.ts'

const pipe = Object.assign(new PassThrough(), { isTTY: false })
/** `depth` is in bits; a terminal answers 1 where NO_COLOR is set. */
const terminal = (depth: number): typeof pipe =>
  Object.assign(new PassThrough(), { isTTY: true, getColorDepth: () => depth })

// Whoever runs the tests may have set it.
beforeEach(() => void vi.stubEnv('FORCE_COLOR', undefined))
afterEach(() => vi.unstubAllEnvs())

describe('table: layout', () => {
  test('text goes to the left, numbers and their title to the right, without trailing blanks', () => {
    const table = formatTable(
      [{ title: 'scheme' }, { title: 'frames' }, { title: 'ns', decimals: 1 }, { title: 'note' }],
      [
        ['direct', 178, 21.04, ''],
        ['virtio-iommu', 1_234_567, 1054.96, 'strict'],
      ],
      pipe,
    )
    expect(table).toBe(
      [
        'scheme           frames       ns  note',
        'direct              178     21.0',
        'virtio-iommu  1,234,567  1,055.0  strict',
        '',
      ].join('\n'),
    )
  })

  test('a text in a column of numbers goes to the right as well', () => {
    expect(formatTable([{ title: 'n' }], [[1000], ['–']], pipe)).toBe('    n\n1,000\n    –\n')
  })

  test('no rows leave the titles, missing cells are blank', () => {
    const columns = [{ title: 'a' }, { title: 'b' }]
    expect(formatTable(columns, [], pipe)).toBe('a  b\n')
    expect(formatTable(columns, [['x']], pipe)).toBe('a  b\nx\n')
  })

  test('lines in a pipe are not cut or wrapped, however long', () => {
    const long = 'x'.repeat(500)
    expect(formatTable([{ title: 'a' }, { title: 'b' }], [[long, 'end']], pipe)).toContain(`${long}  end\n`)
  })

  test('wide letters count double, accents not at all', () => {
    const table = formatTable(
      [{ title: 'a' }, { title: 'b' }],
      [
        ['漢字', 'x'],
        ['e\u0301', 'x'],
        ['🚀', 'x'],
        ['abcd', 'x'],
      ],
      pipe,
    )
    expect(table).toBe('a     b\n漢字  x\ne\u0301     x\n🚀    x\nabcd  x\n')
  })

  test('control characters do not reach the terminal', () => {
    const table = formatTable([{ title: 'label' }], [['\u001b[2Jgone\n']], pipe)
    expect(table).toBe('label\n\ufffd[2Jgone\ufffd\n')
  })
})

describe('table: colour', () => {
  const print = (stream: typeof pipe): string => formatTable([{ title: 'a' }, { title: 'b' }], [['x', 1]], stream)

  test('titles are bold on a terminal', () => {
    expect(print(terminal(8))).toBe('\u001b[1ma  b\u001b[22m\nx  1\n')
  })

  test('there is none in a pipe', () => {
    expect(print(pipe)).toBe('a  b\nx  1\n')
  })

  test('there is none on a terminal without colours, nor where NO_COLOR is set', () => {
    expect(print(terminal(1))).toBe('a  b\nx  1\n')
  })
})
