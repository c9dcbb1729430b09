import type { ParseArgsConfig, parseArgs } from 'node:util'
import { readCommandLine } from '../program/command-line.ts'
import { UsageError } from '../program/errors.ts'

/** One command of a program that has several. */
export interface Command {
  readonly name: string
  /** What stands behind the name where it is used, such as `BEFORE.json AFTER.json [--json FILE]`. */
  readonly usage: string
  /** What it does, in a line or two. */
  readonly summary: string
  /** The lines of `--help` below usage and summary: its options. */
  readonly details: string
  /**
   * @param program the name of program and command, as messages begin
   * @returns the exit code
   */
  run(args: readonly string[], program: string): Promise<number> | number
}

/**
 * Runs the command that the first argument names, or the first one of the list where none is named.
 *
 * @throws UsageError
 */
export async function runCommand(
  program: string,
  commands: readonly Command[],
  args: readonly string[],
): Promise<number> {
  const named = commands.find(({ name }) => name === args[0])
  if (named === undefined && (args[0] === '--help' || args[0] === '-h')) {
    process.stdout.write(helpOfAll(program, commands))
    return 0
  }
  const command = named ?? commands[0]
  const rest = named === undefined ? args : args.slice(1)
  if (rest.includes('--help') || rest.includes('-h')) {
    process.stdout.write(helpOf(program, command))
    return 0
  }
  return command.run(rest, named === undefined ? program : `${program} ${command.name}`)
}

/** Reads the arguments of a command, which has exactly so many files. Throws UsageError `BENCH_USAGE`. */
export function readArguments<const Options extends NonNullable<ParseArgsConfig['options']>>(
  program: string,
  args: readonly string[],
  options: Options,
  files: { readonly least: number; readonly most: number; readonly what: string },
): ReturnType<typeof parseArgs<{ args: string[]; allowPositionals: true; options: Options }>> {
  const read = readCommandLine(program, 'BENCH_USAGE', { args: [...args], allowPositionals: true, options })
  const { length } = read.positionals as readonly string[]
  if (length >= files.least && length <= files.most) return read
  throw new UsageError('BENCH_USAGE', program, `${files.what}; ${length} given; see ${program} --help`)
}

const EXIT_CODES = `Exit code 0 if all is well, 1 if something failed, 2 if the command
line is wrong, 130 after Ctrl-C, 143 after SIGTERM.
`

function helpOf(program: string, { name, usage, summary, details }: Command): string {
  return `usage: ${program} ${name} ${usage}\n\n${summary}\n\n${details}\n${EXIT_CODES}`
}

function helpOfAll(program: string, commands: readonly Command[]): string {
  const width = Math.max(...commands.map(({ name }) => name.length)) + 2
  const lines = commands.map(({ name, summary }) => {
    const indent = `\n${' '.repeat(width + 2)}`
    return `  ${name.padEnd(width)}${summary.replaceAll('\n', indent)}\n`
  })
  return `usage: ${program} [COMMAND] [OPTIONS]\n\n${lines.join('')}
Without a command it does '${commands[0].name}'. '${program} COMMAND --help' has the options.
${EXIT_CODES}`
}
