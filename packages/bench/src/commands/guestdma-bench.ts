import { runCommand } from './command.ts'
import { REPORT_COMMANDS } from './report-commands.ts'
import { runCases } from './run.ts'

// Run from the sources the worker is a source as well, and compiled it is compiled.
const suffix = import.meta.url.endsWith('.ts') ? 'ts' : 'js'

/**
 * The program `guestdma-bench`.
 *
 * @param args what would stand behind its name on a command line
 * @returns its exit code
 * @throws UsageError
 */
export function guestdmaBench(args: readonly string[]): Promise<number> {
  const host = { worker: new URL(`../scenario-worker.${suffix}`, import.meta.url), execArgv: process.execArgv }
  return runCommand('guestdma-bench', [runCases(host), ...REPORT_COMMANDS], args)
}
