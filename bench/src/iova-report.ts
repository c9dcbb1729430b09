import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { formatTable, textColumns, wrap } from '@guestdma/bench/program'
import type { IovaFigure } from './iova.ts'

/** What the program prints in all. */
const FIGURES = 12

/**
 * Runs `iova.ts` on the built packages, in a process that loads no TypeScript. `onFigures` is called with all figures so
 * far, and how much of the work that is. `failure` says how the process ended where figures are missing.
 */
export async function measureIova(
  signal: AbortSignal,
  onFigures: (sofar: readonly IovaFigure[], fraction: number) => void,
): Promise<{ figures: readonly IovaFigure[]; failure: string | undefined }> {
  const program = fileURLToPath(new URL('../dist/iova.js', import.meta.url))
  const child = spawn(process.execPath, ['--conditions=guestdma-built', program], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  signal.addEventListener('abort', () => void child.kill('SIGKILL'))
  const ended = new Promise<string>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, killedBy) => resolve(killedBy ?? `code ${code}`))
  })
  const figures: IovaFigure[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    figures.push(JSON.parse(line) as IovaFigure)
    onFigures(figures, figures.length / FIGURES)
  }
  const how = await ended
  return { figures, failure: how === 'code 0' ? undefined : `the worker ended with ${how}` }
}

/** One line for each domain and victim: few live mappings, many, and their ratio. */
export function formatIova(figures: readonly IovaFigure[]): string {
  const columns = textColumns()
  const rows = (['table', 'none', 'virtio-iommu'] as const).flatMap((domain) =>
    (['hot', 'random'] as const).map((victim) => {
      const of = figures.filter((figure) => figure.domain === domain && figure.victim === victim)
      const few = of.find(({ live }) => live === 1e3)?.ns
      const many = of.find(({ live }) => live === 1e6)?.ns
      const ratio = few === undefined || many === undefined ? '' : many / few
      return [domain, victim, few ?? '', many ?? '', ratio]
    }),
  )
  const titles = [
    { title: 'IOMMU' },
    { title: 'victim' },
    { title: '10^3 live', decimals: 1 },
    { title: '10^6 live', decimals: 1 },
    { title: 'ratio', decimals: 2 },
  ]
  const head = 'ns for one map and one unmap in batches of 32, commits included.'
  const legend = "`table` touches a caller's own row and nothing else; `none` is an IOMMU that does nothing, at once."
  return `${wrap(head, columns)}\n${formatTable(titles, rows)}\n${wrap(legend, columns)}`
}
