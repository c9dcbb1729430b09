import { CAUSE_NAMES, CAUSES } from '../model/causes.ts'
import { PARAMETER_NAMES, PARAMETERS, PROFILE_NAMES, PROFILES, valueIn } from '../model/parameters.ts'
import { markdownTable } from '../reports/markdown.ts'

/** The parameters with their values in each profile, as a Markdown table, and then the source of each value. */
export function parameterTable(): string {
  const sources = PARAMETER_NAMES.flatMap((name) => [
    `- \`${name}\`: ${PARAMETERS[name].source}`,
    ...PROFILE_NAMES.filter((profile) => PROFILES[profile].settings[name] !== undefined).map(
      (profile) => `  - in \`${profile}\`: ${valueIn(profile, name).source}`,
    ),
  ])
  const rows = PARAMETER_NAMES.map((name) => {
    const values = PROFILE_NAMES.map((profile) => String(valueIn(profile, name).value))
    return [`\`${name}\``, PARAMETERS[name].unit, PARAMETERS[name].meaning, ...values]
  })
  const titles = ['parameter', 'unit', 'price or size, when', ...PROFILE_NAMES.map((profile) => `\`${profile}\``)]
  return [markdownTable(titles, rows), '', ...sources].join('\n')
}

/** The profiles and what they stand for, as a Markdown list. */
export function profileList(): string {
  return PROFILE_NAMES.map((profile) => `- \`${profile}\`: ${PROFILES[profile].meaning}`).join('\n')
}

/** The causes with the counters and parameters that each is computed from, as a Markdown table. */
export function causeTable(): string {
  const code = (names: readonly string[]): string => names.map((name) => `\`${name}\``).join(', ')
  return markdownTable(
    ['column', 'whose time', 'counters', 'parameters'],
    CAUSE_NAMES.map((name) => {
      const { title, who, counters, parameters } = CAUSES[name]
      return [title, who, code(counters), code(parameters)]
    }),
  )
}
