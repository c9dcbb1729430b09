import { endWithParent } from '@guestdma/bench/program'
import { type CaseModule, caseId, SkippedCase } from './matrix/case.ts'
import type { CaseMessage } from './matrix/runner.ts'

// The process of one case: `case-worker MODULE ID`.
endWithParent()

const tell = (message: CaseMessage): Promise<void> =>
  new Promise((resolve) => process.stdout.write(`${JSON.stringify(message)}\n`, () => resolve()))

const [module, id] = process.argv.slice(2)
const { cases } = (await import(module)) as CaseModule
const found = cases.find((one) => caseId(one) === id)
if (found === undefined) throw new Error(`the module has no case '${id}'`)
try {
  await found.run({
    saw: (what) => void tell({ saw: what }),
    figure: (name, value) => void tell({ figure: name, value }),
  })
  await tell({ outcome: 'pass', reason: '' })
} catch (error) {
  const outcome = error instanceof SkippedCase ? 'skip' : 'fail'
  if (process.env.DEBUG) process.stderr.write(`${(error as Error).stack}\n`)
  await tell({ outcome, reason: (error as Error).message })
}
// A peer that was not ended would keep this process, and the case would seem to hang.
process.exit()
