/**
 * What the command-line programs of this project have in common: checked outputs, progress, early ends, tables.
 *
 * @packageDocumentation
 */
export { readCommandLine } from './command-line.ts'
export { EXIT_USAGE, runProgram, UsageError } from './errors.ts'
export {
  checkDirectory,
  checkOutputs,
  type NamedFile,
  type OptionalFile,
  sameFile,
  writeJson,
  writeWhole,
} from './outputs.ts'
export { Progress } from './progress.ts'
export { endWithParent, listenForStop, type Stop, turn } from './stop.ts'
export { type Cell, type Column, formatTable, printable, type TextStream, textColumns, wrap } from './table.ts'
