import type { BenchReport } from '../contract/result.ts'

/**
 * The pictures of the report page as files: SVG texts by name, such as `headline`, `cost-by-size` and `crossover`. They
 * are on white, so that they can be read on a page of any colour. What a report has no data for is absent.
 */
export async function renderPictures(report: BenchReport): Promise<ReadonlyMap<string, string>> {
  // Whoever only measures does not load what draws.
  const { drawFiles } = await import('./picture-files.ts')
  return drawFiles(report)
}
