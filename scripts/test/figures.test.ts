import { describe, expect, test } from 'vitest'
import { quoteFigures } from '../lib/figures.ts'

const figures = { size: '1,534', table: '| a |\n|---|' }

describe('figures in texts', () => {
  test('a part of a sentence and lines stand between their markers, and again after a second run', () => {
    const text =
      'It has <!-- figure: size -->12<!-- /figure --> bytes.\n<!-- figures: table -->\nold\n<!-- /figures -->\n'
    const once = quoteFigures(text, figures, 'x.md')
    expect(once.text).toBe(
      'It has <!-- figure: size -->1,534<!-- /figure --> bytes.\n<!-- figures: table -->\n| a |\n|---|\n<!-- /figures -->\n',
    )
    expect(once.names).toEqual(['size', 'table'])
    expect(quoteFigures(once.text, figures, 'x.md')).toEqual(once)
  })

  test.each([
    ['an unknown name', 'It is <!-- figure: sizes -->1<!-- /figure -->', "no figure 'sizes'"],
    ['a marker that is not closed', 'It is <!-- figure: size -->1', 'not closed'],
    ['a marker that is closed as the other kind', 'It is <!-- figure: size -->1<!-- /figures -->', 'not closed'],
    ['a line that begins with a marker', '<!-- figure: size -->1<!-- /figure -->', 'HTML'],
    ['a marker within another', 'It is <!-- figure: size --><!-- figure: size -->1<!-- /figure -->', 'not closed'],
  ])('%s is an error that names the text', (_, text, message) => {
    expect(() => quoteFigures(text, figures, 'x.md')).toThrow(/^x\.md: /)
    expect(() => quoteFigures(text, figures, 'x.md')).toThrow(message)
  })
})
