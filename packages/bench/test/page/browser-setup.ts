import { type BenchReport, renderPage, renderPictures } from '@guestdma/bench'
import type { TestProject } from 'vitest/node'
import { reportOf, row } from '../support/cost-rows.ts'
import { inventedReport } from './invented.ts'
import type {} from './provided.ts'

/** Would call the page that opens it, were it read as HTML. */
const HTML = '</script><img src="x" onerror="parent.harmed = true"><b>&amp;'

export async function setup(project: TestProject): Promise<void> {
  const whole = inventedReport()
  const hostile = hostileReport(whole)
  const partial: BenchReport = {
    ...reportOf([]),
    complete: false,
    failures: [{ subject: row(), message: 'the process ended with SIGKILL' }],
  }
  project.provide('reportPages', {
    whole: await renderPage(whole),
    bare: await renderPage(reportOf([row({ counters: {} }), row({ backend: 'own', counters: {} })])),
    partial: await renderPage(partial),
    hostile: await renderPage(hostile),
    pictures: [...(await renderPictures(whole)).values(), ...(await renderPictures(hostile)).values()],
  })
}

function hostileReport(report: BenchReport): BenchReport {
  const renamed = <T extends { readonly backend: string }>(rows: readonly T[] = []): T[] =>
    rows.map((one) => (one.backend === 'shared-pages' ? { ...one, backend: HTML } : one))
  return {
    ...report,
    complete: false,
    environment: { ...report.environment, cpu: HTML },
    results: renamed(report.results),
    exposure: renamed(report.exposure),
    failures: [{ subject: row({ mode: HTML }), message: HTML }],
  }
}
