import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { IovaFigure } from './iova.ts'

/** Runs `iova.ts` on the built packages, in a process that loads no TypeScript. */
export async function measureIova(): Promise<readonly IovaFigure[]> {
  const program = fileURLToPath(new URL('../dist/iova.js', import.meta.url))
  const { stdout } = await promisify(execFile)(process.execPath, ['--conditions=guestdma-built', program])
  return JSON.parse(stdout) as IovaFigure[]
}

/** One line for each domain and victim: few live mappings, many, and their ratio. */
export function formatIova(figures: readonly IovaFigure[]): string {
  const lines = ['ns for one map and one unmap in batches of 32, commits included.', '']
  const row = (cells: readonly string[]): string =>
    cells.map((cell, i) => (i < 2 ? cell.padEnd(14) : cell.padStart(12))).join('')
  lines.push(row(['IOMMU', 'victim', '10^3 live', '10^6 live', 'ratio']))
  for (const domain of ['table', 'none', 'virtio-iommu'] as const)
    for (const victim of ['hot', 'random'] as const) {
      const of = figures.filter((figure) => figure.domain === domain && figure.victim === victim)
      const few = of.find(({ live }) => live === 1e3)?.ns ?? Number.NaN
      const many = of.find(({ live }) => live === 1e6)?.ns ?? Number.NaN
      lines.push(row([domain, victim, few.toFixed(1), many.toFixed(1), `${(many / few).toFixed(2)} x`]))
    }
  lines.push(
    '',
    "`table` touches a caller's own row and nothing else; `none` is an IOMMU that does nothing, at once.",
    '',
  )
  return lines.join('\n')
}
