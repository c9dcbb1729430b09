/** What came of putting figures into a text. */
export interface Quoted {
  readonly text: string
  /** The names of the figures that the text quotes. */
  readonly names: readonly string[]
}

/**
 * Puts figures between their markers. Lines stand between `<!-- figures: name -->` and `<!-- /figures -->`, a part of a
 * sentence between `<!-- figure: name -->` and `<!-- /figure -->`.
 *
 * @param file the name of the text, for messages
 * @throws Error for a name that is unknown, for a marker that is not closed, and for a line that begins with
 * the marker of a part of a sentence
 */
export function quoteFigures(text: string, figures: Readonly<Record<string, string>>, file: string): Quoted {
  if (/^\s*<!-- figure: /m.test(text)) {
    throw new Error(`${file}: a line begins with the marker of a figure, so Markdown would take it for HTML`)
  }
  const names: string[] = []
  const quoted = text.replace(
    /<!-- (figures?): ([\w-]+) -->(?:(?!<!--)[\s\S])*<!-- \/\1 -->/g,
    (_, kind: string, name: string) => {
      if (!Object.hasOwn(figures, name)) throw new Error(`${file}: there is no figure '${name}'`)
      names.push(name)
      const content = kind === 'figures' ? `\n${figures[name]}\n` : figures[name]
      return `<!-- ${kind}: ${name} -->${content}<!-- /${kind} -->`
    },
  )
  const markers = text.match(/<!-- \/?figures?\b/g)?.length ?? 0
  if (markers !== 2 * names.length) throw new Error(`${file}: a marker of a figure is not closed, or not opened`)
  return { text: quoted, names }
}
