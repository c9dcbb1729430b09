import { readFileSync } from 'node:fs'
import { type CaseLabels, caseId } from '@guestdma/peers'
import { expect, test } from 'vitest'
import { cases } from '../src/cases/index.ts'

test('the matrix in the documentation has a row for each case, and none that failed', () => {
  const page = readFileSync(new URL('../../../docs/peers-matrix.md', import.meta.url), 'utf8')
  const rows = page
    .split('\n')
    .filter((line) => /^\| (?!peer|---)/.test(line))
    .map((line) => line.split('|').map((cell) => cell.trim()))
  const labels = rows.map(([, peer, role, driver, ring, backend, transport, what]) =>
    caseId({ peer, role, driver, ring, backend, transport, what } as CaseLabels),
  )
  expect(labels).toEqual(cases.map(caseId))
  expect(rows.filter((row) => row[8] !== 'pass')).toEqual([])
})
