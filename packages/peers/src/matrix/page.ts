import { formatTable, type TextStream } from '@guestdma/bench/program'
import type { CaseResult, PeersReport } from './result.ts'

/** How many passed, failed and were skipped. */
export function countsOf(results: readonly CaseResult[]): Record<CaseResult['outcome'], number> {
  const counts = { pass: 0, fail: 0, skip: 0 }
  for (const { outcome } of results) counts[outcome]++
  return counts
}

/** The matrix for a terminal. */
export function formatMatrix(results: readonly CaseResult[], stream: TextStream = process.stdout): string {
  const columns = ['peer', 'version', 'role', 'driver', 'ring', 'backend', 'transport', 'case', 'outcome'].map(
    (title) => ({ title }),
  )
  const rows = results.map((one) => [
    one.peer,
    one.version,
    one.role,
    one.driver,
    one.ring,
    one.backend,
    one.transport,
    one.what,
    one.outcome,
  ])
  return formatTable(columns, rows, stream)
}

/** The matrix as a page of the documentation. */
export function matrixPage({ results }: PeersReport): string {
  const { pass, fail, skip } = countsOf(results)
  const peers = [...new Set(results.map(({ peer, version }) => (version === '' ? peer : `${peer} ${version}`)))]
  const rows = results.map((one) =>
    row([
      one.peer,
      one.role,
      one.driver,
      one.ring,
      one.backend,
      one.transport,
      one.what,
      one.outcome === 'pass' ? 'pass' : `${one.outcome}: ${one.reason}`,
    ]),
  )
  return [
    `${pass} cases passed, ${fail} failed and ${skip} were skipped, with ${peers.join(', ')}.`,
    '',
    row(['peer', 'role', 'driver', 'ring', 'backend', 'transport', 'case', 'outcome']),
    row(Array.from({ length: 8 }, () => '---')),
    ...rows,
    '',
  ].join('\n')
}

/** A row of a table in Markdown. */
export function row(cells: readonly string[]): string {
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|').replaceAll('\n', ' ')).join(' | ')} |`
}
