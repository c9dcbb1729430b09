import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { BenchReport } from '../contract/result.ts'
import { checkDirectory, checkOutputs, type NamedFile, writeWhole } from '../program/outputs.ts'

/** Options of a command that writes a report. */
export const OUTPUT_OPTIONS = {
  json: { type: 'string' },
  csv: { type: 'string' },
  html: { type: 'string' },
  svg: { type: 'string' },
} as const

/** Where a command was asked to write a report. */
export interface Outputs {
  readonly json?: string | undefined
  readonly csv?: string | undefined
  readonly html?: string | undefined
  readonly svg?: string | undefined
}

/** Checks, before any work is done, that all of it can be written. Throws UsageError as `checkOutputs` does. */
export function checkReportOutputs({ json, csv, html, svg }: Outputs, inputs: readonly NamedFile[]): void {
  const files = Object.entries({ json, csv, html }).map(([name, path]) => ({ option: `--${name}`, path }))
  checkOutputs(files, inputs)
  if (svg !== undefined) checkDirectory('--svg', svg, (path) => void mkdirSync(path, { recursive: true }))
}

/** Writes a report as a table, as a page and as pictures. What draws them is loaded only where it is asked for. */
export async function writeViews({ csv, html, svg }: Outputs, report: BenchReport): Promise<void> {
  if (csv !== undefined) writeWhole(csv, (await import('../page/csv.ts')).renderCsv(report))
  if (html !== undefined) writeWhole(html, await (await import('../page/page.ts')).renderPage(report))
  if (svg !== undefined)
    for (const [name, picture] of await (await import('../page/pictures.ts')).renderPictures(report))
      writeWhole(join(svg, `${name}.svg`), picture)
}
