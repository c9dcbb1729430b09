import type { Command } from './command.ts'
import { compare } from './compare.ts'
import { gate } from './gate.ts'
import { merge } from './merge.ts'
import { model } from './model.ts'
import { report } from './report.ts'

/** What can be done with reports that were measured before. */
export const REPORT_COMMANDS: readonly Command[] = [report, compare, gate, merge, model]
